"""Many bags to one dataset: a process a bag, those that are done are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bevdistill_ros.errors import UserError
from bevdistill_ros.threads import opencv_limited
from bevdistill_ros.training.convert.bag import Bag
from bevdistill_ros.training.convert.drops import Drops, table
from bevdistill_ros.training.convert.ray_cluster import run_on_cluster
from bevdistill_ros.training.convert.recording import Options, convert_bag, is_converted, report_path
from bevdistill_ros.training.convert.rig_file import Rig, load_rig
from bevdistill_ros.training.convert.scene_writer import LAYOUT
from bevdistill_ros.training.data.nuscenes_tables import merge
from bevdistill_ros.training.locks import locked
from bevdistill_ros.training.workers import Failure, Report, run_jobs


@dataclass
class Result:
    """What became of the bags of a command.

    Attributes:
        made, kept: reports of the bags converted now and before, see docs/convert.md.
        failed: (bag, why).
        interrupted: by Ctrl-C.
        seconds: by the clock.
    """

    made: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """The account of all bags together."""
        drops = Drops()
        for report in (*self.made, *self.kept):
            for row in report["dropped"]:
                drops.add(row["where"], row["what"], row["reason"], row["first_stamp_ns"], row["count"])
        return drops.rows()


def convert_bags(
    bags: Sequence[Path], root: Path, rig: Rig, options: Options, workers: int, cluster: str = ""
) -> Result:
    """Convert what is not converted yet, and make the tables. Scenes that are complete count, whatever becomes of the others.

    Args:
        workers: processors to use: as many bags at a time, or, for fewer bags, threads a bag.
        cluster: address of a Ray cluster that is to do the work, with ``workers`` processors a bag; '' for this machine.

    Raises:
        UserError: two bags have one name, or another command is at work there.
    """
    started = time.monotonic()
    result = Result()
    with locked(root / ".convert.lock", "another `convert` is writing there; wait for it"):
        _check_names(bags)
        todo = []
        for path in bags:
            try:
                converted = is_converted(path, root, rig, options)
            except UserError as error:
                # A bag that cannot be read does not keep the others from being converted.
                result.failed.append((str(path), str(error)))
                continue
            if converted:
                result.kept.append(json.loads(report_path(root, Bag(path).name).read_bytes()))
            else:
                todo.append(path)
        try:
            if todo:
                _run(todo, root.resolve(), rig, options, workers, cluster, result)
        except KeyboardInterrupt:
            result.interrupted = True
        finally:
            merge(root, LAYOUT)
    result.seconds = time.monotonic() - started
    return result


def ensure_converted(
    bags: Sequence[str | Path], rig: str | Path, output: str | Path, options: Options | None = None, workers: int = 1
) -> Path:
    """The dataset of these bags at ``output``, in which those that are not there yet are converted now.

    Args:
        bags: bags, or folders of bags.
        rig: a rig file.

    Raises:
        UserError: a bag cannot be converted. Those that can be are.
    """
    root = Path(output)
    result = convert_bags(find_bags(bags), root, load_rig(rig), options or Options(), workers)
    if result.interrupted:
        raise KeyboardInterrupt
    if result.failed:
        more = f" (and {len(result.failed) - 1} bags more)" if len(result.failed) > 1 else ""
        raise UserError(result.failed[0][1] + more)
    return root


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """The bags among paths, each a bag (a folder, or a file of one) or a folder of bags.

    Raises:
        UserError: a path is neither.
    """
    bags = []
    for path in map(Path, paths):
        if path.is_dir() and not (path / "metadata.yaml").exists():
            found = sorted(metadata.parent for metadata in path.glob("*/metadata.yaml"))
            if not found:
                raise UserError(f"{path}: is no bag (no metadata.yaml), nor a folder of bags")
            bags += found
        elif path.exists():
            bags.append(path)
        else:
            raise UserError(f"{path}: there is no such bag")
    return bags


def _check_names(bags: Sequence[Path]) -> None:
    known: dict[str, Path] = {}
    for path in bags:
        name = Bag(path).name
        if name in known:
            raise UserError(
                f"{path}: has the same name as {known[name]}; rename one, as scenes are named after their bag"
            )
        known[name] = path


def _run(
    bags: Sequence[Path], root: Path, rig: Rig, options: Options, workers: int, cluster: str, result: Result
) -> None:
    at_once = min(workers, len(bags))
    threads = workers if cluster else max(1, workers // at_once)
    work = partial(_work, root=root, rig=rig, options=options, threads=threads)
    reports: Iterator[tuple[Path, Any]]
    if cluster:
        reports = run_on_cluster(work, [path.resolve() for path in bags], cluster, workers)
    elif at_once == 1:
        reports = _one_after_the_other(work, bags)
    else:
        reports = run_jobs(work, bags, at_once)
    done: dict[Path, float] = {}
    form = "{l_bar}{bar}| {n:.2f}/{total} bags [{elapsed}]"
    # None: silent where it is no terminal
    with tqdm(total=len(bags), disable=None, bar_format=form) as bar, closing(reports):
        for path, report in reports:
            share = report if isinstance(report, float) else 1.0
            if isinstance(report, Failure):
                result.failed.append((str(path), str(report)))
            elif isinstance(report, dict):
                result.made.append(report)
            bar.update(share - done.get(path, 0.0))
            done[path] = share
    result.made.sort(key=lambda report: report["bag"])


def _one_after_the_other(work: Callable[[Path, Report], None], bags: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """In this process."""
    for path in bags:
        last: list[Any] = []
        try:
            work(path, last.append)
        except UserError as error:
            last.append(Failure(error))
        yield path, last[-1]


def _work(path: Path, report: Report, root: Path, rig: Rig, options: Options, threads: int) -> None:
    """One bag. Reports its share that is done, and last what became of it."""
    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        if share - told >= 0.01:
            told = share
            report(share)

    try:
        with opencv_limited():  # the threads here are enough
            report(convert_bag(path, root, rig, options, threads, progress))
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror} ({path} is not converted)") from None


def describe(result: Result, root: Path) -> str:
    """The result in words."""
    keyframes = sum(report["keyframes"] for report in result.made)
    seconds = sum(report["duration_s"] for report in result.made)
    lines = [
        f"{root}: {len(result.made)} bags converted, {len(result.kept)} kept, {len(result.failed)} failed; "
        f"{keyframes} keyframes of {seconds:.1f} s in {result.seconds:.1f} s"
    ]
    if result.dropped:
        lines += ["left out:", table(result.dropped)]
    return "\n".join(lines)
