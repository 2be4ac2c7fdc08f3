"""Datasets in the nuScenes schema that grow shard by shard: what the synthetic world and converted bags have in common.

``ShardWriter`` puts the readings of one recording, which is a scene, in their places and then, last, its rows into
ROOT/<shards>/<name>.json: a recording counts when that file is there, so an interrupted one is simply made again. Recordings may
be written in any order, by any number of processes. ``merge`` makes the tables, ROOT/<version>/*.json, from those files.

    samples/<channel>/, sweeps/<channel>/   readings of keyframes and between them
    maps/<name>.png                         map of a recording
    <shards>/<name>.json                    rows and settings of a recording
    <version>/*.json                        nuScenes' 13 tables, and splits.json: {split: [scene]}

Tokens are hashes of names ('world_train-0-0003/sample/7'), and numbers are rounded to 1e-9: the same readings give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.geometry import quaternion_from_rotation
from bevdistill_ros.training.world.taxonomy import ATTRIBUTES, CATEGORIES, VISIBILITY_LEVELS

TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene", "sample",
    "sample_data", "sample_annotation", "map",
)  # fmt: skip

# nuscenes-devkit knows these names by heart, with nuScenes' own scenes.
DEVKIT_SPLITS = ("train", "val", "test", "mini_train", "mini_val", "train_detect", "train_track")


@dataclass(frozen=True)
class Layout:
    """Names of a kind of dataset.

    Attributes:
        version: folder of the tables, 'v1.0-world'.
        shards: folder of the recordings' rows, 'drives'.
        recording: what a recording is called in messages, 'drive'.
    """

    version: str
    shards: str
    recording: str


def token(*names: object) -> str:
    """nuScenes token (32 hexadecimal digits) of a record that these names identify within any dataset of its kind."""
    return hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16).hexdigest()


def shard_path(root: Path, layout: Layout, name: str) -> Path:
    """The file that says that a recording is complete, and holds its rows."""
    return root / layout.shards / f"{name}.json"


def read_shard(path: Path, recording: str) -> dict[str, Any]:
    """A recording's rows and settings.

    Raises:
        UserError: the file is damaged.
    """
    try:
        shard = json.loads(path.read_bytes())
        shard["name"], shard["split"], shard["settings"], shard["tables"]["scene"][0]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); remove it and make the {recording} again"
        ) from None
    return shard


class ShardWriter:
    """Rows and files of one recording: a scene with a log and a map of its own.

    Args:
        root: the dataset's folder.
        layout: kind of dataset.
        name: of the recording, unique within the dataset; part of file names.
    """

    def __init__(self, root: Path, layout: Layout, name: str) -> None:
        self.root, self.layout, self.name = root, layout, name
        self.bytes = 0
        self.tables: dict[str, list[dict]] = {table: [] for table in TABLES}
        self._calibrations: set[str] = set()
        self._sensors: set[str] = set()
        self._last_reading: dict[str, dict] = {}
        self._last_sample: dict | None = None
        self._tracks: dict[str, dict] = {}

    def begin(self, channels: Iterable[str]) -> None:
        """Make the folders, and remove what an interrupted attempt has left there, perhaps with other settings."""
        for folder in (self.root / kind / channel for kind in ("samples", "sweeps") for channel in channels):
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(f"{_literal(self.name)}__*"):
                left_over.unlink()

    def token(self, *names: object) -> str:
        """Token of one of this recording's records."""
        return token(self.name, *names)

    def add_calibration(
        self, record: str, channel: str, modality: str, mounting: np.ndarray, K: np.ndarray | None
    ) -> None:
        """Add the calibrated_sensor ``record`` (a token), unless it is there.

        Args:
            record: its token.
            channel: nuScenes name of the sensor.
            modality: 'camera' or 'lidar'.
            mounting: ego_T_sensor (4, 4).
            K: (3, 3) intrinsics of a camera.
        """
        if record in self._calibrations:
            return
        self._calibrations.add(record)
        sensor = {"token": token("sensor", channel), "channel": channel, "modality": modality}
        if sensor["token"] not in self._sensors:
            self._sensors.add(sensor["token"])
            self.tables["sensor"].append(sensor)
        self.tables["calibrated_sensor"].append(
            {
                "token": record,
                "sensor_token": sensor["token"],
                **placement(mounting),
                "camera_intrinsic": [] if K is None else rounded(K),
            }
        )

    def add_map(self, png: bytes) -> None:
        """Add the recording's map mask."""
        filename = f"maps/{self.name}.png"
        self._write(filename, png)
        self.tables["map"].append(
            {
                "token": self.token("map"),
                "log_tokens": [self.token("log")],
                "category": "semantic_prior",
                "filename": filename,
            }
        )

    def put(self, channel: str, stamp: int, data: bytes, *, suffix: str, keyframe: bool) -> str:
        """Write a reading's file; returns its name within the dataset. In any order, from any thread.

        Args:
            channel: nuScenes name of the sensor.
            stamp: ns.
            data: content of the file.
            suffix: of its name, '.jpg'.
            keyframe: whether it is the channel's reading of its sample.
        """
        folder = "samples" if keyframe else "sweeps"
        filename = f"{folder}/{channel}/{self.name}__{channel}__{microseconds(stamp)}{suffix}"
        self._write(filename, data)
        return filename

    def add_reading(
        self,
        channel: str,
        stamp: int,
        filename: str,
        *,
        size: tuple[int, int],
        keyframe: bool,
        sample: str,
        calibration: str,
        global_T_ego: np.ndarray,
    ) -> None:
        """Add a reading's rows. Call in order of time within a channel.

        Args:
            channel: nuScenes name of the sensor.
            stamp: ns.
            filename: where ``put`` has written it.
            size: (width, height) of an image; zeros for anything else.
            keyframe: whether it is the channel's reading of its sample.
            sample: token of the sample that it belongs to, which may be added later.
            calibration: token of its calibrated_sensor.
            global_T_ego: (4, 4) at ``stamp``.
        """
        timestamp = microseconds(stamp)
        width, height = size
        row = {
            "token": self.token(channel, timestamp),
            "sample_token": sample,
            "ego_pose_token": self.token(channel, timestamp),
            "calibrated_sensor_token": calibration,
            "timestamp": timestamp,
            "fileformat": filename.rsplit("/", 1)[1].split(".")[1],
            "is_key_frame": keyframe,
            "height": height,
            "width": width,
            "filename": filename,
            "prev": "",
            "next": "",
        }
        if channel in self._last_reading:
            _link(self._last_reading[channel], row)
        self._last_reading[channel] = row
        self.tables["sample_data"].append(row)
        self.tables["ego_pose"].append(
            {"token": row["ego_pose_token"], "timestamp": timestamp, **placement(global_T_ego)}
        )

    def add_sample(self, record: str, stamp: int) -> None:
        """Add a keyframe. Call in order of time."""
        sample = {
            "token": record,
            "timestamp": microseconds(stamp),
            "prev": "",
            "next": "",
            "scene_token": self.token("scene"),
        }
        if self._last_sample:
            _link(self._last_sample, sample)
        self._last_sample = sample
        self.tables["sample"].append(sample)

    def add_annotation(
        self,
        record: str,
        instance: str,
        category: str,
        *,
        center: np.ndarray,
        size: np.ndarray,
        rotation: np.ndarray,
        lidar_points: int,
        visibility: str = "",
        attribute: str = "",
    ) -> None:
        """Annotate an object in the sample that was added last.

        Args:
            record: token of the annotation.
            instance: token of the object.
            category: of nuScenes, always the same for an object.
            center: (3,) global frame, gravity centre.
            size: (3,) length, width, height.
            rotation: (3, 3) in the global frame.
            lidar_points: inside of the box.
            visibility: token of the level; '' where it is not known.
            attribute: of nuScenes; '' for none.
        """
        assert self._last_sample is not None, "add a sample first"
        if attribute and attribute not in ATTRIBUTES:
            raise ValueError(f"{self.name}: '{attribute}' is no attribute of nuScenes")
        if category not in CATEGORIES:
            raise ValueError(f"{self.name}: '{category}' is no category of nuScenes")
        length, width, height = rounded(size)
        row = {
            "token": record,
            "sample_token": self._last_sample["token"],
            "instance_token": instance,
            "visibility_token": visibility,
            "attribute_tokens": [token("attribute", attribute)] if attribute else [],
            "translation": rounded(center),
            "size": [width, length, height],
            "rotation": wxyz(rotation),
            "prev": "",
            "next": "",
            "num_lidar_pts": lidar_points,
            "num_radar_pts": 0,
        }
        track = self._tracks.get(instance)
        if track is None:
            track = self._tracks[instance] = {"category": category, "first": record, "last": row, "count": 0}
        else:
            _link(track["last"], row)
        if track["category"] != category:
            raise ValueError(f"{self.name}: instance {instance} has changed its category")
        track["last"] = row
        track["count"] += 1
        self.tables["sample_annotation"].append(row)

    def complete(self, split: str, description: str, settings: dict[str, Any], vehicle: str, **further: Any) -> None:
        """Finish the recording: write its rows, which makes it part of the dataset.

        Args:
            split: that the scene belongs to.
            description: of the scene, one line.
            settings: what it was made with.
            vehicle: what drove.
            further: more to be kept beside the rows.
        """
        samples = self.tables["sample"]
        if not samples:
            raise ValueError(f"{self.name}: has no keyframes")
        for instance, track in self._tracks.items():
            self.tables["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", track["category"]),
                    "nbr_annotations": track["count"],
                    "first_annotation_token": track["first"],
                    "last_annotation_token": track["last"]["token"],
                }
            )
        captured = datetime.fromtimestamp(samples[0]["timestamp"] / 1e6, timezone.utc)
        self.tables["log"].append(
            {
                "token": self.token("log"),
                "logfile": self.name,
                "vehicle": vehicle,
                "date_captured": captured.date().isoformat(),
                "location": self.name,  # every recording has a map of its own
            }
        )
        self.tables["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": self.name,
                "description": description,
            }
        )
        shard = {"name": self.name, "split": split, "settings": settings, **further, "tables": self.tables}
        write_atomically(shard_path(self.root, self.layout, self.name), json.dumps(shard))

    def _write(self, filename: str, data: bytes) -> None:
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(data)
        except OSError as error:
            error.filename = str(path)  # a full disk names no file of its own
            raise
        self.bytes += len(data)


