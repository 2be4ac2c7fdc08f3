"""Under augmentation all that a distillation compares stays in one place: mask, box, what a LiDAR teacher makes of points, what a
camera's pixels are lifted to, and what BEV queries read of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bevdistill_ros.config import CLASS_NAMES, BevFormerConfig, LiftConfig, PillarsConfig
from bevdistill_ros.geometry import BevGrid, Boxes, make_transform, rotation_z, transform_points
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bevformer_encoder import SpatialCrossAttention
from bevdistill_ros.models.cell_views import ViewFinder
from bevdistill_ros.models.center_head import decode
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.models.outputs import CenterOutputs, ImageFeatures
from bevdistill_ros.models.pillars import Pillars
from bevdistill_ros.plain_data import to_dict
from bevdistill_ros.training.augmentation import augment, augment_geometry, draw_augmentation
from bevdistill_ros.training.config import AugmentationConfig, CenterLossConfig
from bevdistill_ros.training.data.nuscenes import Sample
from bevdistill_ros.training.distill.config import Merge
from bevdistill_ros.training.distill.features import on_grid_of
from bevdistill_ros.training.distill.masks import box_areas, foreground_masks
from bevdistill_ros.training.targets import center_targets

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
        rig_yaw_deg=((-27.0, -27.0),),
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


# ------------------------------------------------------------------------------------------------- whole paths, place by hand


def place_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the car's centre (x, y) is after an augmentation, by hand, and the cell (column, row) that it lies in, well inside."""
    config = AUGMENTATIONS[name]
    x, y = scene().boxes.centers[0, :2]
    y = -y if config.flip else y
    yaw = math.radians(config.rig_yaw_deg[0][0]) if config.rig_yaw_deg else 0.0
    place = np.array([x * math.cos(yaw) - y * math.sin(yaw), x * math.sin(yaw) + y * math.cos(yaw)])
    place *= config.bev_scale[0]
    cell = np.floor((place - (GRID.x_min, GRID.y_min)) / GRID.cell).astype(int)
    middle = (cell + 0.5) * GRID.cell + (GRID.x_min, GRID.y_min)
    assert np.abs(place - middle).max() < 0.4 * GRID.cell
    return place, cell


