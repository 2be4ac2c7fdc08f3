"""Drives as a dataset in the nuScenes schema.

A dataset grows drive by drive. ``DatasetWriter`` puts the images and sweeps of one drive in their places and then, last, its
rows into ROOT/drives/<drive>.json: a drive counts when that file is there, so an interrupted one is simply made again. Drives
may be written in any order, by any number of processes. ``merge`` makes the tables, ROOT/v1.0-world/*.json, from those files.

    samples/<channel>/, sweeps/<channel>/   readings of keyframes and between them
    maps/<drive>.png                        drivable ground, 0.1 m a pixel
    drives/<drive>.json                     rows and settings of a drive
    v1.0-world/*.json                       nuScenes' 13 tables, and splits.json: {split: [drive]}

Tokens are hashes of names ('world_train-0-0003/sample/7'), and numbers are rounded to 1e-9: one seed gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.geometry import quaternion_from_rotation, rotation_z
from bevdistill_ros.training.world.drive import LIDAR, Annotation, Drive, Image, Keyframe, Reading, Sweep
from bevdistill_ros.training.world.taxonomy import ATTRIBUTES, CATEGORIES, VISIBILITY_LEVELS, visibility_token

VERSION = "v1.0-world"
SHARDS = "drives"
TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene", "sample",
    "sample_data", "sample_annotation", "map",
)  # fmt: skip


def token(*names: object) -> str:
    """nuScenes token (32 hexadecimal digits) of a record that these names identify within any dataset of the world."""
    return hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16).hexdigest()


def instance_token(drive: str, instance: int) -> str:
    """Token of a drive's object."""
    return token(drive, "instance", instance)


def shard_path(root: Path, drive: str) -> Path:
    """The file that says that a drive is complete, and holds its rows."""
    return root / SHARDS / f"{drive}.json"


def read_shard(path: Path) -> dict[str, Any]:
    """A drive's rows and settings.

    Raises:
        UserError: the file is damaged.
    """
    try:
        shard = json.loads(path.read_bytes())
        shard["name"], shard["split"], shard["settings"], shard["tables"]["scene"][0]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); remove it and make the drive again"
        ) from None
    return shard


