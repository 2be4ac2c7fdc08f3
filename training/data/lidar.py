"""LiDAR points of keyframes of any dataset in the nuScenes schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.config import PointsConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import invert, transform_points
from bevdistill_ros.models.pillars import POINT
from bevdistill_ros.training.data.inside import inside
from bevdistill_ros.training.data.records import ego_pose, mounting

FILE_POINT = 5
"""Values of a point in nuScenes' files, float32: x, y, z (m, the sensor's frame), intensity, ring."""


class LidarReader:
    """Reads the points of samples: of every LiDAR of the dataset, its keyframe's reading and those shortly before it."""

    def __init__(self, nusc: NuScenes, config: PointsConfig) -> None:
        self.nusc, self.config = nusc, config
        self.channels = [sensor["channel"] for sensor in nusc.sensor if sensor["modality"] == "lidar"]
        if not self.channels:
            raise UserError(f"{nusc.dataroot}: has no LiDAR (no sensor of modality 'lidar' in sensor.json)")

    def points(self, token: str, global_T_ego: np.ndarray, t_ref: int) -> np.ndarray:
        """Points (n, POINT) float32 of a sample, in the base frame at a reference time; none where it has no reading.

        Every reading comes there by its own ego pose, so that what stands still is in one place. What moves is where it was
        measured; its age tells how long ago.

        Args:
            token: of the sample.
            global_T_ego: (4, 4) pose of the base frame at ``t_ref``.
            t_ref: ns.

        Raises:
            UserError: a file is missing or damaged.
        """
        data = self.nusc.get("sample", token)["data"]
        readings = [r for channel in self.channels if channel in data for r in self._readings(data[channel])]
        clouds = [np.zeros((0, POINT), np.float32), *(self._cloud(r, global_T_ego, t_ref) for r in readings)]
        return np.concatenate(clouds)

    def _readings(self, token: str) -> Iterator[dict]:
        """The sample_data record ``token`` and those before it that are not too old, latest first."""
        record = self.nusc.get("sample_data", token)
        oldest = record["timestamp"] - self.config.seconds * 1e6
        yield record
        while self.config.seconds and record["prev"]:
            record = self.nusc.get("sample_data", record["prev"])
            if record["timestamp"] < oldest:
                return
            yield record

    def _cloud(self, record: dict, global_T_ego: np.ndarray, t_ref: int) -> np.ndarray:
        values = read_points(
            inside(self.nusc.dataroot, record["filename"], f"{self.nusc.version}/sample_data.json: filename")
        )
        xyz = transform_points(mounting(self.nusc, record), values[:, :3].astype(np.float64))
        # The vehicle is left out where it was at that time, not where it is now.
        x_min, x_max, y_min, y_max = self.config.ego
        x, y = xyz[:, 0], xyz[:, 1]
        kept = ~((x >= x_min) & (x < x_max) & (y >= y_min) & (y < y_max))
        ref_T_then = invert(global_T_ego) @ ego_pose(self.nusc, record)
        age = (t_ref - record["timestamp"] * 1000) * 1e-9
        cloud = np.empty((int(kept.sum()), POINT), np.float32)
        cloud[:, :3] = transform_points(ref_T_then, xyz[kept])
        cloud[:, 3], cloud[:, 4] = values[kept, 3], age
        return cloud


def read_points(path: Path) -> np.ndarray:
    """(n, FILE_POINT) float32 of a .pcd.bin file, as it is.

    Raises:
        UserError: it is missing, empty or cut short.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not content or len(content) % (4 * FILE_POINT):
        raise UserError(
            f"{path}: is damaged or no .pcd.bin file: {len(content)} bytes, not a number of points of {4 * FILE_POINT} bytes"
        )
    return np.frombuffer(content, np.float32).reshape(-1, FILE_POINT)
