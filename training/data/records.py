"""Poses in nuScenes' records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.geometry import make_transform, rotation_from_quaternion


def rotation_of(wxyz: Sequence[float]) -> np.ndarray:
    """(3, 3) of a quaternion in nuScenes' order."""
    w, x, y, z = wxyz
    return rotation_from_quaternion((x, y, z, w))


def pose_of(record: Mapping) -> np.ndarray:
    """(4, 4) of an ego_pose (global_T_ego) or a calibrated_sensor (ego_T_sensor) record."""
    return make_transform(rotation_of(record["rotation"]), record["translation"])


def ego_pose(nusc: NuScenes, sample_data: Mapping) -> np.ndarray:
    """global_T_ego at the time of a sample_data record."""
    return pose_of(nusc.get("ego_pose", sample_data["ego_pose_token"]))


def mounting(nusc: NuScenes, sample_data: Mapping) -> np.ndarray:
    """ego_T_sensor of a sample_data record."""
    return pose_of(nusc.get("calibrated_sensor", sample_data["calibrated_sensor_token"]))
