"""Random changes of a sample that keep pixels, calibration, LiDAR points and boxes consistent with one another.

What a training draws is drawn once (``draw_augmentation``), the same for every network that sees the sample, and then applied
apart: to calibration, points and boxes by ``augment_geometry``, to the pixels by ``change_pixels`` here with OpenCV, or by
``device_images.py`` on the training's device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from bevdistill_ros.geometry import Boxes, crop_matrix
from bevdistill_ros.models.pixels import PIXEL_MEAN
from bevdistill_ros.training.config import AugmentationConfig
from bevdistill_ros.training.data.nuscenes import Sample, move_points, turn_rig

GRID_KEPT = 0.5
"""Share of a period of the grid that no square covers, in either direction."""

LUMA = (0.114, 0.587, 0.299)
"""Weights of blue, green and red in a pixel's grey value."""

COVER = tuple(round(value) for value in PIXEL_MEAN)
"""BGR of what is covered: the mean pixel, which the networks see as 0."""


class PixelChange(NamedTuple):
    """What happens to the pixels of a sample of N cameras, in this order.

    Attributes:
        matrices: (N, 3, 3), a pixel of each image moves to A @ pixel; where none comes from it is black.
        grey: bool, the whole set loses its colours (luma).
        colours: (N, 3, 3), a BGR pixel of a set that is not ``grey`` becomes C @ pixel, see ``colour_matrices``; (0, 3, 3) where
            the configuration leaves colours alone, which shows without waiting for a GPU's numbers.
        contrast, brightness: (N,), pixels times contrast about mid grey, plus brightness grey levels, saturating.
        visible: (N,) bool, the images of the other cameras become black.
        flip: bool, left becomes right.
        grid: (3,) int, period and shift (x, y) in pixels of the squares that are covered, see ``grid_squares``; period 0: none.
    """

    matrices: np.ndarray
    grey: np.ndarray
    colours: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray
    visible: np.ndarray
    flip: np.ndarray
    grid: np.ndarray


@dataclass(frozen=True, eq=False)
class Augmentation:
    """One draw: what happens to the pixels, then to the world.

    Attributes:
        pixels: see there.
        mask: (N,) bool, cameras that remain.
        scale: the world's size factor.
        yaw: the rig is turned by it, radians.
    """

    pixels: PixelChange
    mask: np.ndarray
    scale: float
    yaw: float


def augment(sample: Sample, config: AugmentationConfig, rng: np.random.Generator) -> Sample:
    """Apply every augmentation of ``config``, with draws from ``rng``."""
    size = sample.images.shape[2], sample.images.shape[1]
    drawn = draw_augmentation(config, sample.mask, size, rng)
    changed = augment_geometry(sample, drawn, size[0])
    return replace(changed, images=change_pixels(sample.images, drawn.pixels))


