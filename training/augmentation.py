"""Random changes of a sample that keep pixels, calibration and boxes consistent with one another."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from bevdistill_ros.config import AugmentationConfig
from bevdistill_ros.geometry import crop_matrix
from bevdistill_ros.training.data.nuscenes import Sample, turn_rig


def augment(sample: Sample, config: AugmentationConfig, rng: np.random.Generator) -> Sample:
    """Apply every augmentation of ``config``, with draws from ``rng``."""
    if config.camera_drop:
        sample = drop_cameras(
            sample, rng.random(len(sample.mask)) < config.camera_drop, keep=int(rng.integers(len(sample.mask)))
        )
    size = sample.images.shape[2], sample.images.shape[1]
    matrices = [_image_matrix(config, size, rng) for _ in sample.images]
    sample = warp_images(sample, matrices)
    sample = change_light(sample, rng.uniform(*config.contrast), rng.uniform(*config.brightness))
    if rng.random() < config.flip:
        sample = mirror(sample)
    if config.bev_scale != (1.0, 1.0):
        sample = scale_world(sample, rng.uniform(*config.bev_scale))
    if config.rig_yaw_deg:
        sample = turn_rig(sample, np.deg2rad(_draw_from_intervals(config.rig_yaw_deg, rng)))
    return sample


def _draw_from_intervals(intervals: tuple[tuple[float, float], ...], rng: np.random.Generator) -> float:
    lengths = np.array([high - low for low, high in intervals])
    low, high = intervals[rng.choice(len(intervals), p=lengths / lengths.sum())] if lengths.sum() > 0 else intervals[0]
    return float(rng.uniform(low, high))


def drop_cameras(sample: Sample, dropped: np.ndarray, keep: int) -> Sample:
    """Mask cameras and blacken their pixels; camera ``keep`` stays where all would go."""
    mask = sample.mask & ~dropped
    if not mask.any():
        mask = sample.mask & (np.arange(len(mask)) == keep) if sample.mask[keep] else sample.mask
    return replace(sample, mask=mask, images=sample.images * mask[:, None, None, None].astype(np.uint8))


def _image_matrix(config: AugmentationConfig, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Pixel matrix of a zoom and rotation about the image centre, then a shift."""
    width, height = size
    scale, angle = rng.uniform(*config.image_scale), np.deg2rad(rng.uniform(*config.image_rotation_deg))
    shift = rng.uniform(*config.image_shift, size=2) * size
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    to_center = crop_matrix((width - 1) / 2, (height - 1) / 2)
    back = crop_matrix(-(width - 1) / 2 - shift[0], -(height - 1) / 2 - shift[1])
    return back @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ to_center


def warp_images(sample: Sample, matrices: list[np.ndarray]) -> Sample:
    """Move the pixels of each image by its 3x3 pixel matrix A; K becomes A @ K."""
    if all(np.array_equal(A, np.eye(3)) for A in matrices):
        return sample
    size = sample.images.shape[2], sample.images.shape[1]
    images = np.stack(
        [cv2.warpAffine(i, A[:2], size, flags=cv2.INTER_LINEAR) for i, A in zip(sample.images, matrices, strict=True)]
    )
    return replace(sample, images=images, K=np.stack(matrices) @ sample.K)


def change_light(sample: Sample, contrast: float, brightness: float) -> Sample:
    """Pixels times ``contrast`` about mid grey, plus ``brightness`` grey levels, saturating."""
    if contrast == 1.0 and brightness == 0.0:
        return sample
    table = np.clip((np.arange(256) - 127.5) * contrast + 127.5 + brightness, 0, 255).round().astype(np.uint8)
    return replace(sample, images=table[sample.images] * sample.mask[:, None, None, None].astype(np.uint8))


def mirror(sample: Sample) -> Sample:
    """The world seen in a mirror: left becomes right in pictures, rig and boxes; the result is a proper rig again."""
    reflect_y, reflect_x = np.diag([1.0, -1.0, 1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0])
    flip_pixels = np.array([[-1.0, 0.0, sample.images.shape[2] - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    boxes = sample.boxes
    return replace(
        sample,
        images=np.ascontiguousarray(sample.images[:, :, ::-1]),
        K=flip_pixels @ sample.K @ reflect_x[:3, :3],
        ego_T_cam=reflect_y @ sample.ego_T_cam @ reflect_x,
        boxes=replace(
            boxes,
            centers=boxes.centers * (1, -1, 1),
            yaws=-boxes.yaws,
            velocities=boxes.velocities * (1, -1),
        ),
    )


def scale_world(sample: Sample, factor: float) -> Sample:
    """A world ``factor`` times the size, which gives the same pictures; ``ego_T_cam`` then scales, too, and is not rigid."""
    boxes = sample.boxes
    scale = np.diag([factor, factor, factor, 1.0])
    return replace(
        sample,
        ego_T_cam=scale @ sample.ego_T_cam,
        boxes=replace(
            boxes, centers=boxes.centers * factor, sizes=boxes.sizes * factor, velocities=boxes.velocities * factor
        ),
    )
