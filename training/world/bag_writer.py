"""Drives as rosbag2 bags: what a robot would have recorded, with the truth beside it.

Topics, types, frames and quality of service are those of bags made of nuScenes (``training/data/nuscenes_to_bag.py``), but

    /lidar_top/points   has the points as they were measured, each in the sensor's frame at its own time, and that time in a
                        further float32 field ``time``: seconds from the stamp, negative or zero
    /annotations        has all annotated objects of the detection classes; id is the instance token of the dataset
    /tf                 has the pose at every reading's stamp, and 100 a second between them

Log times equal header stamps.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import invert, quaternion_from_rotation, rotation_z, transform_points
from bevdistill_ros.training.data.bags import BagWriter, custom_data
from bevdistill_ros.training.data.messages import (
    BASE_FRAME,
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    FIXED_FRAME,
    POINT_CLOUD,
    TF,
    TruthBox,
)
from bevdistill_ros.training.world.drive import LIDAR, Drive, Image, Keyframe, Reading, Sweep
from bevdistill_ros.training.world.nuscenes_writer import instance_token
from bevdistill_ros.training.world.taxonomy import CATEGORIES

POINT_FIELDS = ("x", "y", "z", "intensity", "ring", "time")
POSE_PERIOD = 10_000_000
"""ns between poses on /tf."""

SETTINGS = "bevdistill_world"
"""Key of the drive's settings in the bag's custom data."""


def read_settings(bag: Path) -> dict[str, Any]:
    """What the drive in a bag was made with.

    Raises:
        UserError: it is no bag of the world.
    """
    try:
        return json.loads(custom_data(bag)[SETTINGS])
    except (KeyError, ValueError):
        raise UserError(f"{bag}: exists, and is no bag that `world` has written; name another folder") from None


class DriveBagWriter:
    """Writes one drive; a context manager. The bag appears under its name when that is left without an error.

    Args:
        output: the bag's folder.
        drive: what the readings come from.
        settings: what the drive was made with; kept in the bag's metadata.
        storage: 'mcap' or 'sqlite3'.
    """

    def __init__(self, output: Path, drive: Drive, settings: dict[str, Any], storage: str = "mcap") -> None:
        self.drive = drive
        self._bag = BagWriter(output, storage, custom_data={SETTINGS: json.dumps(settings)})
        self._make = self._bag.messages
        self._last_pose: int | None = None

    def __enter__(self) -> DriveBagWriter:
        bag = self._bag.__enter__()
        bag.add_topic("/tf_static", TF, latched=True)
        bag.add_topic("/tf", TF)
        for channel in self.drive.cameras:
            bag.add_topic(f"/{channel.lower()}/camera_info", CAMERA_INFO)
            bag.add_topic(f"/{channel.lower()}/image_raw/compressed", COMPRESSED_IMAGE)
        bag.add_topic(f"/{LIDAR.lower()}/points", POINT_CLOUD)
        bag.add_topic("/annotations", DETECTIONS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bag.__exit__(kind, error, traceback)

    def add(self, reading: Reading) -> None:
        """Write the next reading of the drive, and the poses up to it."""
        if self._last_pose is None:
            self._add_static(reading.stamp)
        self._add_poses(reading.stamp)
        if isinstance(reading, Image):
            self._add_image(reading)
        elif isinstance(reading, Sweep):
            self._add_sweep(reading)
        else:
            self._add_keyframe(reading)

    def _add_static(self, stamp: int) -> None:
        mountings = {channel: ego_T_cam for channel, (_, ego_T_cam) in self.drive.cameras.items()}
        mountings[LIDAR] = self.drive.ego_T_lidar
        transforms = [self._transform(stamp, BASE_FRAME, name.lower(), T) for name, T in sorted(mountings.items())]
        self._bag.write("/tf_static", stamp, self._make.tf(transforms))

    def _add_poses(self, stamp: int) -> None:
        """Poses after the last one up to ``stamp``, at multiples of the period, and at ``stamp`` itself."""
        if self._last_pose is not None:
            first = (self._last_pose // POSE_PERIOD + 1) * POSE_PERIOD
            for between in range(first, stamp, POSE_PERIOD):
                self._add_pose(between)
        if self._last_pose != stamp:
            self._add_pose(stamp)

    def _add_pose(self, stamp: int) -> None:
        transform = self._transform(stamp, FIXED_FRAME, BASE_FRAME, self.drive.pose(stamp))
        self._bag.write("/tf", stamp, self._make.tf([transform]))
        self._last_pose = stamp

    def _add_image(self, image: Image) -> None:
        frame = image.channel.lower()
        camera, _ = self.drive.cameras[image.channel]
        info = self._make.camera_info(image.stamp, frame, camera.K, camera.width, camera.height)
        self._bag.write(f"/{frame}/camera_info", image.stamp, info)
        picture = self._make.compressed_image(image.stamp, frame, image.jpeg, "jpeg")
        self._bag.write(f"/{frame}/image_raw/compressed", image.stamp, picture)

    def _add_sweep(self, sweep: Sweep) -> None:
        frame = LIDAR.lower()
        points = np.column_stack([sweep.points, sweep.times]).astype("<f4")
        cloud = self._make.point_cloud(sweep.stamp, frame, POINT_FIELDS, points.tobytes())
        self._bag.write(f"/{frame}/points", sweep.stamp, cloud)

    def _add_keyframe(self, keyframe: Keyframe) -> None:
        base_T_map = invert(self.drive.pose(keyframe.stamp))
        boxes = [
            TruthBox(
                name,
                instance_token(self.drive.name, annotation.instance),
                transform_points(base_T_map, annotation.center),
                base_T_map[:3, :3] @ rotation_z(annotation.yaw),
                annotation.size,
            )
            for annotation in keyframe.annotations
            if (name := CATEGORIES[annotation.category])
        ]
        self._bag.write("/annotations", keyframe.stamp, self._make.truth(keyframe.stamp, BASE_FRAME, boxes))

    def _transform(self, stamp: int, parent: str, child: str, parent_T_child: np.ndarray) -> Any:
        xyzw = quaternion_from_rotation(parent_T_child[:3, :3])
        return self._make.transform(stamp, parent, child, parent_T_child[:3, 3], xyzw)
