"""The verb ``world``: drives through synthetic streets, as a dataset in the nuScenes schema, as bags, or as both."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bevdistill_ros.arguments import at_least_one, natural
from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.training.data.nuscenes_tables import DEVKIT_SPLITS
from bevdistill_ros.training.environment import environment
from bevdistill_ros.training.locks import locked
from bevdistill_ros.training.workers import Failure, Report, run_jobs
from bevdistill_ros.training.world.drive import Drive, Keyframe
from bevdistill_ros.training.world.nuscenes_writer import VERSION, DatasetWriter, merge, read_shard, shard_path
from bevdistill_ros.training.world.options import COLOURS, SWEEPS, WORLD, DriveOptions
from bevdistill_ros.training.world.rendering import choose_backend, thread_limits
from bevdistill_ros.training.world.taxonomy import CATEGORIES

Simulate = Callable[[str, tuple[int, ...], DriveOptions], Drive]

DESCRIPTION = f"""\
Drive a six-camera car with LiDAR through synthetic streets. Writes a dataset in the
nuScenes schema (version {VERSION}), rosbag2 bags, or both. The same command again keeps
what is finished and makes the rest; another --split, --seed or number of drives adds to
what is there."""

EXAMPLE = """
examples:
  bevdistill world --output world --split world_train --drives 40
  bevdistill world --output world --split world_val --drives 10 --bags bags     # into the same dataset, and as bags
"""


@dataclass(frozen=True)
class DriveJob:
    """One drive to make.

    Attributes:
        name: of the drive, unique within a dataset.
        split: the split it belongs to.
        seed: all that chance depends on.
        options: settings of the drive.
        dataset: root of the dataset to write it into, or None.
        bag: the bag to write, or None.
    """

    name: str
    split: str
    seed: tuple[int, ...]
    options: DriveOptions
    dataset: Path | None
    bag: Path | None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the drive's content, as it is kept beside it."""
        return {"world": WORLD, "seed": list(self.seed), **asdict(self.options)}


@dataclass(frozen=True)
class Started:
    """Report: the drive is set up and has so many keyframes."""

    keyframes: int


@dataclass(frozen=True)
class KeyframeDone:
    """Report: one more keyframe is written."""


@dataclass(frozen=True)
class Made:
    """Report: the drive is complete.

    Attributes:
        keyframes: how many it has.
        annotations: number by detection class, or by category where that is none.
        bytes: size of what was written, without the tables.
        seconds: what it took.
    """

    keyframes: int
    annotations: dict[str, int]
    bytes: int
    seconds: float


def mujoco_drive(name: str, seed: tuple[int, ...], options: DriveOptions) -> Drive:
    """The drive that MuJoCo draws."""
    from bevdistill_ros.training.world.simulation import Simulation  # imports MuJoCo, once MUJOCO_GL is set

    return Simulation(name, seed, options)


def main(
    argv: Sequence[str] | None = None,
    simulate: Simulate = mujoco_drive,
    backend: Callable[[], str] = choose_backend,
) -> int:
    """Run the verb; returns the exit status.

    Args:
        argv: the command line.
        simulate: makes a drive of its name, seed and options; called in another process, so it must be importable there.
        backend: finds the value for MUJOCO_GL.
    """
    arguments = _parser().parse_args(argv)
    jobs = plan(arguments)
    started = time.monotonic()
    run = _Run()
    with ExitStack() as stack:
        for folder in {path for path in (arguments.output, arguments.bags) if path}:
            stack.enter_context(locked(folder / ".world.lock", "another `world` command is writing there; wait for it"))
        todo = [job for job in map(missing_parts, jobs) if job.dataset or job.bag]
        run.kept = [job.name for job in jobs if job.name not in {job.name for job in todo}]
        try:
            if todo:
                workers = min(arguments.workers, len(todo))
                stack.enter_context(environment({"MUJOCO_GL": backend(), **thread_limits(workers)}))
                run.make(todo, simulate, workers)
        except KeyboardInterrupt:
            run.interrupted = True
        finally:
            if arguments.output:
                merge(arguments.output)
    summary = run.summary(time.monotonic() - started)
    if arguments.json:
        write_atomically(arguments.json, json.dumps({**_described(arguments), **summary}, indent=2) + "\n")
    _print_summary(arguments, summary, run.interrupted)
    return 1 if run.failed or run.interrupted else 0