def merge(root: Path, layout: Layout) -> int:
    """Make the tables of all complete recordings, in the order of their names; returns how many recordings there are.

    A reader finds whole tables, the old ones or the new; or none, in the moment in which they change places. One recording is in
    memory at a time.
    """
    paths = sorted((root / layout.shards).glob("*.json"))
    if paths:
        folder = root / layout.version
        new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
        for left_over in (new, old):
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            _write_tables(new, (read_shard(path, layout.recording) for path in paths))
        except OSError as error:
            error.filename = error.filename or str(new)  # a full disk names no file of its own
            raise
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    return len(paths)


def _write_tables(folder: Path, shards: Iterable[dict[str, Any]]) -> None:
    """The files of the tables' folder."""
    sensors: dict[str, dict] = {}
    splits: dict[str, list[str]] = {}
    with ExitStack() as stack:
        tables = {name: stack.enter_context(_TableFile(folder / f"{name}.json")) for name in TABLES}
        for name in ("category", "attribute"):
            for value in {"category": CATEGORIES, "attribute": ATTRIBUTES}[name]:
                tables[name].add({"token": token(name, value), "name": value, "description": ""})
        for _, level_token, level in VISIBILITY_LEVELS:
            tables["visibility"].add({"token": level_token, "level": level, "description": ""})
        for shard in shards:
            for name, rows in shard["tables"].items():
                if name == "sensor":  # all recordings share them
                    sensors.update({row["token"]: row for row in rows})
                else:
                    for row in rows:
                        tables[name].add(row)
            splits.setdefault(shard["split"], []).append(shard["name"])
        for row in sensors.values():
            tables["sensor"].add(row)
    write_atomically(folder / "splits.json", json.dumps(dict(sorted(splits.items())), indent=1) + "\n")