def painted(sample: Sample) -> np.ndarray:
    """(1, HEIGHT, WIDTH, 3) uint8: the picture of a ground that is white below the car's centre and black 4 m from there."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(sample.K[0]).T @ sample.ego_T_cam[0, :3, :3].T
    origin = sample.ego_T_cam[0, :3, 3]
    down = np.minimum(rays[..., 2], -1e-6)
    ground = origin[:2] - rays[..., :2] * (origin[2] / down)[..., None]
    squared = ((ground - sample.boxes.centers[0, :2]) ** 2).sum(axis=-1)
    return np.repeat((255 * np.exp(-squared / (2 * 1.5**2)))[None, ..., None], 3, axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_bev_queries_read_a_place_in_its_cell(name: str) -> None:
    """Of the pictures as they are augmented, by two scales of features, without offsets and with nothing learnt."""
    _, cell = place_of(name)
    before = scene()
    sample = augment(replace(before, images=painted(before)), AUGMENTATIONS[name], np.random.default_rng(0))
    config = BevFormerConfig(
        channels=4, heads=1, levels=2, heights=1, points=1, bev_points=1, z_min=-0.5, z_max=0.5
    )  # one height: the ground
    cross = SpatialCrossAttention(config)
    with torch.no_grad():
        cross.attention.offsets.bias.zero_()
        torch.nn.init.eye_(cross.attention.value.weight)
        torch.nn.init.eye_(cross.attention.output.weight)
    K, ego_T_cam = (torch.from_numpy(x).float()[None] for x in (sample.K, sample.ego_T_cam))
    size = sample.images.shape[1:3]
    views = ViewFinder(GRID, config.heights, config.z_min, config.z_max)(
        K, ego_T_cam, torch.ones(1, 1, dtype=torch.bool), size
    )
    picture = torch.from_numpy(sample.images).float().permute(0, 3, 1, 2)[:, :1] / 255
    maps = [F.avg_pool2d(picture, stride) for stride in (1, 2)]
    value = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1).expand(-1, -1, 4)
    with torch.no_grad():
        read = cross(torch.zeros(1, GRID.rows * GRID.columns, 4), value, [m.shape[-2:] for m in maps], views)
    seen = read[0, :, 0].view(GRID.rows, GRID.columns)
    np.testing.assert_array_equal(peak(seen), cell)
    assert float(seen.max()) > 0.85
    rows, columns = np.mgrid[: GRID.rows, : GRID.columns]
    far = torch.from_numpy(np.hypot(columns - cell[0], rows - cell[1]) > 6)
    assert float(seen[far].max()) < 0.1


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("scale", [1, 2])
def test_a_teachers_features_change_where_points_are(name: str, scale: int, make_teacher) -> None:
    """Through the whole network, with stages below its grid and without: a post of points among others."""
    place, cell = place_of(name)
    rng = np.random.default_rng(0)
    before = scene()
    post, others = np.zeros((60, 5), np.float32), np.zeros((2000, 5), np.float32)
    post[:, :3] = (*before.boxes.centers[0, :2], 0.0) + rng.uniform((-0.03, -0.03, 0.0), (0.03, 0.03, 1.5), (60, 3))
    others[:, :3] = rng.uniform((-40, -24, -1), (40, 24, 2), (2000, 3))
    sample = augment(replace(before, points=np.concatenate([others, post])), AUGMENTATIONS[name], rng)
    with_post = torch.from_numpy(sample.points)
    strides = {1: [1, 2], 2: [2, 2]}[scale]
    second = {"strides": strides, "layers": [1, 1], "channels": [32, 32], "channels_out": 32}
    pillars = {"cell": GRID.cell / scale, "channels": [32]}
    model = make_teacher(grid=to_dict(GRID), pillars=pillars, second=second, norm="batch").config
    changed = torch.zeros(GRID.rows, GRID.columns)
    torch.manual_seed(0)
    teacher = build_network(model).eval()
    # With its filters turned over in either direction, too: none of them leans to one side of what it sees.
    for over in ([], [2], [3], [2]):
        for weights in teacher.parameters():
            if weights.dim() == 4:
                weights.data = weights.data.flip(over)
        with torch.no_grad():
            found, without = (teacher([points]).bev[0] for points in (with_post, with_post[: len(others)]))
        changed += (found - without).square().sum(dim=0)
    assert np.abs(peak(changed) - cell).max() <= 1
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in changed.shape), indexing="ij")
    middle = [float((changed * x).sum() / changed.sum()) for x in (columns, rows)]
    # All that is known of the post is its pillar.
    size = model.pillars.cell
    pillar = (np.floor((place - (GRID.x_min, GRID.y_min)) / size) + 0.5) * size / GRID.cell
    # A stage that halves the map sees it half a pillar aside, since its filters are centred on every other one.
    np.testing.assert_allclose(middle, pillar + (1 - size / GRID.cell) / 2, atol=0.2)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_masks_and_targets_are_where_the_object_is(name: str, make_student) -> None:
    """And what the head is to regress there is the box, to its velocity."""
    place, cell = place_of(name)
    config = AUGMENTATIONS[name]
    sample = augment(scene(), config, np.random.default_rng(0))
    model = replace(make_student().config, grid=GRID)
    targets = center_targets([sample.boxes], model, CenterLossConfig(), CPU)
    for map_of in (targets.heatmap[0, 0], foreground_masks([sample.boxes], GRID, 0.1, 2, Merge.SUM, CPU)[0, 0]):
        np.testing.assert_array_equal(peak(map_of), cell)
        assert float(map_of.max()) == 1.0
    (area,) = box_areas(sample.boxes, GRID, CPU)
    assert bool(area[cell[1], cell[0]])

    found = CenterOutputs(torch.logit(targets.heatmap, 1e-6), targets.codes.nan_to_num())
    (boxes,) = decode(found, GRID, model.classes, model.head, min_score=0.9)
    turn, mirror = math.radians(config.rig_yaw_deg[0][0]) if config.rig_yaw_deg else 0.0, -1 if config.flip else 1
    yaw, size = mirror * 0.6 + turn, config.bev_scale[0]
    np.testing.assert_allclose(boxes.centers, [[*place, 1.0 * size]], atol=1e-4)
    np.testing.assert_allclose(boxes.sizes, [[4.4 * size, 1.9 * size, 1.6 * size]], rtol=1e-5)
    np.testing.assert_allclose([np.cos(boxes.yaws), np.sin(boxes.yaws)], [[np.cos(yaw)], [np.sin(yaw)]], atol=1e-5)
    np.testing.assert_allclose(boxes.velocities, 2.0 * size * np.array([[np.cos(turn), np.sin(turn)]]), atol=1e-5)