def plan(arguments: argparse.Namespace) -> list[DriveJob]:
    """All drives that the command line asks for.

    Raises:
        UsageError: options that cannot be.
        UserError: what they need is not installed.
    """
    if not arguments.output and not arguments.bags:
        raise UsageError("nothing to write: name a dataset with --output, a folder for bags with --bags, or both")
    if arguments.bags and find_spec("rosbags") is None:
        raise UserError("--bags needs the Python module 'rosbags', which is not installed: pip install rosbags")
    if arguments.split in DEVKIT_SPLITS:
        raise UsageError(
            f"--split {arguments.split}: means scenes of nuScenes itself to nuscenes-devkit; "
            f"take another name, as world_{arguments.split}"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", arguments.split):
        raise UsageError(
            f"--split '{arguments.split}': must be of letters, digits, '_' and '-', as it is part of file names"
        )
    options = DriveOptions(arguments.duration, arguments.sweeps, arguments.image_width, arguments.colours)
    split_number = int.from_bytes(hashlib.blake2b(arguments.split.encode(), digest_size=4).digest(), "big")
    jobs = []
    for index in range(arguments.drives):
        name = f"{arguments.split}-{arguments.seed}-{index:04d}"
        jobs.append(
            DriveJob(
                name,
                arguments.split,
                (arguments.seed, split_number, index),
                options,
                arguments.output,
                arguments.bags / name if arguments.bags else None,
            )
        )
    return jobs


def missing_parts(job: DriveJob) -> DriveJob:
    """The job without the outputs that are there already.

    Raises:
        UserError: one is there, but was made with other settings.
    """
    if job.dataset and (path := shard_path(job.dataset, job.name)).exists():
        _check_settings(path, read_shard(path)["settings"], job.settings)
        job = replace(job, dataset=None)
    if job.bag and job.bag.exists():
        from bevdistill_ros.training.world.bag_writer import read_settings

        _check_settings(job.bag, read_settings(job.bag), job.settings)
        job = replace(job, bag=None)
    return job


def _check_settings(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for name in asked:
        if found.get(name) != asked[name]:
            raise UserError(
                f"{path}: was made with {name} {found.get(name)}, not {asked[name]}; "
                "name another folder, or another --split or --seed"
            )


def make_drive(job: DriveJob, report: Report, simulate: Simulate) -> None:
    """Simulate a drive once and write it wherever the job says."""
    started = time.monotonic()
    drive = simulate(job.name, job.seed, job.options)
    report(Started(drive.keyframes))
    annotations: Counter[str] = Counter()
    size = 0
    with ExitStack() as stack:
        writers: list[Any] = []
        if job.dataset:
            dataset = stack.enter_context(DatasetWriter(job.dataset, job.split, drive, job.settings))
            writers.append(dataset)
        if job.bag:
            from bevdistill_ros.training.world.bag_writer import DriveBagWriter

            writers.append(stack.enter_context(DriveBagWriter(job.bag, drive, job.settings)))
        for reading in drive.readings():
            for writer in writers:
                writer.add(reading)
            if isinstance(reading, Keyframe):
                annotations.update(CATEGORIES[a.category] or a.category for a in reading.annotations)
                report(KeyframeDone())
    if job.dataset:
        size += dataset.bytes
    if job.bag:
        size += sum(file.stat().st_size for file in job.bag.iterdir())
    report(Made(drive.keyframes, dict(annotations), size, time.monotonic() - started))


class _Run:
    """What became of the drives of a command."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.made: dict[str, Made] = {}
        self.failed: list[dict[str, Any]] = []
        self.interrupted = False

    def make(self, jobs: Sequence[DriveJob], simulate: Simulate, workers: int) -> None:
        """Make drives in ``workers`` processes at a time, whatever becomes of single ones."""
        expected = dict.fromkeys((job.name for job in jobs), int(jobs[0].options.duration_s * 2) + 1)
        with (
            tqdm(
                total=sum(expected.values()), unit="keyframe", disable=None, smoothing=0.05
            ) as bar,  # None: if a terminal
            closing(run_jobs(partial(make_drive, simulate=simulate), jobs, workers)) as reports,
        ):
            for job, report in reports:
                if isinstance(report, Started):
                    expected[job.name] = report.keyframes
                    bar.total = sum(expected.values())
                elif isinstance(report, KeyframeDone):
                    bar.update()
                elif isinstance(report, Made):
                    self.made[job.name] = report
                    bar.write(f"{job.name}: {report.keyframes} keyframes, {report.seconds:.1f} s")
                elif isinstance(report, Failure):
                    seed = ", ".join(map(str, job.seed))
                    self.failed.append({"name": job.name, "seed": list(job.seed), "error": str(report)})
                    bar.write(f"error: drive {job.name} (seed {seed}): {report}", file=sys.stderr)

    def summary(self, seconds: float) -> dict[str, Any]:
        """The results that docs/world.md describes."""
        made = [self.made[name] for name in sorted(self.made)]
        keyframes = sum(drive.keyframes for drive in made)
        annotations = sum((Counter(drive.annotations) for drive in made), Counter())
        return {
            "drives": {"made": sorted(self.made), "kept": self.kept, "failed": self.failed},
            "keyframes": keyframes,
            "annotations": dict(sorted(annotations.items())),
            "bytes": sum(drive.bytes for drive in made),
            "seconds": round(seconds, 2),
            "s_per_keyframe": round(seconds / keyframes, 4) if keyframes else None,
        }


def _described(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "dataset": str(arguments.output) if arguments.output else None,
        "version": VERSION if arguments.output else None,
        "bags": str(arguments.bags) if arguments.bags else None,
        "split": arguments.split,
        "seed": arguments.seed,
        "duration_s": arguments.duration,
        "sweeps": arguments.sweeps,
        "image_width": arguments.image_width,
        "colours": arguments.colours,
        "workers": arguments.workers,
    }


def _print_summary(arguments: argparse.Namespace, summary: dict[str, Any], interrupted: bool) -> None:
    drives = summary["drives"]
    where = " and ".join(str(path) for path in (arguments.output, arguments.bags) if path)
    text = f"{where}: {len(drives['made'])} drives made, {len(drives['kept'])} kept, {len(drives['failed'])} failed"
    if summary["keyframes"]:
        text += f"; {summary['keyframes']} keyframes in {summary['seconds']:.0f} s, {summary['bytes'] / 1e6:.0f} MB"
    print(text)
    if interrupted:
        print("interrupted: drives that were finished are kept; the same command makes the rest", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill world",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, metavar="ROOT", help="the dataset's folder")
    parser.add_argument("--bags", type=Path, metavar="DIR", help="the folder for bags, one a drive")
    parser.add_argument("--drives", type=at_least_one, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--split", default="world_train", metavar="NAME", help="split that the drives belong to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="S", help="default: %(default)s")
    defaults = DriveOptions()
    parser.add_argument(
        "--duration",
        type=float,
        default=defaults.duration_s,
        metavar="S",
        help="seconds a drive (default: %(default)s)",
    )
    parser.add_argument(
        "--sweeps",
        choices=SWEEPS,
        default=defaults.sweeps,
        help="readings between keyframes, which come twice a second: none, LiDAR (20 Hz), or all (and cameras at 12 Hz) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--image-width", type=int, default=defaults.image_width, metavar="W", help="pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--colours",
        choices=COLOURS,
        default=defaults.colours,
        help="what a network can learn from colour: as in a street, nothing (any part has any colour), or grey pictures "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=at_least_one,
        default=available_cores(),
        metavar="N",
        help="drives made at a time, each in a process of its own (default: one a core)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of this run there")
    return parser
