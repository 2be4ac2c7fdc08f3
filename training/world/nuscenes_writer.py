"""Drives as a dataset in the nuScenes schema: see ``training/data/nuscenes_tables.py`` for how it grows and what lies where.

A recording is a drive, its rows are in ROOT/drives/<drive>.json, and its map is drivable ground, 0.1 m a pixel.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.geometry import rotation_z
from bevdistill_ros.training.data import nuscenes_tables
from bevdistill_ros.training.data.nuscenes_tables import TABLES, Layout, ShardWriter, token
from bevdistill_ros.training.world.drive import LIDAR, Annotation, Drive, Image, Keyframe, Reading, Sweep
from bevdistill_ros.training.world.taxonomy import visibility_token

__all__ = ["TABLES", "VERSION", "DatasetWriter", "instance_token", "merge", "read_shard", "shard_path"]

VERSION = "v1.0-world"
LAYOUT = Layout(VERSION, "drives", "drive")


def instance_token(drive: str, instance: int) -> str:
    """Token of a drive's object."""
    return token(drive, "instance", instance)


def shard_path(root: Path, drive: str) -> Path:
    """The file that says that a drive is complete, and holds its rows."""
    return nuscenes_tables.shard_path(root, LAYOUT, drive)


def read_shard(path: Path) -> dict[str, Any]:
    """A drive's rows and settings.

    Raises:
        UserError: the file is damaged.
    """
    return nuscenes_tables.read_shard(path, LAYOUT.recording)


def merge(root: Path) -> int:
    """Make the tables of all complete drives; returns how many drives there are."""
    return nuscenes_tables.merge(root, LAYOUT)


class DatasetWriter:
    """Writes one drive; a context manager. Leaving it without an error completes the drive.

    Args:
        root: the dataset's folder.
        split: name of the split that the drive belongs to.
        drive: what the readings come from.
        settings: what the drive was made with; kept beside its rows.
    """

    def __init__(self, root: Path, split: str, drive: Drive, settings: dict[str, Any]) -> None:
        self.split, self.drive, self.settings = split, drive, settings
        self._shard = ShardWriter(root, LAYOUT, drive.name)
        self._keyframes = 0

    @property
    def bytes(self) -> int:
        """Size of the files written."""
        return self._shard.bytes

    def __enter__(self) -> DatasetWriter:
        self._shard.begin([*self.drive.cameras, LIDAR])
        for channel, (camera, ego_T_cam) in self.drive.cameras.items():
            if camera.is_distorted:
                raise ValueError(f"{channel}: the nuScenes schema has no place for lens distortion")
            self._shard.add_calibration(self._calibration(channel), channel, "camera", ego_T_cam, camera.K)
        self._shard.add_calibration(self._calibration(LIDAR), LIDAR, "lidar", self.drive.ego_T_lidar, None)
        ok, png = cv2.imencode(".png", np.where(self.drive.map_mask, 255, 0).astype(np.uint8))
        if not ok:
            raise ValueError(f"{self.drive.name}: the map mask cannot be encoded")
        self._shard.add_map(png.tobytes())
        return self

    def add(self, reading: Reading) -> None:
        """Write the next reading of the drive."""
        if isinstance(reading, Image):
            camera, _ = self.drive.cameras[reading.channel]
            self._add_reading(reading, reading.channel, reading.jpeg, ".jpg", (camera.width, camera.height))
        elif isinstance(reading, Sweep):
            points = np.hstack([reading.deskewed, reading.points[:, 3:5]]).astype("<f4")
            self._add_reading(reading, LIDAR, points.tobytes(), ".pcd.bin", (0, 0))
        else:
            self._add_keyframe(reading)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            if self._keyframes != self.drive.keyframes:
                raise ValueError(f"{self.drive.name}: has {self._keyframes} keyframes, not {self.drive.keyframes}")
            self._shard.complete(self.split, self.drive.description, self.settings, "world")

    def _calibration(self, channel: str) -> str:
        return self._shard.token("calibrated_sensor", channel)

    def _add_reading(
        self, reading: Image | Sweep, channel: str, data: bytes, suffix: str, size: tuple[int, int]
    ) -> None:
        # The keyframe that comes next; there is none behind the last one.
        sample = self._shard.token("sample", min(self._keyframes, self.drive.keyframes - 1))
        filename = self._shard.put(channel, reading.stamp, data, suffix=suffix, keyframe=reading.keyframe)
        self._shard.add_reading(
            channel,
            reading.stamp,
            filename,
            size=size,
            keyframe=reading.keyframe,
            sample=sample,
            calibration=self._calibration(channel),
            global_T_ego=self.drive.pose(reading.stamp),
        )

    def _add_keyframe(self, keyframe: Keyframe) -> None:
        sample = self._shard.token("sample", self._keyframes)
        self._shard.add_sample(sample, keyframe.stamp)
        for annotation in keyframe.annotations:
            self._add_annotation(annotation, sample)
        self._keyframes += 1

    def _add_annotation(self, annotation: Annotation, sample: str) -> None:
        self._shard.add_annotation(
            token(sample, "annotation", annotation.instance),
            instance_token(self.drive.name, annotation.instance),
            annotation.category,
            center=annotation.center,
            size=annotation.size,
            rotation=rotation_z(annotation.yaw),
            lidar_points=annotation.lidar_points,
            visibility=visibility_token(annotation.visibility),
            attribute=annotation.attribute,
        )
