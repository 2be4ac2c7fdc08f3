"""Which cameras see which cells, against geometry.py and by hand; what a cell then reads from its images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.config import BevFormerConfig
from bevdistill_ros.geometry import BevGrid, Camera, invert, make_transform, rotation_z, transform_points
from bevdistill_ros.models.bevformer_encoder import SpatialCrossAttention
from bevdistill_ros.models.cell_views import NOWHERE, CellViews, ViewFinder

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
GRID = BevGrid(-16.0, 16.0, -12.0, 12.0, 2.0)
SIZE = (64, 96)
K = np.array([[60.0, 0.5, 45.5], [0.0, 62.0, 30.5], [0.0, 0.0, 1.0]])


def rig(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """K (N, 3, 3) and ego_T_cam (N, 4, 4) of cameras that look around, a little downwards, too."""
    pitch = np.array([[1, 0, 0], [0, math.cos(0.1), math.sin(0.1)], [0, -math.sin(0.1), math.cos(0.1)]])
    poses = [
        make_transform(rotation_z(0.3 + 2 * math.pi * i / count) @ FORWARD @ pitch, (0.5 * i, -0.2, 1.6))
        for i in range(count)
    ]
    return np.tile(K, (count, 1, 1)), np.stack(poses)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array[None]).float() for array in arrays]


def finder(heights: int = 4, z_min: float = -1.0, z_max: float = 3.0) -> ViewFinder:
    return ViewFinder(GRID, heights, z_min, z_max)


def listed(views: CellViews, image: int) -> dict[int, tuple[float, Tensor]]:
    """Share and places by cell, of one of the batch's images."""
    row = views.images.tolist().index(image)
    return {
        int(cell): (float(share), places)
        for cell, share, places in zip(views.cells[row], views.shares[row], views.places[row], strict=True)
        if share > 0
    }


def test_points_over_cell_centres_are_projected_as_geometry_does() -> None:
    all_K, poses = rig()
    pixels, depth = finder().project(*tensors(all_K, poses))
    assert pixels.shape == (1, 3, 12 * 16, 4, 2)
    centers = GRID.centers().reshape(-1, 2)
    points = np.concatenate(
        [np.repeat(centers, 4, axis=0), np.tile([-0.5, 0.5, 1.5, 2.5], len(centers))[:, None]], axis=1
    )
    for i, pose in enumerate(poses):
        expected, expected_depth = Camera(K, SIZE[1], SIZE[0]).project(transform_points(invert(pose), points))
        in_front = expected_depth > 0.1
        np.testing.assert_allclose(depth[0, i].flatten(), expected_depth, atol=1e-4)
        np.testing.assert_allclose(pixels[0, i].reshape(-1, 2)[in_front], expected[in_front], atol=0.02, rtol=1e-4)


def test_cells_seen_are_those_with_a_point_in_the_image_in_front() -> None:
    all_K, poses = (a[:4] for a in rig(5))  # nobody looks into the fifth direction
    views = finder()(*tensors(all_K, poses), torch.ones(1, 4, dtype=torch.bool), SIZE)
    centers = GRID.centers().reshape(-1, 2)
    camera = Camera(K, SIZE[1], SIZE[0])
    times_seen = np.zeros(len(centers))
    for i, pose in enumerate(poses):
        found = listed(views, i)
        for cell, (x, y) in enumerate(centers):
            pixels, depth = camera.project(
                transform_points(invert(pose), np.array([[x, y, z] for z in (-0.5, 0.5, 1.5, 2.5)]))
            )
            inside = (pixels >= -0.5).all(axis=1) & (pixels[:, 0] <= 95.5) & (pixels[:, 1] <= 63.5) & (depth > 0.1)
            assert (cell in found) == inside.any()
            if cell in found:
                times_seen[cell] += 1
                places = found[cell][1].numpy()
                np.testing.assert_allclose(places[inside] * (96, 64) - 0.5, pixels[inside], atol=0.02)
                assert (places[depth <= 0.1] == NOWHERE).all()
    assert {0, 1, 2} == set(times_seen.astype(int))  # the scene has all kinds of cells
    for i in range(4):
        assert all(share == pytest.approx(1 / times_seen[cell]) for cell, (share, _) in listed(views, i).items())


def test_samples_of_a_batch_and_absent_cameras_are_kept_apart() -> None:
    all_K, poses = (torch.cat([a, a]) for a in tensors(*rig(5)))
    mask = torch.tensor([[True, True, True, True, True], [True, False, True, True, True]])
    views = finder()(all_K, poses, mask, SIZE)
    assert views.images.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    cells = 12 * 16
    assert all(set(listed(views, i)) == {cell - cells for cell in listed(views, i + 5)} for i in (0, 2, 3, 4))
    seen_by_other = set(listed(views, 1)) & set(listed(views, 0))
    assert seen_by_other and all(listed(views, 0)[cell][0] == 0.5 for cell in seen_by_other)
    assert all(share == 1.0 for share, _ in (listed(views, 5)[cell + cells] for cell in seen_by_other))


