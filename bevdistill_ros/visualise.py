"""Boxes drawn on camera images and on a view from above; only OpenCV and NumPy, as the node's overlay uses it too.

Images are (H, W, 3) uint8 in BGR order. Predictions are drawn in the colour of their class, ground truth thin and
white.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np

from bevdistill_ros.geometry import BOX_EDGES, Boxes, Camera, invert, transform_points

Color = tuple[int, int, int]

CLASS_COLORS: dict[str, Color] = {
    # blue, green, red
    "car": (60, 160, 255),
    "truck": (40, 90, 235),
    "bus": (30, 215, 255),
    "trailer": (150, 130, 190),
    "construction_vehicle": (60, 120, 165),
    "pedestrian": (255, 170, 60),
    "motorcycle": (210, 80, 235),
    "bicycle": (190, 60, 130),
    "traffic_cone": (60, 60, 220),
    "barrier": (120, 200, 60),
}
TRUTH_COLOR: Color = (255, 255, 255)
BACKGROUND: Color = (34, 30, 28)

NEAR = 0.1
"""Edges are cut at this depth (m) in front of the camera."""

_FRONT_FACE = (0, 3, 7, 4)
_FRONT_DIAGONALS = ((0, 7), (3, 4))
_SHIFT = 4  # OpenCV draws with coordinates of 1/16 pixel
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def color_of(class_name: str) -> Color:
    """BGR colour of a class, always the same for the same name; bright ones for names beyond the ten of nuScenes."""
    if class_name in CLASS_COLORS:
        return CLASS_COLORS[class_name]
    number = zlib.crc32(class_name.encode())
    red, green, blue = colorsys.hsv_to_rgb((number % 360) / 360.0, 0.55 + 0.45 * ((number >> 9) % 2), 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


# -------------------------------------------------------------------------------------------------------- camera images


def draw_boxes(
    image: np.ndarray, boxes: Boxes, camera: Camera, ego_T_cam: np.ndarray, truth: bool = False, labels: bool = True
) -> np.ndarray:
    """Draw wire frames of boxes into a camera image, the farthest first. Draws in place and returns the image.

    Args:
        image: (H, W, 3) uint8 BGR, of the size of ``camera``.
        boxes: boxes of the base frame.
        camera: calibration of this image; its lens model bends the edges.
        ego_T_cam: the camera's pose in the base frame (4, 4), at the boxes' time.
        truth: draw thin and white, the front face crossed, without label; else in the class's colour, the front face
            filled.
        labels: write class and score above each predicted box.

    Raises:
        ValueError: the image is not of the camera's size.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise ValueError(f"image is {image.shape[1]}x{image.shape[0]}, its calibration {camera.width}x{camera.height}")
    boxes = boxes[_is_drawable(boxes)]
    corners = transform_points(invert(ego_T_cam), boxes.corners().reshape(-1, 3)).reshape(-1, 8, 3)
    in_front = np.flatnonzero(corners[..., 2].max(axis=1, initial=-np.inf) > NEAR)
    order = in_front[np.argsort(-corners[in_front, :, 2].mean(axis=1), kind="stable")]
    boxes, corners = boxes[order], corners[order]
    edges = np.array([*BOX_EDGES, *_FRONT_DIAGONALS] if truth else BOX_EDGES)
    frames = project_segments(corners[:, edges[:, 0]], corners[:, edges[:, 1]], camera)
    outlines = project_segments(corners[:, _FRONT_FACE], corners[:, np.roll(_FRONT_FACE, -1)], camera)
    colors = [TRUTH_COLOR if truth else color_of(name) for name in boxes.names]
    thickness = 1 if truth else max(1, round(camera.width / 800))
    captions = []
    for frame, outline, color, name, score in zip(frames, outlines, colors, boxes.names, boxes.scores, strict=True):
        if not truth:
            _fill(image, outline.reshape(-1, 2), color)
        seen = [point for polyline in frame for point in draw_polyline(image, polyline, color, thickness)]
        if seen and labels and not truth:
            left, top = np.min(seen, axis=0)
            captions.append((f"{name} {score:.2f}", (float(left), float(top)), color))
    # The nearest boxes' captions first; those that would cover one already there are left out.
    taken: list[tuple[int, int, int, int]] = []
    for text, anchor, color in reversed(captions):
        caption(image, text, anchor, color, _text_scale(image.shape[1]), taken)
    return image


