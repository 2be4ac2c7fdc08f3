"""Under augmentation all that a distillation compares stays in one place: mask, box, LiDAR pillars, and what cameras lift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.config import CLASS_NAMES, LiftConfig, PillarsConfig
from bevdistill_ros.geometry import BevGrid, Boxes, make_transform, rotation_z, transform_points
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.models.outputs import ImageFeatures
from bevdistill_ros.models.pillars import Pillars
from bevdistill_ros.training.augmentation import augment_geometry, draw_augmentation
from bevdistill_ros.training.config import AugmentationConfig
from bevdistill_ros.training.data.nuscenes import Sample
from bevdistill_ros.training.distill.config import Merge
from bevdistill_ros.training.distill.features import on_grid_of
from bevdistill_ros.training.distill.masks import box_areas, foreground_masks

GRID = BevGrid(-40.0, 40.0, -24.0, 24.0, 1.0)  # wider than high: rows and columns cannot be mistaken
WIDTH, HEIGHT, STRIDE = 512, 128, 8
CPU = torch.device("cpu")

AUGMENTATIONS = {
    "none": AugmentationConfig(),
    "flip": AugmentationConfig(flip=1.0),
    "turn": AugmentationConfig(rig_yaw_deg=((20.0, 20.0),)),
    "scale": AugmentationConfig(bev_scale=(1.15, 1.15)),
    "images": AugmentationConfig(image_scale=(1.1, 1.1), image_rotation_deg=(3.0, 3.0), image_shift=(0.04, 0.04)),
    "all": AugmentationConfig(
        flip=1.0,
        rig_yaw_deg=((-25.0, -25.0),),
        bev_scale=(0.9, 0.9),
        image_scale=(1.1, 1.1),
        image_rotation_deg=(-3.0, -3.0),
    ),
}


def scene() -> Sample:
    """A car ahead to the left, with LiDAR points all over it, before a camera that looks ahead."""
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    pose = make_transform(optical, (0.3, 0.1, 1.6))
    K = np.array([[400.0, 0.0, (WIDTH - 1) / 2], [0.0, 400.0, (HEIGHT - 1) / 2], [0.0, 0.0, 1.0]])
    box = Boxes([[19.3, 5.6, 1.0]], [[4.4, 1.9, 1.6]], [0.6], [[2.0, 0.0]], [1.0], [0], CLASS_NAMES)
    inside = np.random.default_rng(0).uniform(-0.5, 0.5, (300, 3)) * box.sizes[0]
    points = np.zeros((300, 5), np.float32)
    points[:, :3] = transform_points(make_transform(rotation_z(box.yaws[0]), box.centers[0]), inside)
    images = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    return Sample("token", images, K[None], pose[None], np.ones(1, bool), box, np.eye(4), 0, 0, points)


def lifted(sample: Sample) -> torch.Tensor:
    """(Y, X) what the student's lift makes of an image that is 1 where it shows the box's centre, at the depth that it has."""
    u, v, depth = sample.K[0] @ transform_points(np.linalg.inv(sample.ego_T_cam[0]), sample.boxes.centers[0])
    column, row = (int((value / depth + 0.5) / STRIDE) for value in (u, v))
    lift = Lift(LiftConfig(stride=8, bins=160, depth_min=1.0, depth_max=41.0, channels=1, neck_channels=1), GRID)
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    context = torch.zeros(1, 1, 1, h, w)
    context[0, 0, 0, row, column] = 1.0
    logits = torch.full((1, 1, 160, h, w), -1e4)
    logits[:, :, int((depth - 1.0) / 0.25)] = 0.0
    K, ego_T_cam = (torch.from_numpy(x).float()[None] for x in (sample.K, sample.ego_T_cam))
    plan = lift.plan(K, ego_T_cam, torch.ones(1, 1, dtype=torch.bool), (h, w))
    return lift.splat(ImageFeatures(logits, context), plan)[0, 0]


def peak(values: torch.Tensor) -> np.ndarray:
    """(column, row) of the greatest value (Y, X)."""
    return np.array([int(values.argmax()) % GRID.columns, int(values.argmax()) // GRID.columns])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_mask_box_points_and_pixels_are_in_one_place(name: str) -> None:
    before = scene()
    config = AUGMENTATIONS[name]
    drawn = draw_augmentation(config, before.mask, (WIDTH, HEIGHT), np.random.default_rng(0))
    sample = augment_geometry(before, drawn, WIDTH)
    center = GRID.to_cells(sample.boxes.centers[0, :2])
    cell = np.floor(center)
    moved = np.abs(cell - np.floor(GRID.to_cells(before.boxes.centers[0, :2]))).max()
    assert (moved > 1) == (name not in ("none", "images"))

    mask = foreground_masks([sample.boxes], GRID, 0.1, 1, Merge.MAX, CPU)[0, 0]
    np.testing.assert_array_equal(peak(mask), cell)

    # The teacher's pillars, and its map brought onto the student's grid: all in the box's area, about its centre.
    (area,) = box_areas(sample.boxes, GRID, CPU)
    pillars = Pillars(PillarsConfig(cell=0.5, channels=(1,)), GRID)
    points = torch.from_numpy(sample.points).float()
    occupied = torch.zeros(1, 1, 96, 160)
    occupied.view(-1)[pillars.assign([points]).cells] = 1.0
    seen = on_grid_of(mask[None, None], occupied)[0, 0]
    rows, columns = seen.nonzero().T
    weights = seen[rows, columns]
    middle = [float((weights * (x + 0.5)).sum() / weights.sum()) for x in (columns, rows)]
    np.testing.assert_allclose(middle, center, atol=0.25)
    assert float(seen[area].sum() / seen.sum()) > 0.6 and bool((seen[area] > 0).all())

    # What the student's camera lifts, to within a feature pixel (8 pixels at 20 m: 0.4 m) and a depth bin (0.25 m).
    up = lifted(sample)
    assert float(up.max()) == pytest.approx(1.0)
    assert np.abs(peak(up) + 0.5 - center).max() <= 0.5 + math.hypot(0.4, 0.25)
    assert np.abs(peak(up) - cell).max() <= 1
