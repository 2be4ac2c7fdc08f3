"""Conversion of bags to datasets: how many times faster than the recording, and whether memory grows with the bag's length.

    python benchmark/convert.py --json benchmark/results/convert.json

The bags have six 1600x900 JPEG cameras at 12 Hz, a LiDAR at 20 Hz with a time a point, transforms at 100 Hz and annotations at
2 Hz. Pictures are forty textures, as large as street scenes; what is in them changes nothing here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from results_file import write_result

from bevdistill_ros.geometry import make_transform, quaternion_from_rotation, rotation_z
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.data.bags import BagWriter
from bevdistill_ros.training.data.messages import CAMERA_INFO, COMPRESSED_IMAGE, DETECTIONS, POINT_CLOUD, TF, TruthBox
from bevdistill_ros.training.world.rig import CAMERAS, LIDAR_POSITION

START = 1_700_000_000_000_000_000
WIDTH, HEIGHT = 1600, 900
POINTS = 34_000
METER = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def texture(rng: np.random.Generator) -> bytes:
    """A JPEG of some 300 kB."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cells, strength in ((9, 90), (90, 40), (450, 10)):
        coarse = rng.normal(0, strength, (cells, cells * 16 // 9, 3)).astype(np.float32)
        image += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", (128 + image).clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])[
        1
    ].tobytes()


def write_bag(path: Path, seconds: float, lens: tuple[float, ...] = ()) -> int:
    """Returns the bytes of a mean picture. ``lens``: plumb_bob coefficients of the cameras."""
    rng = np.random.default_rng(0)
    pictures = [texture(rng) for _ in range(40)]
    cloud = rng.uniform(-50, 50, (POINTS, 6)).astype("<f4")
    cloud[:, 3:5] = rng.integers(0, 32, (POINTS, 2))
    cloud[:, 5] = np.linspace(-0.05, 0, POINTS)
    K = np.array([[1264.0, 0, 799.5], [0, 1264.0, 449.5], [0, 0, 1]])
    with BagWriter(path) as bag:
        make = bag.messages
        times = [(START, 0, "/tf_static", "")]
        times += [(START + round(k * 1e7), 1, "/tf", "") for k in range(int(seconds * 100) + 1)]
        for channel, (*_, exposed_us) in CAMERAS.items():
            frames = range(1, int(seconds * 12) + 1)
            times += [(START + round(k * 1e9 / 12) - exposed_us * 1000, 2, "camera", channel.lower()) for k in frames]
        times += [(START + round(k * 5e7), 3, "/lidar_top/points", "") for k in range(1, int(seconds * 20) + 1)]
        times += [(START + round(k * 5e8), 4, "/annotations", "") for k in range(1, int(seconds * 2) + 1)]
        bag.add_topic("/tf_static", TF, latched=True)
        for topic, kind in (("/tf", TF), ("/lidar_top/points", POINT_CLOUD), ("/annotations", DETECTIONS)):
            bag.add_topic(topic, kind)
        for channel in map(str.lower, CAMERAS):
            bag.add_topic(f"/{channel}/camera_info", CAMERA_INFO)
            bag.add_topic(f"/{channel}/image_raw/compressed", COMPRESSED_IMAGE)
        for number, (stamp, _, topic, frame) in enumerate(sorted(times)):
            if topic == "camera":
                info = make.camera_info(stamp, frame, K, WIDTH, HEIGHT)
                if lens:
                    info.d = np.array(lens)
                bag.write(f"/{frame}/camera_info", stamp, info)
                picture = make.compressed_image(stamp, frame, pictures[number % len(pictures)], "jpeg")
                bag.write(f"/{frame}/image_raw/compressed", stamp, picture)
            elif topic == "/lidar_top/points":
                fields = ("x", "y", "z", "intensity", "ring", "time")
                bag.write(topic, stamp, make.point_cloud(stamp, "lidar_top", fields, cloud.tobytes()))
            elif topic == "/annotations":
                places = np.column_stack([np.arange(40) * 2.0 - 40, np.arange(40) % 7 * 4.0, np.ones(40)])
                boxes = [TruthBox("car", str(i), p, np.eye(3), (4.5, 1.9, 1.6)) for i, p in enumerate(places)]
                bag.write(topic, stamp, make.truth(stamp, "base_link", boxes))
            elif topic == "/tf":
                t = (stamp - START) * 1e-9
                T = make_transform(rotation_z(0.1 * t), (80 * np.sin(0.1 * t), 80 * (1 - np.cos(0.1 * t)), 0))
                pose = (T[:3, 3], quaternion_from_rotation(T[:3, :3]))
                bag.write(topic, stamp, make.tf([make.transform(stamp, "map", "base_link", *pose)]))
            else:
                frames = {channel.lower(): position for channel, (_, position, _, _) in CAMERAS.items()}
                frames["lidar_top"] = LIDAR_POSITION
                upright = (-0.5, 0.5, -0.5, 0.5)
                still = [make.transform(stamp, "base_link", name, xyz, upright) for name, xyz in frames.items()]
                bag.write(topic, stamp, make.tf(still))
    return sum(map(len, pictures)) // len(pictures)


def convert(bag: Path, output: Path, rig: Path, sweeps: str, workers: int) -> dict:
    """Run the verb in a process of its own; returns its summary, its seconds in all and its peak memory."""
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "bevdistill_ros", "convert", "--bags", str(bag), "--rig", str(rig)]
    command += ["--output", str(output), "--sweeps", sweeps, "--workers", str(workers), "--json", str(report)]
    started = time.monotonic()
    # A small process in between: the kernel's figures are of all children so far.
    run = subprocess.run([sys.executable, "-c", METER, *command], check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    peak, cpu = run.stdout.splitlines()[-1].split()
    return {**json.loads(report.read_text()), "wall_s": seconds, "peak_mb": int(peak) / 1024, "cpu_s": float(cpu)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the short bag")
    parser.add_argument("--times", type=int, default=5, help="how many times longer the long one is")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the bags are written (default: the system's)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict = {"cameras": len(CAMERAS), "image": [WIDTH, HEIGHT], "workers": arguments.workers}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        # A scene's rows are in memory at a time: the short bag is one, the long one has several of that length.
        rig = Path(folder, "rig.yaml")
        world = share_directory() / "config" / "rigs" / "world.yaml"
        rig.write_text(f"{world.read_text()}keyframes: {{max_scene_s: {arguments.seconds}}}\n")
        for name, seconds, lens, sweeps in (
            ("short", arguments.seconds, (), "none"),
            ("all_sweeps", arguments.seconds, (), "all"),
            ("distorted", arguments.seconds, (-0.3, 0.1, 0.0, 0.0, 0.0), "none"),
            ("long", arguments.seconds * arguments.times, (), "none"),
        ):
            bag = Path(folder, "all_sweeps_bag" if name == "short" else f"{name}_bag")
            if not bag.exists():
                figures["jpeg_kb"] = round(write_bag(bag, seconds, lens) / 1000)
            result = convert(bag, Path(folder, name), rig, sweeps, arguments.workers)
            figures[f"seconds_{name}"] = seconds
            figures[f"keyframes_{name}"] = sum(row["keyframes"] for row in result["bags"])
            figures[f"dropped_{name}"] = sum(row["count"] for row in result["dropped"])
            figures[f"x_real_time_{name}"] = round(seconds / result["wall_s"], 2)
            figures[f"cpu_s_{name}"] = round(result["cpu_s"], 2)
            figures[f"peak_mb_{name}"] = round(result["peak_mb"], 1)
            spent = f"{result['wall_s']:.1f} s ({result['cpu_s']:.1f} s of processor), {result['peak_mb']:.0f} MB"
            print(f"{name}: {seconds:g} s in {spent}", flush=True)
    figures["x_real_time"] = figures["x_real_time_short"]
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