class DatasetWriter:
    """Writes one drive; a context manager. Leaving it without an error completes the drive.

    Args:
        root: the dataset's folder.
        split: name of the split that the drive belongs to.
        drive: what the readings come from.
        settings: what the drive was made with; kept beside its rows.
    """

    def __init__(self, root: Path, split: str, drive: Drive, settings: dict[str, Any]) -> None:
        self.root, self.split, self.drive, self.settings = root, split, drive, settings
        self.name = drive.name
        self.bytes = 0
        self._tables: dict[str, list[dict]] = {name: [] for name in TABLES}
        self._last_reading: dict[str, dict] = {}
        self._annotations: dict[int, list[dict]] = {}
        self._categories: dict[int, str] = {}

    def __enter__(self) -> DatasetWriter:
        channels = [*self.drive.cameras, LIDAR]
        for folder in (self.root / kind / channel for kind in ("samples", "sweeps") for channel in channels):
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(f"{self.name}__*"):  # of an interrupted attempt, perhaps with other settings
                left_over.unlink()
        for channel, (camera, ego_T_cam) in self.drive.cameras.items():
            if camera.is_distorted:
                raise ValueError(f"{channel}: the nuScenes schema has no place for lens distortion")
            self._add_sensor(channel, "camera", ego_T_cam, _rounded(camera.K))
        self._add_sensor(LIDAR, "lidar", self.drive.ego_T_lidar, [])
        self._add_map()
        return self

    def add(self, reading: Reading) -> None:
        """Write the next reading of the drive."""
        if isinstance(reading, Image):
            camera, _ = self.drive.cameras[reading.channel]
            self._add_reading(reading, reading.channel, ".jpg", reading.jpeg, camera.height, camera.width)
        elif isinstance(reading, Sweep):
            points = np.hstack([reading.deskewed, reading.points[:, 3:5]]).astype("<f4")
            self._add_reading(reading, LIDAR, ".pcd.bin", points.tobytes(), 0, 0)
        else:
            self._add_keyframe(reading)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()

    def _token(self, *names: object) -> str:
        return token(self.name, *names)

    def _add_sensor(self, channel: str, modality: str, mounting: np.ndarray, K: list) -> None:
        sensor = {"token": token("sensor", channel), "channel": channel, "modality": modality}
        self._tables["sensor"].append(sensor)
        self._tables["calibrated_sensor"].append(
            {
                "token": self._token("calibrated_sensor", channel),
                "sensor_token": sensor["token"],
                **_placement(mounting),
                "camera_intrinsic": K,
            }
        )

    def _add_map(self) -> None:
        ok, png = cv2.imencode(".png", np.where(self.drive.map_mask, 255, 0).astype(np.uint8))
        if not ok:
            raise ValueError(f"{self.name}: the map mask cannot be encoded")
        filename = f"maps/{self.name}.png"
        self._write(filename, png.tobytes())
        self._tables["map"].append(
            {
                "token": self._token("map"),
                "log_tokens": [self._token("log")],
                "category": "semantic_prior",
                "filename": filename,
            }
        )

    def _add_reading(
        self, reading: Image | Sweep, channel: str, suffix: str, data: bytes, height: int, width: int
    ) -> None:
        timestamp = _microseconds(reading.stamp)
        folder = "samples" if reading.keyframe else "sweeps"
        filename = f"{folder}/{channel}/{self.name}__{channel}__{timestamp}{suffix}"
        self._write(filename, data)
        row = {
            "token": self._token(channel, timestamp),
            # The keyframe that comes next; there is none behind the last one.
            "sample_token": self._token("sample", min(len(self._tables["sample"]), self.drive.keyframes - 1)),
            "ego_pose_token": self._token(channel, timestamp),
            "calibrated_sensor_token": self._token("calibrated_sensor", channel),
            "timestamp": timestamp,
            "fileformat": suffix.split(".")[1],
            "is_key_frame": reading.keyframe,
            "height": height,
            "width": width,
            "filename": filename,
            "prev": "",
            "next": "",
        }
        if channel in self._last_reading:
            _link(self._last_reading[channel], row)
        self._last_reading[channel] = row
        self._tables["sample_data"].append(row)
        self._tables["ego_pose"].append(
            {"token": row["ego_pose_token"], "timestamp": timestamp, **_placement(self.drive.pose(reading.stamp))}
        )

    def _add_keyframe(self, keyframe: Keyframe) -> None:
        samples = self._tables["sample"]
        sample = {
            "token": self._token("sample", len(samples)),
            "timestamp": _microseconds(keyframe.stamp),
            "prev": "",
            "next": "",
            "scene_token": self._token("scene"),
        }
        if samples:
            _link(samples[-1], sample)
        samples.append(sample)
        for annotation in keyframe.annotations:
            self._add_annotation(annotation, sample["token"])

    def _add_annotation(self, annotation: Annotation, sample_token: str) -> None:
        length, width, height = _rounded(annotation.size)
        row = {
            "token": token(sample_token, "annotation", annotation.instance),
            "sample_token": sample_token,
            "instance_token": instance_token(self.name, annotation.instance),
            "visibility_token": visibility_token(annotation.visibility),
            "attribute_tokens": [token("attribute", annotation.attribute)] if annotation.attribute else [],
            "translation": _rounded(annotation.center),
            "size": [width, length, height],
            "rotation": _wxyz(rotation_z(annotation.yaw)),
            "prev": "",
            "next": "",
            "num_lidar_pts": annotation.lidar_points,
            "num_radar_pts": 0,
        }
        if annotation.attribute and annotation.attribute not in ATTRIBUTES:
            raise ValueError(f"{self.name}: '{annotation.attribute}' is no attribute of nuScenes")
        if annotation.category not in CATEGORIES:
            raise ValueError(f"{self.name}: '{annotation.category}' is no category of nuScenes")
        if self._categories.setdefault(annotation.instance, annotation.category) != annotation.category:
            raise ValueError(f"{self.name}: instance {annotation.instance} has changed its category")
        track = self._annotations.setdefault(annotation.instance, [])
        if track:
            _link(track[-1], row)
        track.append(row)
        self._tables["sample_annotation"].append(row)

    def _complete(self) -> None:
        samples = self._tables["sample"]
        if len(samples) != self.drive.keyframes or not samples:
            raise ValueError(f"{self.name}: has {len(samples)} keyframes, not {self.drive.keyframes}")
        for instance, track in self._annotations.items():
            self._tables["instance"].append(
                {
                    "token": instance_token(self.name, instance),
                    "category_token": token("category", self._categories[instance]),
                    "nbr_annotations": len(track),
                    "first_annotation_token": track[0]["token"],
                    "last_annotation_token": track[-1]["token"],
                }
            )
        captured = datetime.fromtimestamp(samples[0]["timestamp"] / 1e6, timezone.utc)
        self._tables["log"].append(
            {
                "token": self._token("log"),
                "logfile": self.name,
                "vehicle": "world",
                "date_captured": captured.date().isoformat(),
                "location": self.name,  # every drive has a map of its own
            }
        )
        self._tables["scene"].append(
            {
                "token": self._token("scene"),
                "log_token": self._token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": self.name,
                "description": self.drive.description,
            }
        )
        shard = {
            "name": self.name,
            "split": self.split,
            "settings": self.settings,
            "tables": self._tables,
        }
        write_atomically(shard_path(self.root, self.name), json.dumps(shard))

    def _write(self, filename: str, data: bytes) -> None:
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.bytes += len(data)


