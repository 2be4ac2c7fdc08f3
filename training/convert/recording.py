"""One bag to scenes of a dataset."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Semaphore
from typing import Any

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.plain_data import to_dict
from bevdistill_ros.training.convert import annotations
from bevdistill_ros.training.convert.annotations import Classes
from bevdistill_ros.training.convert.bag import Bag, read_header
from bevdistill_ros.training.convert.drops import Drops
from bevdistill_ros.training.convert.pictures import Pictures
from bevdistill_ros.training.convert.plan import Geometry, Scene, plan
from bevdistill_ros.training.convert.rig_file import Rig
from bevdistill_ros.training.convert.scan import scan
from bevdistill_ros.training.convert.scene_writer import LAYOUT, Reading, SceneWriter
from bevdistill_ros.training.data.nuscenes_tables import read_shard, shard_path

CONVERTER = 1
"""Raised whenever the same bag gives another dataset than before, so that a dataset is never made in two ways unawares."""

REPORTS = "bags"
"""Folder of what became of each bag; a bag is done when its file is there."""

SWEEPS = ("none", "lidar", "all")

IN_FLIGHT = 3
"""Messages a thread that are in memory at a time."""

AHEAD = 10 * 10**9
"""ns. A message is for a scene that begins so much later, at most."""


@dataclass(frozen=True)
class Options:
    """Settings of a conversion, apart from the rig.

    Attributes:
        split: of nuScenes' kind, that the scenes belong to.
        sweeps: readings between keyframes that are kept: 'none', 'lidar' or 'all'.
        quality: of JPEGs that are encoded here.
    """

    split: str = "bags"
    sweeps: str = "none"
    quality: int = 95


def report_path(root: Path, name: str) -> Path:
    """Where it is written what became of a bag."""
    return root / REPORTS / f"{name}.json"


def settings_of(bag: Bag, rig: Rig, options: Options) -> dict[str, Any]:
    """All that decides what the conversion gives. Which bag it is tell its first and last time, and its messages."""
    identity = {"start_ns": bag.start, "end_ns": bag.end, "messages": sum(bag.counts.values())}
    return {"converter": CONVERTER, "bag": identity, "rig": to_dict(rig), **asdict(options)}


def check_settings(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise UserError where something is there that was made of another bag, or in another way."""
    for name in asked:
        if found.get(name) != asked[name]:
            what = "of another bag of this name" if name == "bag" else f"with another {name}"
            raise UserError(
                f"{path}: was made {what}; name another --output, or remove that file, and the bag's others in "
                f"{LAYOUT.shards}/ and {REPORTS}/, to convert it anew"
            )


