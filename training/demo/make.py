"""What the verb ``demo`` does, from the drive to the figures; ``command.py`` is its command line."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.detector import Detector, camera_config, choose_device
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import model_path
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.demo import figures
from bevdistill_ros.training.demo.drive import DemoDrive, make_drive
from bevdistill_ros.training.demo.pace import seconds_per_set, suitable_rate
from bevdistill_ros.training.demo.pictures import write_mosaic
from bevdistill_ros.training.demo.records import detected_set, set_status
from bevdistill_ros.training.demo.result_bag import write_result_bag
from bevdistill_ros.training.demo.run import DetectorSettings, detector_topics, play_to_detector
from bevdistill_ros.training.demo.summary import circumstances, summarise, table
from bevdistill_ros.training.world.generate import Simulate
from bevdistill_ros.training.world.nuscenes_writer import VERSION

PUBLISHED_SCORE = 0.1
"""The detector publishes boxes from this score on: average precision needs doubtful ones, too, but more of them would only
take time, as the benchmark passes over what is right less than one time in ten."""


def make_demo(arguments: argparse.Namespace, simulate: Simulate, backend: Callable[[], str]) -> int:
    """Everything; exit status. ``simulate`` and ``backend`` are as of ``generate.main``."""
    output = arguments.output
    clock = _Phases()
    model = model_path(arguments.model)
    checkpoint = load_checkpoint(model)
    camera_config(checkpoint, str(model))
    detector_topics()  # like a mistake in the model, the lack of ROS should not be told after minutes of drawing
    print(f"1/4 the drive (seed {arguments.seed}, never trained on), in {output}", flush=True)
    drive = make_drive(output, arguments.seed, arguments.duration, arguments.image_width, simulate, backend)
    samples = _open(drive, checkpoint)
    clock.end("drive")

    reference = samples.cameras[0].lower()
    frames, duration_s = _extent(drive.bag, f"/{reference}/image_raw/compressed")
    rate, note = arguments.rate, ""
    if rate is None:
        detector = Detector(checkpoint, choose_device(arguments.device), str(model))
        seconds = seconds_per_set(detector, samples)
        rate = suitable_rate(seconds, duration_s / frames)
        if rate != 1:
            note = f", at {rate:g} times its speed, since a set of images takes {1e3 * seconds:.0f} ms here"
    print(f"2/4 the drive is played to the detector, each in a process of its own{note}", flush=True)
    last_stamp = samples.geometry(len(samples) - 1).t_ref
    settings = DetectorSettings(model, arguments.device, *_rig(samples), score=min(PUBLISHED_SCORE, arguments.score))
    recording = play_to_detector(drive.bag, frames, last_stamp, duration_s, settings, rate, output / "logs")
    clock.add(recording.seconds)

    print("3/4 the bag of the result", flush=True)
    write_result_bag(drive.bag, recording.topics, output / "result_bag")
    clock.end("bag")

    print("4/4 pictures and figures", flush=True)
    sets = [detected_set(message, checkpoint.config.classes) for message in recording.objects]
    keyframes = figures.at_keyframes(samples, sets)
    for index in tqdm(range(len(keyframes)), unit="picture", disable=None):
        path = output / "pictures" / f"{drive.scene}_{index:03d}.png"
        write_mosaic(path, samples, index, keyframes[index], checkpoint.config.grid, arguments.score)
    result = figures.score(samples, keyframes)
    clock.end("figures")

    statuses = [set_status(message) for message in recording.statuses]
    summary = {
        **summarise(frames, sets, statuses, keyframes, result, arguments.score),
        **circumstances(arguments.model, model, output / "logs" / "player.json"),
        "published_score": settings.score,
        "drive": {
            "scene": drive.scene,
            "seed": arguments.seed,
            "duration_s": arguments.duration,
            "image_width": arguments.image_width,
        },
        "rate": rate,
        "seconds": clock.seconds(),
    }
    for path in [output / "summary.json", *([arguments.json] if arguments.json else [])]:
        write_atomically(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    print(f"\n{table(summary)}\n\n{_where(output)}")
    return 0


def _open(drive: DemoDrive, checkpoint: Checkpoint) -> NuScenesSamples:
    """The drive's keyframes, with all its cameras."""
    nusc = open_nuscenes(drive.dataset, VERSION)
    tokens = choose_samples(nusc, scenes=[drive.scene])
    return open_samples(nusc, tokens, checkpoint.config)


def _rig(samples: NuScenesSamples) -> tuple[list[str], list[float]]:
    """Names of the cameras in topics, and how long after the reference each exposes (ms): what a robot's owner would tell
    the detector. Left to learn that by itself, it would do without the drive's first frames."""
    stamps = {name: record["timestamp"] for name, record in samples.records(0).items()}
    reference = stamps[samples.cameras[0]]
    return [name.lower() for name in samples.cameras], [(stamps[name] - reference) / 1e3 for name in samples.cameras]


def _extent(bag: Path, topic: str) -> tuple[int, float]:
    """Number of messages on a topic of a bag, and seconds that the bag lasts."""
    from rosbags.rosbag2 import Reader

    with Reader(bag) as reader:
        frames = sum(connection.msgcount for connection in reader.connections if connection.topic == topic)
        return frames, reader.duration * 1e-9


def _where(output: Path) -> str:
    return (
        f"look at   {output}/pictures/    boxes found (coloured) and true (white), every half second\n"
        f"play      {output}/result_bag   the drive with what the detector published: ros2 bag play, or bevdistill play\n"
        f"read      {output}/summary.json (docs/demo.md explains it)"
    )


class _Phases:
    """Seconds that each phase takes."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """All since the last phase was this one."""
        now = time.monotonic()
        self._seconds[name] = now - self._last
        self._last = now

    def add(self, seconds: dict[str, float]) -> None:
        """Phases that were measured by others, up to now."""
        self._seconds.update(seconds)
        self._last = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """By phase, and all together."""
        total = time.monotonic() - self._began
        return {name: round(value, 2) for name, value in {**self._seconds, "total": total}.items()}