def draw_augmentation(
    config: AugmentationConfig, mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> Augmentation:
    """Draw once for a sample whose cameras ``mask`` (N,) are there, of images of ``size`` = (width, height)."""
    cameras = len(mask)
    if config.camera_drop and rng.random() < config.camera_drop:
        mask = drop_cameras(mask, config.camera_drop_most, rng)
    matrices = np.stack([_image_matrix(config, size, rng) for _ in range(cameras)])
    contrast = np.full(cameras, rng.uniform(*config.contrast))
    brightness = np.full(cameras, rng.uniform(*config.brightness))
    flip = rng.random() < config.flip
    scale = rng.uniform(*config.bev_scale) if config.bev_scale != (1.0, 1.0) else 1.0
    yaw = np.deg2rad(_draw_from_intervals(config.rig_yaw_deg, rng)) if config.rig_yaw_deg else 0.0
    grey = bool(config.grayscale) and rng.random() < config.grayscale
    contrast *= rng.uniform(*config.camera_contrast, size=cameras)
    brightness += rng.uniform(*config.camera_brightness, size=cameras)
    grid = np.zeros(3, np.int64)
    if config.grid_mask and rng.random() < config.grid_mask:
        period = rng.integers(2, max(size[1], 3))  # below the images' height, whatever their shape
        grid = np.array([period, *rng.integers(period, size=2)])
    colours = np.zeros((0, 3, 3))
    if config.recolours:
        saturation = rng.uniform(*config.saturation) * rng.uniform(*config.camera_saturation, size=cameras)
        hue = rng.uniform(*config.hue_deg) + rng.uniform(*config.camera_hue_deg, size=cameras)
        colours = colour_matrices(saturation, np.deg2rad(hue))
    # Whatever else comes to be drawn is drawn here, after all of it: a seed's older draws then stay as they are.
    pixels = PixelChange(matrices, np.array(grey), colours, contrast, brightness, mask, np.array(flip), grid)
    return Augmentation(pixels, mask, scale, yaw)


def _draw_from_intervals(intervals: tuple[tuple[float, float], ...], rng: np.random.Generator) -> float:
    lengths = np.array([high - low for low, high in intervals])
    low, high = intervals[rng.choice(len(intervals), p=lengths / lengths.sum())] if lengths.sum() > 0 else intervals[0]
    return float(rng.uniform(low, high))


def drop_cameras(mask: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: ``mask`` without 1 to ``most`` of its cameras, each number as likely as the others; one camera always stays."""
    present = mask.nonzero()[0]
    most = min(most, len(present) - 1)
    kept = mask.copy()
    if most > 0:
        kept[rng.choice(present, int(rng.integers(1, most + 1)), replace=False)] = False
    return kept


def _image_matrix(config: AugmentationConfig, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Pixel matrix of a zoom and rotation about the image centre, then a shift."""
    width, height = size
    scale, angle = rng.uniform(*config.image_scale), np.deg2rad(rng.uniform(*config.image_rotation_deg))
    shift = rng.uniform(*config.image_shift, size=2) * size
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    to_center = crop_matrix((width - 1) / 2, (height - 1) / 2)
    back = crop_matrix(-(width - 1) / 2 - shift[0], -(height - 1) / 2 - shift[1])
    return back @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ to_center


# -------------------------------------------------------------------------------------------------------------- pixels


def change_pixels(images: np.ndarray, change: PixelChange) -> np.ndarray:
    """Images (N, H, W, 3) uint8 BGR, changed; the input is left as it is. H and W may be 0: pixels that were not asked for."""
    if not images.size:
        return images
    size = images.shape[2], images.shape[1]
    changed = np.zeros_like(images)
    squares = grid_squares(size, change.grid) if change.grid[0] else None
    for i, image in enumerate(images):
        if not change.visible[i]:
            continue
        if not np.array_equal(change.matrices[i], np.eye(3)):
            image = cv2.warpAffine(image, change.matrices[i][:2], size, flags=cv2.INTER_LINEAR)
        if change.grey:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        if len(change.colours) and not change.grey:
            image = cv2.transform(image, _light_and_colours(change, i))
        elif change.contrast[i] != 1.0 or change.brightness[i] != 0.0:
            image = cv2.LUT(image, light_table(change.contrast[i], change.brightness[i]))
        changed[i] = image[:, ::-1] if change.flip else image
        if squares is not None:
            changed[i][squares] = COVER
    return changed


def grid_squares(size: tuple[int, int], grid: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels that GridMask (Chen et al. 2020) covers, a square in the corner of every period, the same in all
    images of a set; a quarter of the pixels. It has BEVFormer's settings, whose grid does not turn.

    Args:
        size: (width, height).
        grid: see ``PixelChange``.
    """
    period, *shift = grid
    kept = np.floor(period * GRID_KEPT + 0.5)  # of every period, in either direction
    x, y = ((np.arange(length) - start) % period >= kept for length, start in zip(size, shift, strict=True))
    return y[:, None] & x


def colour_matrices(saturation: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """(N, 3, 3): what BGR pixels are multiplied by so that their distance from their grey value becomes ``saturation`` (N,) times
    as large, and their colour then turns by ``hue`` (N,) radians about the grey axis: 2/3 pi make red green, and green blue.

    Greys keep their value.
    """
    scale, cos, sin = (value[:, None, None] for value in (saturation, np.cos(hue), np.sin(hue)))
    saturate = scale * np.eye(3) + (1 - scale) * np.array(LUMA)
    across = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]) / np.sqrt(3)  # red to green, in BGR
    return (cos * np.eye(3) + (1 - cos) / 3 + sin * across) @ saturate


def _light_and_colours(change: PixelChange, i: int) -> np.ndarray:
    """(3, 4) matrix of what happens to the colours, contrast and brightness of image ``i``, in one pass over its pixels."""
    contrast, brightness = change.contrast[i], change.brightness[i]
    return np.column_stack([contrast * change.colours[i], np.full(3, 127.5 * (1 - contrast) + brightness)])


def light_table(contrast: float, brightness: float) -> np.ndarray:
    """(256,) uint8: what each grey level becomes."""
    return np.clip((np.arange(256) - 127.5) * contrast + 127.5 + brightness, 0, 255).round().astype(np.uint8)


# ---------------------------------------------------------------------------------------- calibration, points and boxes


def augment_geometry(sample: Sample, drawn: Augmentation, width: int) -> Sample:
    """Calibration, mask, points and boxes after a draw, for images ``width`` pixels wide; ``sample.images`` stay as they are."""
    sample = replace(sample, K=drawn.pixels.matrices @ sample.K, mask=drawn.mask)
    if drawn.pixels.flip:
        sample = mirror(sample, width)
    if drawn.scale != 1.0:
        sample = scale_world(sample, drawn.scale)
    return turn_rig(sample, drawn.yaw) if drawn.yaw else sample


def mirror(sample: Sample, width: int) -> Sample:
    """Calibration, points and boxes of the world seen in a mirror: left becomes right in pictures ``width`` pixels wide, rig,
    points and boxes; the result is a proper rig again."""
    reflect_y, reflect_x = np.diag([1.0, -1.0, 1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0])
    flip_pixels = np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return replace(
        sample,
        K=flip_pixels @ sample.K @ reflect_x[:3, :3],
        ego_T_cam=reflect_y @ sample.ego_T_cam @ reflect_x,
        boxes=mirror_boxes(sample.boxes),
        doubtful=mirror_boxes(sample.doubtful),
        points=move_points(sample.points, reflect_y),
    )


def mirror_boxes(boxes: Boxes) -> Boxes:
    """Left becomes right."""
    return replace(boxes, centers=boxes.centers * (1, -1, 1), yaws=-boxes.yaws, velocities=boxes.velocities * (1, -1))


def scale_world(sample: Sample, factor: float) -> Sample:
    """A world ``factor`` times the size, which gives the same pictures; ``ego_T_cam`` then scales, too, and is not rigid."""
    scale = np.diag([factor, factor, factor, 1.0])
    return replace(
        sample,
        ego_T_cam=scale @ sample.ego_T_cam,
        boxes=scale_boxes(sample.boxes, factor),
        doubtful=scale_boxes(sample.doubtful, factor),
        points=move_points(sample.points, scale),
    )


def scale_boxes(boxes: Boxes, factor: float) -> Boxes:
    """Boxes of a world ``factor`` times the size."""
    return replace(
        boxes, centers=boxes.centers * factor, sizes=boxes.sizes * factor, velocities=boxes.velocities * factor
    )