class _TableFile:
    """A JSON list of records, a line each, that is written while it grows; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._empty = True

    def __enter__(self) -> _TableFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def add(self, row: dict) -> None:
        self._file.write(("[\n" if self._empty else ",\n") + json.dumps(row))
        self._empty = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.write("[\n\n]\n" if self._empty else "\n]\n")
                self._file.flush()
                os.fsync(self._file.fileno())


def _link(previous: dict, following: dict) -> None:
    previous["next"], following["prev"] = following["token"], previous["token"]


def _literal(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def microseconds(stamp: int) -> int:
    """nuScenes' timestamp of a stamp in ns."""
    if stamp % 1000:
        raise ValueError(f"stamp {stamp} ns is no whole number of microseconds, which is what nuScenes' tables hold")
    return stamp // 1000


def rounded(values: np.ndarray | Iterable[float]) -> list:
    """Plain numbers without the noise of the last bits, and without negative zeros."""
    return (np.round(np.asarray(values, np.float64), 9) + 0.0).tolist()


def wxyz(rotation: np.ndarray) -> list[float]:
    """nuScenes' quaternion (w, x, y, z) of a (3, 3) rotation."""
    x, y, z, w = quaternion_from_rotation(rotation)
    return rounded((w, x, y, z))


def placement(target_T_source: np.ndarray) -> dict[str, list[float]]:
    """nuScenes' fields of a (4, 4) transform."""
    return {"translation": rounded(target_T_source[:3, 3]), "rotation": wxyz(target_T_source[:3, :3])}