def is_converted(path: Path, root: Path, rig: Rig, options: Options) -> bool:
    """Whether a bag is in the dataset already.

    Raises:
        UserError: it, or another of its name, is, but converted in another way; or the bag cannot be read.
    """
    report = report_path(root, Bag(path).name)
    if not report.exists():
        return False
    try:
        found = json.loads(report.read_bytes())["settings"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{report}: damaged; remove it and convert the bag again") from None
    with Bag(path) as bag:
        check_settings(report, found, settings_of(bag, rig, options))
    return True


def convert_bag(
    path: Path, root: Path, rig: Rig, options: Options, threads: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Convert one bag, but for scenes that are there already. Returns the report, which lies beside the scenes too.

    Args:
        threads: that decode and encode.
        progress: is told which share of the work is done.

    Raises:
        UserError: the bag is of no use, or cannot be read to its end; scenes that are complete are kept.
    """
    classes = _classes(rig)
    with Bag(path) as bag:
        settings = settings_of(bag, rig, options)
        drops = Drops()
        parts = scan(bag, rig, drops, lambda time: progress((time - bag.start) / (2 * bag.duration)))
        names: list[str] = []
        pictures = Pictures(options.quality)

        def complete(writer: SceneWriter) -> None:
            if (missing := writer.complete(options.split, settings)) is not None:
                drops.merge(missing)

        def second(time: int) -> None:
            progress(0.5 + (time - bag.start) / (2 * bag.duration))

        for part in parts:
            geometry = Geometry(part, rig)
            try:
                scenes = plan(geometry, drops, options.sweeps, str(bag.path))
            except UserError as error:
                if len(parts) == 1:
                    raise
                drops.add(bag.path.name, "stretch", str(error), part.start)
                continue
            todo: deque[tuple[str, Scene]] = deque()
            for scene in scenes:
                names.append(f"{bag.name}-{len(names):04d}")
                shard = shard_path(root, LAYOUT, names[-1])
                if shard.exists():
                    check_settings(shard, read_shard(shard, LAYOUT.recording)["settings"], settings)
                else:
                    todo.append((names[-1], scene))

            def begin(name: str, scene: Scene, geometry: Geometry = geometry) -> SceneWriter:
                return SceneWriter(root, name, bag, geometry, scene, classes)

            if todo:
                _write(bag, geometry, todo, begin, complete, pictures, threads, second)
        report = _report(bag, root, names, drops)
    report["settings"] = settings
    if not report["scenes"]:
        raise UserError(f"{bag.path}: {_why_nothing(drops)}")
    write_atomically(report_path(root, bag.name), json.dumps(report, indent=1) + "\n")
    return report


def _classes(rig: Rig) -> Classes:
    try:
        return Classes(rig.annotations)
    except ValueError as error:
        raise UserError(f"rig file: {error}") from None


def _write(
    bag: Bag,
    geometry: Geometry,
    todo: deque[tuple[str, Scene]],
    begin: Callable[[str, Scene], SceneWriter],
    complete: Callable[[SceneWriter], None],
    pictures: Pictures,
    threads: int,
    progress: Callable[[int], None],
) -> None:
    """Read a part again: give every scene its messages, and complete it when it has the last. A few scenes are open at a time."""
    part, marked = geometry.part, geometry.rig.annotations.topic
    topics = {*geometry.rig.topics.values(), marked}
    writers: list[SceneWriter] = []
    takers: dict[tuple[str, int], list[SceneWriter]] = {}
    room = Semaphore(IN_FLIGHT * threads)
    with ThreadPoolExecutor(threads) as pool:

        def submit(work: Callable[[], Reading]) -> Future[Reading]:
            room.acquire()
            future = pool.submit(work)
            future.add_done_callback(lambda _: room.release())
            return future

        try:
            for topic, time, data in bag.messages(topics, part.start, part.stop):
                message = bag.deserialise(topic, data) if bag.types[topic] == annotations.MARKERS else None
                if message is not None:
                    stamp, frame = annotations.stamp_of(annotations.MARKERS, data, message, time)
                else:
                    stamp, frame = read_header(data)
                while todo and todo[0][1].start <= stamp + AHEAD:
                    writer = begin(*todo.popleft())
                    writers.append(writer)
                    for key in writer.wanted:
                        takers.setdefault(key, []).append(writer)
                waiting = takers.pop((topic, stamp), [])
                for writer in waiting:
                    if topic == marked:
                        writer.annotate(stamp, frame, message or bag.deserialise(topic, data))
                    else:
                        writer.read(topic, stamp, submit, data, pictures)
                for writer in waiting:
                    if not writer.wanted:
                        complete(writer)
                        writers.remove(writer)
                progress(time)
            for writer in (*writers, *(begin(*row) for row in todo)):  # that lack what the first reading has found
                complete(writer)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _why_nothing(drops: Drops) -> str:
    rows = [row for row in drops.rows() if row["what"] in ("keyframe", "stretch")]
    if not rows:
        return "holds no keyframe"
    return f"no keyframe is complete; {rows[0]['count']} times: {rows[0]['where']}: {rows[0]['reason']}"


def _report(bag: Bag, root: Path, names: list[str], drops: Drops) -> dict[str, Any]:
    """What became of a bag: of its scenes, whether made now or before, and of what the plan has left out."""
    scenes, keyframes, readings, boxes = [], 0, 0, 0
    for name in names:
        shard = shard_path(root, LAYOUT, name)
        if not shard.exists():
            continue  # no keyframe of it was whole
        rows = read_shard(shard, LAYOUT.recording)
        scenes.append(name)
        keyframes += len(rows["tables"]["sample"])
        readings += len(rows["tables"]["sample_data"])
        boxes += len(rows["tables"]["sample_annotation"])
        for row in rows["dropped"]:
            drops.add(row["where"], row["what"], row["reason"], row["first_stamp_ns"], row["count"])
    return {
        "bag": bag.name,
        "duration_s": round((bag.end - bag.start) * 1e-9, 3),
        "bytes": bag.size,
        "scenes": scenes,
        "keyframes": keyframes,
        "readings": readings,
        "annotations": boxes,
        "dropped": drops.rows(),
    }
