"""Every camera's image with ground, horizon and compass drawn by the calibration in use: a wrong transform is seen at once.

Where all is right, the drawn horizon lies on the picture's, the rings lie on the ground, and what one knows to be ahead
of the robot stands at FRONT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from bevdistill_ros.doctor.facts import CameraFacts
from bevdistill_ros.doctor.mounting import STEEP_DEG, direction
from bevdistill_ros.geometry import Camera, invert, make_transform, resize_matrix, transform_points
from bevdistill_ros.visualise import (
    Color,
    azimuth,
    bev_pixels,
    caption,
    draw_bev,
    draw_polyline,
    mosaic,
    project_segments,
)

RINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # m from the base frame's origin, on the ground
HORIZON_COLOR: Color = (255, 220, 60)
GROUND_COLOR: Color = (90, 230, 120)
AHEAD_COLOR: Color = (70, 70, 255)  # x is red and y green, as in RViz
LEFT_COLOR: Color = (60, 200, 60)
TROUBLE_COLOR: Color = (60, 60, 220)
_FAR = 1e3  # m; the length of directions that stand for points at infinity
_POINTS = {0: "FRONT", 90: "LEFT", 180: "BACK", 270: "RIGHT"}
_RANGE = (-15.0, 15.0, -15.0, 15.0)  # m seen from above
_REACH = 10.0  # m; length of a camera's sector seen from above


def draw_calibration(image: np.ndarray, camera: Camera, base_T_camera: np.ndarray) -> np.ndarray:
    """Draw rings and spokes on the ground (z = 0 of the base frame), the horizon and the compass. In place.

    Args:
        image: (H, W, 3) uint8 BGR of the size of ``camera``.
        camera: its calibration.
        base_T_camera: (4, 4), its pose.
    """
    camera_T_base = invert(base_T_camera)
    around = np.radians(np.arange(0, 361, 2))
    unit = np.stack([np.cos(around), np.sin(around), np.zeros(len(around))], axis=-1)
    thickness = max(1, round(camera.width / 640))

    def draw(starts: np.ndarray, ends: np.ndarray, transform: np.ndarray, color: Color, thickness: int) -> None:
        lines = project_segments(transform_points(transform, starts), transform_points(transform, ends), camera)
        for line in lines:
            draw_polyline(image, line, color, thickness)

    for radius in RINGS:
        draw(radius * unit[:-1], radius * unit[1:], camera_T_base, GROUND_COLOR, 1)
    radii = np.array([RINGS[0], *np.geomspace(RINGS[0], RINGS[-1], 12)[1:]])
    for degrees in range(0, 360, 30):
        spoke = radii[:, None] * _direction(degrees)
        color = {0: AHEAD_COLOR, 90: LEFT_COLOR}.get(degrees, GROUND_COLOR)
        draw(spoke[:-1], spoke[1:], camera_T_base, color, 2 * thickness if degrees in (0, 90) else 1)

    # Directions have no place: only the rotation counts.
    turn = make_transform(camera_T_base[:3, :3])
    draw(_FAR * unit[:-1], _FAR * unit[1:], turn, HORIZON_COLOR, thickness)
    taken: list[tuple[int, int, int, int]] = []
    scale = max(0.35, image.shape[1] / 640 * 0.4)
    for degrees in range(0, 360, 10):
        height = math.tan(math.radians(2.0 if degrees % 30 == 0 else 1.0))
        foot = _direction(degrees)
        draw(_FAR * foot[None], _FAR * (foot + (0, 0, height))[None], turn, HORIZON_COLOR, thickness)
        if degrees % 30 == 0:
            signed = degrees if degrees <= 180 else degrees - 360
            text = _POINTS.get(degrees, f"{abs(signed)} {'left' if signed > 0 else 'right'}")
            _label(image, camera, turn, _FAR * (foot + (0, 0, height)), text, HORIZON_COLOR, scale, taken)
    middle = math.degrees(azimuth(base_T_camera))
    for radius in RINGS:
        for aside in (5, -10, 20, -25, 40, -45):
            at = radius * _direction(middle + aside)
            if _label(image, camera, camera_T_base, at, f"{radius:g} m", GROUND_COLOR, scale, taken):
                break
    return image


def _direction(degrees: float) -> np.ndarray:
    """Unit vector of the ground, counter-clockwise from forward."""
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])


def _label(
    image: np.ndarray,
    camera: Camera,
    camera_T: np.ndarray,
    point: np.ndarray,
    text: str,
    color: Color,
    scale: float,
    taken: list[tuple[int, int, int, int]],
) -> bool:
    """Write at a point, if it is in the picture and free. Returns whether."""
    pixel, depth = camera.project(transform_points(camera_T, point))
    inside = (
        depth > 0 and np.isfinite(pixel).all() and (pixel >= 0).all() and (pixel < (camera.width, camera.height)).all()
    )
    before = len(taken)
    if inside:
        caption(image, text, (float(pixel[0]), float(pixel[1])), color, scale, taken)
    return len(taken) > before


def camera_picture(camera: CameraFacts, width: int) -> np.ndarray | None:
    """One camera's newest image, ``width`` pixels wide, with its calibration drawn; None without image."""
    if camera.picture is None:
        return None
    height = max(1, round(width * camera.picture.shape[0] / camera.picture.shape[1]))
    shrinks = width < camera.picture.shape[1]
    image = cv2.resize(camera.picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    trouble = _trouble(camera)
    if not trouble:
        known = camera.intrinsics.camera
        scaled = Camera(
            resize_matrix(width / known.width, height / known.height) @ known.K,
            width,
            height,
            known.distortion_model,
            known.D,
        )
        pose = camera.base_T_camera @ camera.intrinsics.frame_T_image
        draw_calibration(image, scaled, pose)
        text = f"looks {direction(math.degrees(azimuth(pose)))}, {pose[2, 3]:.2f} m up"
        if abs(pose[2, 2]) > math.sin(math.radians(90 - STEEP_DEG)):
            trouble = f"its optical axis (z) points {'up' if pose[2, 2] > 0 else 'down'}: no optical frame?"
    bottom = (0.0, float(height))
    caption(image, trouble or text, bottom, TROUBLE_COLOR if trouble else (60, 54, 50), max(0.35, width / 640 * 0.45))
    return image


def _trouble(camera: CameraFacts) -> str:
    """Why no calibration can be drawn; empty if it can."""
    if camera.intrinsics is None:
        return "no usable CameraInfo"
    known = camera.intrinsics.camera
    height, width = camera.picture.shape[:2]
    if (width, height) != (known.width, known.height):
        return f"{width}x{height}, calibrated for {known.width}x{known.height}"
    return "" if camera.base_T_camera is not None else "pose unknown"


def draw_sectors(cameras: Sequence[CameraFacts], size: int = 640) -> np.ndarray:
    """The rig from above, x forward is up: where each camera sits, and what it sees out to ten metres."""
    canvas = draw_bev(None, grid_range=_RANGE, size_px=size)
    taken: list[tuple[int, int, int, int]] = []
    for camera in cameras:
        if camera.base_T_camera is None or camera.intrinsics is None:
            continue
        pose, lens = camera.base_T_camera @ camera.intrinsics.frame_T_image, camera.intrinsics.camera
        edges = np.array([[u, lens.K[1, 2]] for u in np.linspace(-0.5, lens.width - 0.5, 13)])
        rays = lens.rays(edges)[..., :] @ pose[:3, :3].T
        flat = rays[:, :2] / np.maximum(np.linalg.norm(rays[:, :2], axis=-1, keepdims=True), 1e-9)
        flat = flat[np.isfinite(flat).all(axis=-1)]
        origin = pose[:2, 3]
        outline = bev_pixels(np.concatenate([origin[None], origin + _REACH * flat, origin[None]]), _RANGE, size)
        draw_polyline(canvas, outline, HORIZON_COLOR, 1)
        middle = bev_pixels(origin + 0.6 * _REACH * _direction(math.degrees(azimuth(pose)))[:2], _RANGE, size)
        caption(canvas, camera.name, (float(middle[0]) - 30, float(middle[1])), HORIZON_COLOR, 0.4, taken)
    return canvas


def picture(cameras: Sequence[CameraFacts], cell_width: int = 640) -> np.ndarray:
    """All cameras, placed by where they look, and the rig from above. One of unknown pose is put among those ahead."""
    poses = {camera.name: camera.base_T_camera if camera.base_T_camera is not None else np.eye(4) for camera in cameras}
    images = {camera.name: camera_picture(camera, cell_width) for camera in cameras}
    return mosaic(images, poses, draw_sectors(cameras), cell_width)
