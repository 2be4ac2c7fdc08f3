"""What tests of conversion ask of a dataset: its readings, keyframes and boxes, by what they are and not by their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from pyquaternion import Quaternion


def matrix(record: dict) -> np.ndarray:
    """(4, 4) of a record with translation and rotation."""
    T = Quaternion(record["rotation"]).transformation_matrix
    T[:3, 3] = record["translation"]
    return T


@dataclass
class Reading:
    """A row of sample_data with what it refers to."""

    row: dict
    pose: np.ndarray
    mounting: np.ndarray
    K: list
    path: Path
    sample: int

    @property
    def points(self) -> np.ndarray:
        return np.fromfile(self.path, "<f4").reshape(-1, 5)


class Dataset:
    """A dataset opened by nuscenes-devkit."""

    def __init__(self, root: Path, version: str = "v1.0-bags") -> None:
        self.nusc = nusc = NuScenes(version, str(root), verbose=False)
        self.samples = sorted(nusc.sample, key=lambda sample: sample["timestamp"])
        stamps = {sample["token"]: sample["timestamp"] for sample in self.samples}
        self.readings: dict[tuple[str, int], Reading] = {}
        for row in nusc.sample_data:
            mounting = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
            self.readings[row["channel"], row["timestamp"]] = Reading(
                row,
                matrix(nusc.get("ego_pose", row["ego_pose_token"])),
                matrix(mounting),
                mounting["camera_intrinsic"],
                root / row["filename"],
                stamps[row["sample_token"]],
            )

    @property
    def keyframe_stamps(self) -> list[int]:
        """us."""
        return [sample["timestamp"] for sample in self.samples]

    def boxes(self, number: int) -> list[dict[str, Any]]:
        """Boxes of the detection classes of a sample, by place."""
        found = []
        for token in self.samples[number]["anns"]:
            box, row = self.nusc.get_box(token), self.nusc.get("sample_annotation", token)
            name = category_to_detection_name(box.name)
            if name:
                found.append(
                    {
                        "name": name,
                        "center": box.center,
                        "wlh": box.wlh,
                        "rotation": box.rotation_matrix,
                        "velocity": self.nusc.box_velocity(token),
                        "points": row["num_lidar_pts"],
                        "instance": row["instance_token"],
                    }
                )
        return sorted(found, key=lambda box: tuple(box["center"].round(3)))


def pictures(dataset: Dataset) -> list[Reading]:
    """All images."""
    return [reading for reading in dataset.readings.values() if reading.row["fileformat"] == "jpg"]
