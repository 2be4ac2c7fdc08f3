"""The synthetic world's own figures: what a keyframe costs, whether a seed gives the same drive again, whether LiDAR points of
objects lie in the objects' boxes, and whether nuscenes-devkit draws what the world writes.

    python benchmark/world.py --json benchmark/results/world.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from results_file import write_result

from bevdistill_ros.geometry import rotation_z, transform_points
from bevdistill_ros.training.world.drive import Keyframe
from bevdistill_ros.training.world.nuscenes_writer import VERSION
from bevdistill_ros.training.world.options import DriveOptions
from bevdistill_ros.training.world.rendering import choose_backend

SPLIT = "benchmark"


def generate(root: Path, drives: int, duration: float, workers: int) -> dict:
    """Run the verb; returns its JSON result."""
    report = root.with_suffix(".json")
    command = [
        sys.executable,
        "-m",
        "bevdistill_ros",
        "world",
        "--output",
        str(root),
        "--split",
        SPLIT,
        "--json",
        str(report),
    ]
    command += ["--drives", str(drives), "--duration", str(duration), "--workers", str(workers)]
    subprocess.run(command, check=True)
    return json.loads(report.read_text())


def compare(first: Path, second: Path) -> dict:
    """Whether two datasets have the same bytes of tables and LiDAR, and how far their pixels are apart."""
    tables = {p.name: p.read_bytes() for p in (first / VERSION).glob("*.json")}
    same_tables = tables == {p.name: p.read_bytes() for p in (second / VERSION).glob("*.json")}
    lidar = [p.relative_to(first) for p in sorted(first.glob("samples/LIDAR_TOP/*"))]
    images = [p.relative_to(first) for p in sorted(first.glob("samples/CAM_*/*"))]
    difference = max(
        int(cv2.absdiff(cv2.imread(str(first / path)), cv2.imread(str(second / path))).max()) for path in images
    )
    return {
        "tables_identical": same_tables,
        "lidar_identical": all((first / path).read_bytes() == (second / path).read_bytes() for path in lidar),
        "images_identical": all((first / path).read_bytes() == (second / path).read_bytes() for path in images),
        "pixel_max_abs_difference": difference,
        "images_compared": len(images),
    }


def lidar_in_box_share(drives: int, duration: float) -> dict:
    """Of the points whose rays hit an annotated object, the share inside that object's box at the keyframe, after the ego's
    motion is taken out. What is missing moved on during the turn or is off by the range's noise."""
    from bevdistill_ros.training.world.simulation import Simulation

    inside = total = 0
    per_object = []
    for index in range(drives):
        simulation = Simulation(f"share-{index}", (99, index), DriveOptions(duration, "none", 160))
        for keyframe in (r for r in simulation.readings() if isinstance(r, Keyframe)):
            sweep, actors = simulation.sweep(keyframe.stamp)
            points = transform_points(simulation.pose(keyframe.stamp) @ simulation.ego_T_lidar, sweep.deskewed)
            for annotation in keyframe.annotations:
                mine = points[actors == annotation.instance]
                if not len(mine):
                    continue
                local = (mine - annotation.center) @ rotation_z(annotation.yaw)
                hit = (np.abs(local) <= annotation.size / 2).all(1)
                inside, total = inside + int(hit.sum()), total + len(mine)
                per_object.append(hit.mean())
    return {
        "lidar_in_box_share": round(inside / total, 4),
        "lidar_in_box_share_median_object": round(float(np.median(per_object)), 4),
        "lidar_points_on_objects": total,
    }


def devkit_renders(root: Path, output: Path) -> int:
    """Draw a sample with nuscenes-devkit's own renderers; returns the number of pictures that are not blank."""
    import matplotlib

    matplotlib.use("Agg")
    from nuscenes.nuscenes import NuScenes

    nusc = NuScenes(VERSION, str(root), verbose=False)
    sample = nusc.sample[len(nusc.sample) // 2]
    output.mkdir(parents=True, exist_ok=True)
    pictures = []

    def draw(name: str, render: Callable[..., None], *args: object, **options: object) -> None:
        pictures.append(output / f"{name}.png")
        render(*args, out_path=str(pictures[-1]), **options)

    for channel, reading in sample["data"].items():
        # The map below a point cloud is left out: with NumPy 2, nuscenes-devkit 1.2 cannot crop it.
        draw(channel, nusc.render_sample_data, reading, underlay_map=False, verbose=False)
    draw("points_in_image", nusc.render_pointcloud_in_image, sample["token"], verbose=False)
    draw("map", nusc.render_egoposes_on_map, log_location=nusc.log[0]["location"])
    return sum(int(cv2.imread(str(picture)).std() > 5) for picture in pictures)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--drives", type=int, default=6)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each drive")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="keep nuscenes-devkit's pictures there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["MUJOCO_GL"] = choose_backend()
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        made = generate(first, arguments.drives, arguments.duration, arguments.workers)
        # The second time in one process, so that the order of work differs.
        generate(second, arguments.drives, arguments.duration, 1)
        same = compare(first, second)
        pictures = devkit_renders(first, arguments.pictures or Path(folder, "pictures"))
        size = sum(p.stat().st_size for p in first.rglob("*") if p.is_file())
    figures = {
        "s_per_keyframe": made["s_per_keyframe"],
        "workers": arguments.workers,
        "drives": arguments.drives,
        "keyframes": made["keyframes"],
        "annotations": made["annotations"],
        "mb_per_keyframe": round(size / made["keyframes"] / 1e6, 3),
        "reproducible": same["tables_identical"] and same["lidar_identical"] and same["pixel_max_abs_difference"] <= 1,
        **same,
        "devkit_pictures": pictures,
        **lidar_in_box_share(3, 4.0),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
