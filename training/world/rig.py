"""The car's sensors: six cameras and a LiDAR, laid out, timed and calibrated like those of a nuScenes car.

No two drives have quite the same car: mountings and focal lengths vary a little, so that a network cannot learn one
calibration by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevdistill_ros.geometry import EGO_R_OPTICAL, Camera, make_transform, rotation_z

PERIOD_NS = 500_000_000
"""Between keyframes; a multiple of the camera's and of the LiDAR's period."""

CAMERA_FRAMES, SWEEPS = 6, 10
"""Camera frames (12 Hz) and turns of the LiDAR (20 Hz) in a period."""

SWEEP_NS = PERIOD_NS // SWEEPS

# Channel: yaw of the optical axis (degrees), position in the base frame (m), focal length in image widths, and how long before
# the keyframe's stamp it exposes (us): rounded values of a nuScenes car, whose LiDAR triggers the cameras as it passes them.
CAMERAS = {
    "CAM_FRONT": (0.0, (1.70, 0.02, 1.51), 0.79, 35_500),
    "CAM_FRONT_RIGHT": (-56.0, (1.55, -0.49, 1.50), 0.79, 27_600),
    "CAM_BACK_RIGHT": (-110.0, (1.01, -0.48, 1.56), 0.79, 20_100),
    "CAM_BACK": (180.0, (0.03, 0.00, 1.58), 0.506, 10_400),
    "CAM_BACK_LEFT": (109.0, (1.04, 0.48, 1.59), 0.79, 500),
    "CAM_FRONT_LEFT": (56.0, (1.52, 0.49, 1.51), 0.79, 43_100),
}

LIDAR_POSITION = (0.94, 0.0, 1.84)
LIDAR_YAW = -np.pi / 2  # nuScenes' LiDAR frame: x to the right, y forward


@dataclass(frozen=True, eq=False)
class Rig:
    """Calibrated sensors of one drive's car.

    Attributes:
        cameras: by channel: intrinsics and ``ego_T_cam``.
        ego_T_lidar: (4, 4).
    """

    cameras: dict[str, tuple[Camera, np.ndarray]]
    ego_T_lidar: np.ndarray


def make_rig(rng: np.random.Generator, width: int, height: int) -> Rig:
    """A car's sensors; images of ``width`` x ``height`` pixels."""
    lift = rng.normal(0, 0.06)  # the whole rig sits higher or lower: another load, other tyres
    cameras = {}
    for channel, (yaw, position, focal, _) in CAMERAS.items():
        f = width * focal * (1 + rng.normal(0, 0.008))
        center = np.array([(width - 1) / 2, (height - 1) / 2]) + width * rng.normal((0.006, 0.026), 0.006)
        K = np.array([[f, 0, center[0]], [0, f, center[1]], [0, 0, 1]])
        roll, pitch, turn = np.radians(rng.normal(0, 0.8, 3))
        rotation = rotation_z(np.radians(yaw) + turn) @ _rotation_y(pitch) @ _rotation_x(roll) @ EGO_R_OPTICAL
        where = np.array(position) + rng.normal(0, 0.015, 3) + (0, 0, lift)
        cameras[channel] = (Camera(K, width, height), make_transform(rotation, where))
    tilt = _rotation_y(np.radians(rng.normal(0, 0.4))) @ _rotation_x(np.radians(rng.normal(0, 0.4)))
    ego_T_lidar = make_transform(rotation_z(LIDAR_YAW) @ tilt, np.array(LIDAR_POSITION) + (0, 0, lift))
    return Rig(cameras, ego_T_lidar)


def _rotation_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _rotation_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