def test_a_scaled_world_is_seen_alike() -> None:
    """Augmentation scales ``ego_T_cam``: on a grid of that size it sees what the rigid one saw."""
    all_K, poses = rig()
    scale = np.diag([1.25, 1.25, 1.25, 1.0])
    mask = torch.ones(1, 3, dtype=torch.bool)
    larger = ViewFinder(BevGrid(-20.0, 20.0, -15.0, 15.0, 2.5), 4, -1.25, 3.75)
    plain, scaled = finder()(*tensors(all_K, poses), mask, SIZE), larger(*tensors(all_K, scale @ poses), mask, SIZE)
    assert torch.equal(plain.cells, scaled.cells)
    torch.testing.assert_close(plain.places, scaled.places, atol=1e-3, rtol=1e-4)
    depth = larger.project(*tensors(all_K, scale @ poses))[1]  # in the camera's own metres, not in the world's
    torch.testing.assert_close(depth, finder().project(*tensors(all_K, poses))[1], atol=1e-4, rtol=1e-4)


def test_views_are_kept_in_use_as_long_as_the_calibration_stays() -> None:
    all_K, poses = tensors(*rig())
    mask, find = torch.ones(1, 3, dtype=torch.bool), finder().eval()
    first = find(all_K, poses, mask, SIZE)
    assert find(all_K.clone(), poses.clone(), mask.clone(), SIZE) is first
    moved = poses.clone()
    moved[0, 1, 0, 3] += 1.0
    fresh = finder().train()
    for arguments in (
        (all_K, moved, mask, SIZE),
        (all_K * 1.1, moved, mask, SIZE),
        (all_K, poses, torch.tensor([[True, False, True]]), SIZE),
        (all_K, poses, mask, (64, 80)),
        (all_K[:, :2], poses[:, :2], mask[:, :2], SIZE),
        (all_K, poses, mask, SIZE),
    ):
        kept, found = find(*arguments), fresh(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(kept, found))
    assert fresh(all_K, poses, mask, SIZE) is not fresh(all_K, poses, mask, SIZE)


def test_mixed_precision_does_not_touch_the_geometry() -> None:
    all_K, poses = tensors(*rig())
    exact = finder().project(all_K, poses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = finder().project(all_K, poses)
    assert all(torch.equal(a, b) for a, b in zip(exact, mixed))


def test_a_feature_painted_where_a_point_is_seen_reaches_that_points_cell() -> None:
    """Attention without offsets, of equal weights and identities: a cell reads its points' very pixels."""
    all_K, poses = (a[:4] for a in rig(5))  # nobody looks into the fifth direction
    attention = SpatialCrossAttention(
        BevFormerConfig(channels=4, layers=1, heads=1, levels=2, heights=1, points=2, bev_points=1)
    )
    inner = attention.attention
    with torch.no_grad():
        inner.offsets.bias.zero_()
        for linear in (inner.value, inner.output):
            linear.weight.copy_(torch.eye(4))
    camera, row, column = 2, 7, 6
    point = np.array([*GRID.centers()[row, column], 1.0])
    (u, v), depth = Camera(K, SIZE[1], SIZE[0]).project(transform_points(invert(poses[camera]), point))
    assert depth > 0 and 8 < u < 88 and 8 < v < 56
    maps = [torch.zeros(4, 4, SIZE[0] // stride, SIZE[1] // stride) for stride in (1, 2)]
    maps[0][camera, :, round(v), round(u)] = 1.0
    maps[1][camera, :, round((v - 0.5) / 2), round((u - 0.5) / 2)] = 1.0
    views = finder(1, 0.0, 2.0)(*tensors(all_K, poses), torch.ones(1, 4, dtype=torch.bool), SIZE)
    value = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)[views.images]
    shapes = [tuple(level.shape[-2:]) for level in maps]
    with torch.no_grad():
        found = attention(torch.zeros(1, 12 * 16, 4), value, shapes, views)[0, :, 0].view(12, 16)
    assert found[row, column] > 0.25  # bilinear: no less than a quarter of a pixel that is the nearest
    others = found.clone()
    others[row, column] = 0
    assert others.abs().max() < 0.05 * found[row, column]  # a cell far behind, which is seen a pixel above
    # What no camera sees is nothing, and what two see is their mean: of ones everywhere, one.
    everywhere = attention(torch.zeros(1, 12 * 16, 4), torch.ones_like(value), shapes, views)[0, :, 0]
    seen = torch.zeros(12 * 16, dtype=torch.bool)
    seen[views.cells[views.shares > 0]] = True
    well_inside = ((views.places > 0.03) & (views.places < 0.97)).all(-1).all(-1)
    border = torch.zeros(12 * 16, dtype=torch.bool)
    border[views.cells[(views.shares > 0) & ~well_inside]] = True
    assert 0 < (seen & ~border).sum() < seen.sum() < 12 * 16
    assert (views.shares[well_inside] == 0.5).any()
    assert (everywhere[~seen] == 0).all()
    torch.testing.assert_close(everywhere[seen & ~border], torch.ones(int((seen & ~border).sum())))