def _is_drawable(boxes: Boxes) -> np.ndarray:
    """(N,) bool: boxes that are finite, and so near and small that OpenCV's fixed-point numbers hold them."""
    numbers = np.concatenate([boxes.centers, boxes.sizes, boxes.yaws[:, None]], axis=1)
    return (np.abs(numbers) < 1e4).all(axis=1)


def project_segments(starts: np.ndarray, ends: np.ndarray, camera: Camera) -> np.ndarray:
    """Straight segments of the camera frame, ``starts`` to ``ends`` (..., 3), as polylines of pixels (..., n, 2).

    What lies behind the near plane is cut away in space, before projection. Under distortion n is 25, else 2. Vertices
    are NaN where nothing remains of a segment, and where the lens can form no image; they may lie outside of the image.
    """
    starts, ends = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    z0, z1 = starts[..., 2], ends[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        at_plane = (NEAR - z0) / (z1 - z0)
    first = np.where(z0 < NEAR, at_plane, 0.0)
    last = np.where(z1 < NEAR, at_plane, 1.0)
    gone = (z0 < NEAR) & (z1 < NEAR)
    first, last = np.where(gone, np.nan, first), np.where(gone, np.nan, last)
    steps = np.linspace(0.0, 1.0, 25 if camera.is_distorted else 2)
    fractions = first[..., None] + (last - first)[..., None] * steps
    return camera.project(starts[..., None, :] + fractions[..., None] * (ends - starts)[..., None, :])[0]


def draw_polyline(image: np.ndarray, polyline: np.ndarray, color: Color, thickness: int) -> list[np.ndarray]:
    """Draw the part of a polyline (n, 2) within the image; returns the end points of its pieces."""
    seen = []
    for p, q in pairwise(polyline):
        clipped = _clip_to_image(p, q, image.shape[1], image.shape[0])
        if clipped is not None:
            cv2.line(image, _fixed(clipped[0]), _fixed(clipped[1]), color, thickness, cv2.LINE_AA, _SHIFT)
            seen.extend(clipped)
    return seen


def _clip_to_image(p: np.ndarray, q: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of the 2-D segment p-q inside the image (Liang-Barsky); None if there is none, or an end is NaN."""
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return None
    direction = q - p
    first, last = 0.0, 1.0
    for axis, upper in ((0, width - 0.5), (1, height - 0.5)):
        for sign, bound in ((-1.0, 0.5), (1.0, upper)):  # sign * coordinate <= bound; the lower border is at -0.5
            speed, room = sign * direction[axis], bound - sign * p[axis]
            if speed == 0.0:
                if room < 0.0:
                    return None
            elif speed > 0.0:
                last = min(last, room / speed)
            else:
                first = max(first, room / speed)
    return (p + first * direction, p + last * direction) if first <= last else None


def _fill(image: np.ndarray, outline: np.ndarray, color: Color, opacity: float = 0.3) -> None:
    """Tint a polygon of pixels (n, 2); only the rectangle about it is touched.

    NaN vertices are left out: a polygon cut by the near plane is closed along the cut, as both ends of the cut are in
    the outline.
    """
    outline = outline[np.isfinite(outline).all(axis=1)]
    if len(outline) < 3:
        return
    height, width = image.shape[:2]
    low = np.clip(np.floor(outline.min(axis=0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    region = image[low[1] : high[1], low[0] : high[0]]
    vertices = np.clip(outline - low, -1e6, 1e6)  # what OpenCV's fixed-point numbers hold
    tinted = region.copy()
    cv2.fillPoly(tinted, [np.round(vertices * (1 << _SHIFT)).astype(np.int32)], color, cv2.LINE_AA, _SHIFT)
    region[...] = cv2.addWeighted(tinted, opacity, region, 1.0 - opacity, 0.0)


def caption(
    image: np.ndarray,
    text: str,
    anchor: tuple[float, float],
    color: Color,
    scale: float,
    taken: list[tuple[int, int, int, int]] | None = None,
) -> None:
    """Text on a plate of ``color`` whose bottom left corner is ``anchor`` (pixels), moved to stay within the image.

    It is left out if it would overlap one of the rectangles ``taken`` (left, top, right, bottom), else it joins them.
    """
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    pad = max(1, round(6 * scale))
    total_w, total_h = width + 2 * pad, height + baseline + pad
    left = int(np.clip(anchor[0], 0, max(0, image.shape[1] - total_w)))
    top = int(np.clip(anchor[1] - total_h, 0, max(0, image.shape[0] - total_h)))
    right, bottom = left + total_w, top + total_h
    if taken is not None:
        if any(left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in taken):
            return
        taken.append((left, top, right, bottom))
    cv2.rectangle(image, (left, top), (right, bottom), color, cv2.FILLED)
    luminance = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]
    ink = (0, 0, 0) if luminance > 110 else (255, 255, 255)
    cv2.putText(image, text, (left + pad, top + height + pad // 2), _FONT, scale, ink, 1, cv2.LINE_AA)


def _text_scale(width: int) -> float:
    return float(np.clip(width / 1600 * 0.5, 0.3, 1.2))


def _fixed(point) -> tuple[int, int]:
    return round(float(point[0]) * (1 << _SHIFT)), round(float(point[1]) * (1 << _SHIFT))


# ----------------------------------------------------------------------------------------------------------- from above


def bev_pixels(xy: np.ndarray, grid_range: Sequence[float], size_px: int) -> np.ndarray:
    """Positions (..., 2) of the base frame (m) to pixels (..., 2) of ``draw_bev``: x forward is up, y left is left."""
    _, x_max, _, y_max = grid_range
    scale = size_px / (grid_range[1] - grid_range[0])
    xy = np.asarray(xy, dtype=np.float64)
    return np.stack([(y_max - xy[..., 1]) * scale - 0.5, (x_max - xy[..., 0]) * scale - 0.5], axis=-1)


def draw_bev(
    boxes: Boxes | None,
    truth: Boxes | None = None,
    grid_range: Sequence[float] = (-51.2, 51.2, -51.2, 51.2),
    size_px: int = 800,
) -> np.ndarray:
    """View from above: x forward is UP, y left is LEFT; range rings every 10 m, the ego vehicle as a white arrow head.

    Predictions are outlined in the colour of their class, brighter with a higher score; ground truth thin and white. A
    tick goes from the centre through the front face, an arrow to where the box will be in one second.

    Args:
        boxes, truth: boxes of the base frame, or None.
        grid_range: (x_min, x_max, y_min, y_max) in metres.
        size_px: height of the picture, for x_max - x_min; the width follows from the range of y.

    Returns:
        (size_px, width, 3) uint8 BGR.
    """
    x_min, x_max, y_min, y_max = grid_range
    scale = size_px / (x_max - x_min)
    canvas = np.full((size_px, max(1, round((y_max - y_min) * scale)), 3), BACKGROUND, np.uint8)

    def point(x: float, y: float) -> tuple[int, int]:
        return _fixed(bev_pixels(np.array([x, y]), grid_range, size_px))

    reach = float(np.hypot(max(abs(x_min), abs(x_max)), max(abs(y_min), abs(y_max))))
    for radius in np.arange(10.0, reach, 10.0):
        cv2.circle(canvas, point(0, 0), round(radius * scale * (1 << _SHIFT)), (78, 72, 68), 1, cv2.LINE_AA, _SHIFT)
        u, v = bev_pixels(np.array([radius, 0.0]), grid_range, size_px)
        if v > 10:
            place, text_scale = (round(u) + 3, round(v) - 2), max(0.3, size_px / 800 * 0.4)
            cv2.putText(canvas, f"{radius:.0f} m", place, _FONT, text_scale, (130, 124, 120), 1, cv2.LINE_AA)
    nose = [point(2.4, 0.0), point(-2.0, 1.1), point(-1.2, 0.0), point(-2.0, -1.1)]
    cv2.fillPoly(canvas, [np.array(nose, np.int32)], (235, 235, 235), cv2.LINE_AA, _SHIFT)

    width = max(1, round(size_px / 500))
    if truth is not None:
        truth = truth[_is_drawable(truth)]
        for i in range(len(truth)):
            _draw_from_above(canvas, truth[i], TRUTH_COLOR, 1, point)
    if boxes is not None:
        boxes = boxes[_is_drawable(boxes)]
        for i in np.argsort(boxes.scores, kind="stable"):
            strength = 0.45 + 0.55 * float(np.clip(boxes.scores[i], 0.0, 1.0))
            faded = np.array(color_of(boxes.names[i])) * strength + np.array(BACKGROUND) * (1 - strength)
            _draw_from_above(canvas, boxes[i], tuple(int(c) for c in faded), width, point)
    return canvas


def _draw_from_above(canvas: np.ndarray, box: Boxes, color: Color, thickness: int, point) -> None:
    x, y = box.centers[0, :2]
    length, yaw = box.sizes[0, 0], box.yaws[0]
    outline = np.array([point(*corner) for corner in box.corners()[0, :4, :2]], np.int32)
    cv2.polylines(canvas, [outline], True, color, thickness, cv2.LINE_AA, _SHIFT)
    tick = length / 2 + min(0.6, length / 3)
    tip = point(x + tick * np.cos(yaw), y + tick * np.sin(yaw))
    cv2.line(canvas, point(x, y), tip, color, thickness, cv2.LINE_AA, _SHIFT)
    velocity = box.velocities[0]
    if 0.5 < np.hypot(*velocity) < 1e3:  # false for NaN, an unknown velocity
        start, end = point(x, y), point(x + velocity[0], y + velocity[1])
        cv2.arrowedLine(canvas, start, end, color, thickness, cv2.LINE_AA, _SHIFT, tipLength=0.25)


# --------------------------------------------------------------------------------------------------------------- mosaic


def azimuth(ego_T_cam: np.ndarray) -> float:
    """Direction of a camera's optical axis in the base frame, radians counter-clockwise from forward."""
    return float(np.arctan2(ego_T_cam[1, 2], ego_T_cam[0, 2]))


def rows_by_azimuth(poses: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Camera names in two rows by where they look: ahead, from left to right; behind, from left over back to right.

    A camera that looks exactly sideways belongs to the row ahead.
    """
    angles = {name: azimuth(pose) for name, pose in poses.items()}
    ahead = [name for name in angles if abs(angles[name]) <= np.pi / 2 + 1e-6]
    behind = [name for name in angles if name not in ahead]
    return sorted(ahead, key=lambda name: -angles[name]), sorted(behind, key=lambda name: angles[name] % (2 * np.pi))


def mosaic(
    images: Mapping[str, np.ndarray | None],
    ego_T_cam: Mapping[str, np.ndarray],
    bev: np.ndarray | None = None,
    cell_width: int = 640,
    gap: int = 4,
) -> np.ndarray:
    """All cameras in one picture, placed by where they look: those ahead above, those behind below.

    Args:
        images: by camera name, of any size; None for a camera without image. Their boxes are drawn already.
        ego_T_cam: by camera name, the pose that places it.
        bev: a picture as of ``draw_bev``, put at the right and scaled to the height of the mosaic.
        cell_width: width of every camera's picture in pixels; heights follow.
        gap: pixels between the pictures.
    """
    rows = [row for row in rows_by_azimuth({name: ego_T_cam[name] for name in images}) if row]
    shapes = [image.shape for image in images.values() if image is not None]
    cell_height = max((round(cell_width * shape[0] / shape[1]) for shape in shapes), default=round(cell_width * 9 / 16))
    columns = max((len(row) for row in rows), default=0)
    height = len(rows) * (cell_height + gap) - gap if rows else 0
    width = columns * (cell_width + gap) - gap if rows else 0
    canvas = np.full((max(height, 0), max(width, 0), 3), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        indent = (columns - len(row)) * (cell_width + gap) // 2
        for c, name in enumerate(row):
            cell = _cell(images[name], cell_width, cell_height)
            text = name if images[name] is not None else f"{name}: no image"
            caption(cell, text, (0.0, 0.0), (60, 54, 50), scale=max(0.35, cell_width / 640 * 0.5))
            top, left = r * (cell_height + gap), indent + c * (cell_width + gap)
            canvas[top : top + cell_height, left : left + cell_width] = cell
    if bev is None:
        return canvas
    if not rows:
        return bev.copy()
    scaled_width = max(1, round(bev.shape[1] * height / bev.shape[0]))
    shrinks = height < bev.shape[0]
    scaled = cv2.resize(bev, (scaled_width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.concatenate([canvas, np.full((height, gap, 3), BACKGROUND, np.uint8), scaled], axis=1)


def _cell(image: np.ndarray | None, width: int, height: int) -> np.ndarray:
    """A picture fitted into a cell (its width, centred vertically); grey without picture."""
    cell = np.full((height, width, 3), BACKGROUND if image is not None else (70, 70, 70), np.uint8)
    if image is not None:
        own_height = min(height, round(width * image.shape[0] / image.shape[1]))
        interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
        top = (height - own_height) // 2
        cell[top : top + own_height] = cv2.resize(image, (width, own_height), interpolation=interpolation)
    return cell
