"""The cameras that a model was trained on, as its file tells: how they imaged, and where they were mounted.

A checkpoint's ``training`` may hold them under ``rig``, by name: ``width`` and ``height`` in pixels, ``K`` as 9 numbers and
``base_T_camera`` as 12 (the upper three rows), row by row. Files of before have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevdistill_ros.errors import brief
from bevdistill_ros.geometry import Camera

RIG = "rig"
_MOST = 64  # cameras, and characters of a name
_FAR = 1e4  # m


@dataclass(frozen=True, eq=False)
class RigCamera:
    """One camera: how it images, and its (4, 4) pose in the base frame as mounted (optical frame, m)."""

    camera: Camera
    base_T_camera: np.ndarray


def rig_to_plain(rig: Mapping[str, RigCamera]) -> dict[str, dict[str, Any]]:
    """What goes into a checkpoint's ``training`` under ``RIG``; lenses without distortion only, as datasets have them."""
    return {
        name: {
            "width": view.camera.width,
            "height": view.camera.height,
            "K": view.camera.K.reshape(-1).round(3).tolist(),
            "base_T_camera": view.base_T_camera[:3].reshape(-1).round(6).tolist(),
        }
        for name, view in rig.items()
    }


def rig_of(training: Mapping[str, Any]) -> dict[str, RigCamera]:
    """The rig that a checkpoint's ``training`` tells; empty where it tells none.

    Raises:
        ValueError: what it tells is no rig. The file may come from anybody.
    """
    plain = training.get(RIG, {})
    if not isinstance(plain, Mapping) or len(plain) > _MOST:
        raise ValueError(f"{RIG} is {brief(plain)}, not at most {_MOST} cameras by name")
    return {_name(name): _camera(f"{RIG}.{_name(name)}", entry) for name, entry in plain.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _MOST or not name.isprintable():
        raise ValueError(f"{RIG} has {brief(name)}, which is no name of a camera")
    return name


def _camera(where: str, entry: Any) -> RigCamera:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {brief(entry)}, not a mapping")
    width, height = entry.get("width"), entry.get("height")
    if not all(type(side) is int and 0 < side <= 65536 for side in (width, height)):
        raise ValueError(f"{where}: width and height are {brief(width)} and {brief(height)}, not numbers of pixels")
    K = _numbers(f"{where}.K", entry.get("K"), 9).reshape(3, 3)
    pose = np.eye(4)
    pose[:3] = _numbers(f"{where}.base_T_camera", entry.get("base_T_camera"), 12).reshape(3, 4)
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}.base_T_camera holds no rotation")
    return RigCamera(Camera(K, width, height), pose)


def _numbers(where: str, value: Any, count: int) -> np.ndarray:
    numbers = isinstance(value, list) and len(value) == count
    if not numbers or not all(type(v) in (int, float) and abs(v) <= _FAR for v in value):
        raise ValueError(f"{where} is {brief(value)}, not {count} numbers")
    return np.array(value, dtype=np.float64)