def merge(root: Path) -> int:
    """Make the tables of all complete drives, in the order of their names; returns how many drives there are.

    A reader finds whole tables, the old ones or the new; or none, in the moment in which they change places.
    """
    shards = [read_shard(path) for path in sorted((root / SHARDS).glob("*.json"))]
    if shards:
        _replace_tables(root / VERSION, _merged(shards))
    return len(shards)


def _merged(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Content of every file of the tables' folder."""
    tables: dict[str, list[dict]] = {name: [] for name in TABLES}
    for name in CATEGORIES:
        tables["category"].append({"token": token("category", name), "name": name, "description": ""})
    for name in ATTRIBUTES:
        tables["attribute"].append({"token": token("attribute", name), "name": name, "description": ""})
    for _, level_token, level in VISIBILITY_LEVELS:
        tables["visibility"].append({"token": level_token, "level": level, "description": ""})
    sensors: dict[str, dict] = {}
    splits: dict[str, list[str]] = {}
    for shard in shards:
        for name, rows in shard["tables"].items():
            if name == "sensor":  # all drives share them
                sensors.update({row["token"]: row for row in rows})
            else:
                tables[name].extend(rows)
        splits.setdefault(shard["split"], []).append(shard["name"])
    tables["sensor"] = list(sensors.values())
    return {**tables, "splits": dict(sorted(splits.items()))}


def _replace_tables(folder: Path, tables: dict[str, Any]) -> None:
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    for name, rows in tables.items():
        if isinstance(rows, list):
            text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
        else:
            text = json.dumps(rows, indent=1) + "\n"
        write_atomically(new / f"{name}.json", text)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _link(previous: dict, following: dict) -> None:
    previous["next"], following["prev"] = following["token"], previous["token"]


def _microseconds(stamp: int) -> int:
    """nuScenes' timestamp of a stamp in ns."""
    if stamp % 1000:
        raise ValueError(f"stamp {stamp} ns is no whole number of microseconds, which is what nuScenes' tables hold")
    return stamp // 1000


def _rounded(values: np.ndarray | Iterable[float]) -> list:
    """Plain numbers without the noise of the last bits, and without negative zeros."""
    return (np.round(np.asarray(values, np.float64), 9) + 0.0).tolist()


def _wxyz(rotation: np.ndarray) -> list[float]:
    x, y, z, w = quaternion_from_rotation(rotation)
    return _rounded((w, x, y, z))


def _placement(target_T_source: np.ndarray) -> dict[str, list[float]]:
    return {"translation": _rounded(target_T_source[:3, 3]), "rotation": _wxyz(target_T_source[:3, :3])}
