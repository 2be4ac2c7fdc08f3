"""What a sensor_msgs/CameraInfo says of a camera. Without ROS: the message may be rclpy's or one that `rosbags` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bevdistill_ros.geometry import MAX_COEFFICIENTS, Camera, crop_matrix, make_transform, resize_matrix
from bevdistill_ros.images import check_image_size

MAX_BASELINE = 1e6
"""Metres between two cameras that one CameraInfo may tell of."""


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """How a camera images.

    Attributes:
        camera: K, size and distortion of the images as they arrive.
        frame_T_image: (4, 4), from the camera that ``camera`` describes to the frame of the message; they differ
            where P of a rectified camera has a fourth column (a stereo pair gives both cameras in the left one's
            frame).
    """

    camera: Camera
    frame_T_image: np.ndarray


def intrinsics_from_info(info: Any, rectified: bool = False) -> Intrinsics:
    """The camera of a sensor_msgs/CameraInfo, for images as its binning and region of interest deliver them.

    Width, height, K and P are of the full sensor, as the message defines them. A region of interest crops, then
    binning joins whole blocks of pixels; with pixel centres at integers that moves the principal point by half a
    pixel of each size (``geometry.resize_matrix``).

    Args:
        info: the message.
        rectified: the images are undistorted by P; else they are raw, and K and D hold.

    Raises:
        ValueError: the message does not describe a camera. The text names the field.
    """
    try:
        check_image_size(info.width, info.height)
    except ValueError:
        raise ValueError(
            f"width and height are {info.width}x{info.height}: the driver has no calibration for this image size"
        ) from None
    if len(info.d) > MAX_COEFFICIENTS:
        raise ValueError(f"field d has {len(info.d)} distortion coefficients, no model more than {MAX_COEFFICIENTS}")
    field = "p" if rectified else "k"
    matrix = np.array(getattr(info, field), dtype=np.float64).reshape(3, -1)
    if not matrix.any():
        raise ValueError(f"field {field} is all zero: calibrate the camera, or give it in calibration_file")
    K = matrix[:, :3]
    baseline = np.zeros(3)
    if rectified:
        # P = [K | K t]: the point p of the frame is at p + t in the camera that K describes.
        if not np.isfinite(matrix).all() or abs(np.linalg.det(K)) < 1e-12:
            raise ValueError(f"field p = {matrix.reshape(-1).tolist()} is no projection matrix")
        baseline = -np.linalg.solve(K, matrix[:, 3])
        if not np.linalg.norm(baseline) <= MAX_BASELINE:
            raise ValueError(f"field p: its fourth column puts the camera {baseline.tolist()} m away")
    left, top, width, height = _region(info)
    binning_x, binning_y = max(1, info.binning_x), max(1, info.binning_y)
    if width < binning_x or height < binning_y:
        raise ValueError(f"binning {binning_x}x{binning_y} leaves nothing of {width}x{height} pixels")
    A = resize_matrix(1 / binning_x, 1 / binning_y) @ crop_matrix(left, top)
    try:
        camera = Camera(
            K=A @ K,
            width=width // binning_x,
            height=height // binning_y,
            distortion_model="" if rectified else info.distortion_model,
            D=np.zeros(0) if rectified else np.array(info.d, dtype=np.float64),
        )
    except ValueError as error:
        fields = "p" if rectified else "k, d or distortion_model"
        raise ValueError(f"field {fields}: {error}") from None
    return Intrinsics(camera, make_transform(translation=baseline))


def _region(info: Any) -> tuple[int, int, int, int]:
    """Left, top, width and height of the region of interest; a region of zeros means the whole sensor."""
    roi = info.roi
    if roi.width == 0 and roi.height == 0:
        return 0, 0, info.width, info.height
    if (
        roi.width == 0
        or roi.height == 0
        or roi.x_offset + roi.width > info.width
        or roi.y_offset + roi.height > info.height
    ):
        raise ValueError(
            f"field roi: {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset}) is not inside of "
            f"{info.width}x{info.height}"
        )
    return roi.x_offset, roi.y_offset, roi.width, roi.height
