"""Pillars: closed forms of their features, and what must not matter to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.config import PillarsConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.pillars import FEATURES, Pillars, reduce_pillars

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 2.0)


def make_pillars(channels: tuple[int, ...] = (6, 4)) -> Pillars:
    """16 columns and 8 rows of 1 m."""
    torch.manual_seed(0)
    return Pillars(PillarsConfig(cell=1.0, channels=channels, z_min=-2.0, z_max=4.0, intensity=100.0), GRID)


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform((-9, -5, -3, 0, 0), (9, 5, 5, 100, 0.5), (count, 5))).float()


def test_features_of_one_point() -> None:
    pillars = make_pillars()
    assigned = pillars.assign([torch.tensor([[2.3, -3.9, 1.0, 25.0, 0.2]])])
    # Row 0 (y from -4 to -3) and column 10 (x from 2 to 3), whose centre is (2.5, -3.5); the mean is the point itself.
    assert assigned.shape == (1, 8, 16) and assigned.cells.tolist() == [10] and assigned.counts.tolist() == [1]
    expected = [2.3 / 8, -3.9 / 8, 1.0 / 4, 0.25, 0.2, 0, 0, 0, -0.2, -0.4]
    features = pillars.features(assigned)
    assert features.shape == (1, FEATURES) and features[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_features_of_two_points_of_a_pillar() -> None:
    pillars = make_pillars()
    points = torch.tensor([[2.2, 0.1, 0.0, 0.0, 0.0], [2.6, 0.5, 3.0, 0.0, 0.0]])
    other = torch.tensor([[7.9, 0.5, 3.9, 0.0, 0.0]])
    from_mean = pillars.features(pillars.assign([torch.cat([points, other])]))[:, 5:8]
    assert torch.allclose(from_mean, torch.tensor([[-0.2, -0.2, -1.5], [0.2, 0.2, 1.5], [0, 0, 0]]), atol=1e-5)


def test_a_map_is_the_largest_of_each_pillars_points() -> None:
    pillars = make_pillars()
    points = torch.tensor([[2.2, 0.1, 0.0, 0.0, 0.0], [2.6, 0.5, 3.0, 9.0, 0.1], [-7.9, 3.9, 0.0, 50.0, 0.0]])
    assigned = pillars.assign([points])
    layers = pillars.layers(pillars.features(assigned))
    features = pillars([points])
    assert features.shape == (1, 4, 8, 16)
    assert torch.allclose(features[0, :, 4, 10], layers[:2].amax(dim=0)) and torch.allclose(
        features[0, :, 7, 0], layers[2]
    )
    assert int((features != 0).any(dim=1).sum()) == 2


def test_points_outside_and_points_that_are_no_numbers_do_not_count() -> None:
    inside = torch.tensor([[-8.0, -4.0, -2.0, 1.0, 0.0], [7.999, 3.999, 3.999, 1.0, 0.0]])
    outside = torch.tensor(
        [[8.0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0], [-8.01, 0, 0, 0, 0], [0, 0, 4.0, 0, 0], [0, 0, -2.01, 0, 0]]
    )
    bad = cloud(10).clamp(-1, 1)
    for i in range(10):
        bad[i, i % 5] = (math.nan, math.inf, -math.inf)[i % 3]
    pillars = make_pillars()
    found, expected = pillars([torch.cat([outside, inside, bad])]), pillars([inside])
    assert torch.equal(found, expected) and (found[0, :, 0, 0] != 0).any() and (found[0, :, 7, 15] != 0).any()


def test_an_empty_cloud_is_an_empty_map_and_trains() -> None:
    pillars = make_pillars()
    for points in ([torch.zeros(0, 5)] * 2, [torch.full((3, 5), math.nan)]):
        features = pillars(points)
        assert features.shape == (len(points), 4, 8, 16) and not features.any()
        features.sum().backward()
    mixed = pillars([torch.zeros(0, 5), cloud(50)])
    assert not mixed[0].any() and torch.equal(mixed[1:], pillars([cloud(50)]))
    mixed.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pillars.parameters())
    assert any(p.grad.any() for p in pillars.parameters())


def test_the_order_of_points_does_not_matter() -> None:
    pillars, points = make_pillars(), cloud(2000)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(pillars([points[order]]), pillars([points]), atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    pillars = make_pillars()
    clouds = [cloud(count, seed) for seed, count in enumerate((300, 0, 7, 1200))]
    together = pillars(clouds)
    for own, found in zip(clouds, together, strict=True):
        assert torch.allclose(pillars([own])[0], found, atol=1e-6)


def test_turning_points_by_a_right_angle_turns_their_cells() -> None:
    grid = BevGrid(-8.0, 8.0, -8.0, 8.0, 2.0)
    pillars = Pillars(PillarsConfig(cell=0.5, channels=(2,), z_min=-10, z_max=10), grid)
    points = cloud(3000)
    turned = points.clone()
    turned[:, 0], turned[:, 1] = -points[:, 1], points[:, 0]

    def counts(points: torch.Tensor) -> torch.Tensor:
        assigned = pillars.assign([points])
        canvas = torch.zeros(math.prod(assigned.shape), dtype=torch.long)
        return canvas.index_copy(0, assigned.cells, assigned.counts).view(assigned.shape)

    straight = counts(points)
    # +x becomes +y: what was in row r and column c is in row c and column last - r.
    assert straight.sum() > 2000 and torch.equal(counts(turned), torch.rot90(straight, -1, (1, 2)))


def test_far_from_the_origin_the_mean_keeps_its_digits() -> None:
    pillars = Pillars(PillarsConfig(cell=0.2, channels=(2,)), BevGrid(-400.0, 400.0, -400.0, 400.0, 0.8))
    points = torch.tensor([[399.9, -399.9, 0.0, 0, 0]]).repeat(1001, 1)
    points[:, 2] = torch.linspace(-1, 1, 1001)
    from_mean = pillars.features(pillars.assign([points]))[:, 5:8]
    assert from_mean[:, :2].abs().max() < 1e-3 and torch.allclose(from_mean[:, 2], points[:, 2], atol=1e-4)


def test_gradients_go_to_the_largest_alone() -> None:
    """Of the points of one pillar; the other pillar's point gets its own."""
    pillars = make_pillars((3,))
    points = torch.tensor([[2.2, 0.1, 0.0, 0.0, 0.0], [2.6, 0.5, 3.0, 90.0, 0.1], [-7.9, 3.9, 0.0, 50.0, 0.0]])
    assigned = pillars.assign([points])
    assert assigned.counts.tolist() == [2, 1]
    features = pillars.layers(pillars.features(assigned)).detach().requires_grad_()
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    (reduce_pillars(features, "max", assigned.counts) * weight).sum().backward()
    for channel in range(3):
        pair = features[:2, channel]
        expected = [0.5, 0.5] if pair[0] == pair[1] else [float(pair[0] > pair[1]), float(pair[1] > pair[0])]
        assert features.grad[:2, channel].tolist() == [weight[0, channel] * share for share in expected]
    assert features.grad[2].tolist() == [4, 5, 6]
