"""Losses of the query head in closed form, and that they make it find boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import QueryHeadConfig
from bevdistill_ros.geometry import BevGrid, Boxes, wrap_angle
from bevdistill_ros.models.box_code import encode_boxes
from bevdistill_ros.models.outputs import QueryOutputs
from bevdistill_ros.models.query_head import QueryHead, decode_queries
from bevdistill_ros.training.config import QueryLossConfig
from bevdistill_ros.training.losses import gaussian_focal_loss
from bevdistill_ros.training.query_losses import auxiliary_loss, box_count, focal_loss, query_losses
from bevdistill_ros.training.targets import draw_heatmap

GRID = BevGrid(-16.0, 16.0, -12.8, 12.8, 1.6)
CLASSES = ("car", "pedestrian", "barrier")
CONFIG = QueryLossConfig()
NONE = Boxes.empty(CLASSES)


def make_boxes(count: int, seed: int = 0) -> Boxes:
    """Boxes of all classes, 4 m or more apart."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(-12, 13, 6), np.arange(-9, 10, 6)), axis=-1).reshape(-1, 2)
    return Boxes(
        centers=np.c_[places[rng.permutation(len(places))[:count]] + rng.uniform(-1, 1, (count, 2)), rng.uniform(-1, 1, count)],
        sizes=rng.uniform(0.5, 5, (count, 3)),
        yaws=rng.uniform(-3, 3, count),
        velocities=rng.normal(size=(count, 2)),
        scores=np.ones(count),
        labels=rng.integers(0, 3, count),
        class_names=CLASSES,
    )  # fmt: skip


def random_outputs(layers: int = 2, batch: int = 2, queries: int = 9, seed: int = 0) -> QueryOutputs:
    generator = torch.Generator().manual_seed(seed)
    return QueryOutputs(
        torch.randn(layers, batch, queries, 3, generator=generator).requires_grad_(),
        (5 * torch.randn(layers, batch, queries, 10, generator=generator)).requires_grad_(),
    )


def test_focal_loss_by_hand() -> None:
    logit = torch.tensor([math.log(0.8 / 0.2)])
    assert focal_loss(logit, torch.ones(1)) == pytest.approx(-0.25 * 0.2**2 * math.log(0.8), rel=1e-5)
    assert focal_loss(logit, torch.zeros(1)) == pytest.approx(-0.75 * 0.8**2 * math.log(0.2), rel=1e-5)


def test_losses_by_hand() -> None:
    """Two layers, two samples of one and two boxes; every query's logits are 0, so codes alone decide."""
    truth = [make_boxes(1), make_boxes(2, seed=1)]
    wanted = [torch.from_numpy(encode_boxes(found)).float() for found in truth]
    codes = torch.full((2, 2, 4, 10), 100.0)
    # Sample 0: query 2 in the first layer and query 0 in the second; sample 1: queries 3 and 1 in both.
    codes[0, 0, 2] = wanted[0][0] + torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 0.0])
    codes[1, 0, 0] = wanted[0][0] + torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 10, -10.0])
    codes[0, 1, [3, 1]] = wanted[1] + torch.tensor([0, 0, 2, 0, 0, 0, 0, 0, 0, 0.0])
    codes[1, 1, [3, 1]] = wanted[1]
    losses = query_losses(QueryOutputs(torch.zeros(2, 2, 4, 3), codes), truth, GRID, CONFIG)
    # Box: 1, then 0.2 * 20, then 2 for each of two boxes, then 0. Over the 3 boxes.
    assert losses["query_box"] == pytest.approx(0.25 * (1 + 4 + 4) / 3)
    # Class: of 2 * 2 * 4 * 3 logits 6 are of a box's class.
    background, foreground = 0.75 * 0.25 * math.log(2), 0.25 * 0.25 * math.log(2)
    assert losses["query_class"] == pytest.approx(2.0 * (42 * background + 6 * foreground) / 3, rel=1e-5)
    # Each sample alone, divided by the batch's count, gives its share.
    parts = [
        query_losses(QueryOutputs(torch.zeros(2, 1, 4, 3), codes[:, s, None]), truth[s : s + 1], GRID, CONFIG, torch.tensor(3.0))
        for s in range(2)
    ]  # fmt: skip
    for name, value in losses.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)


def test_queries_that_are_the_boxes_have_no_box_loss() -> None:
    truth = [make_boxes(5)]
    codes = torch.zeros(1, 1, 9, 10)
    order = torch.tensor([7, 2, 4, 0, 8])
    codes[0, 0, order] = torch.from_numpy(encode_boxes(truth[0])).float()
    logits = torch.full((1, 1, 9, 3), -30.0)
    logits[0, 0, order, torch.from_numpy(truth[0].labels)] = 30.0
    losses = query_losses(QueryOutputs(logits, codes), truth, GRID, CONFIG)
    assert losses["query_box"] == 0 and losses["query_class"] < 1e-6
    (found,) = decode_queries(QueryOutputs(logits, codes), CLASSES, QueryHeadConfig(queries=9), 0.5)
    assert len(found) == 5
    for i, center in enumerate(truth[0].centers):
        j = int(np.argmin(np.linalg.norm(found.centers - center, axis=1)))
        assert np.allclose(found.centers[j], center, atol=1e-4) and found.names[j] == truth[0].names[i]
        assert np.allclose(found.sizes[j], truth[0].sizes[i], rtol=1e-4)
        assert abs(wrap_angle(found.yaws[j] - truth[0].yaws[i])) < 1e-4


def test_permuted_queries_have_the_same_loss_and_permuted_gradients() -> None:
    truth, outputs = [make_boxes(4), make_boxes(7, seed=1)], random_outputs()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    losses = query_losses(outputs, truth, GRID, CONFIG)
    gradients = torch.autograd.grad(sum(losses.values()), [outputs.logits, outputs.codes])
    permuted = QueryOutputs(*(x.detach()[:, :, order].requires_grad_() for x in (outputs.logits, outputs.codes)))
    again = query_losses(permuted, truth, GRID, CONFIG)
    for name, value in losses.items():
        assert again[name].item() == pytest.approx(value.item(), rel=1e-5)
    found = torch.autograd.grad(sum(again.values()), [permuted.logits, permuted.codes])
    for own, other in zip(gradients, found, strict=True):
        torch.testing.assert_close(other, own[:, :, order])


def test_the_order_of_boxes_does_not_matter() -> None:
    truth, outputs = make_boxes(7), random_outputs(batch=1)
    losses = query_losses(outputs, [truth], GRID, CONFIG)
    again = query_losses(outputs, [truth[np.array([3, 1, 6, 0, 2, 5, 4])]], GRID, CONFIG)
    for name, value in losses.items():
        assert again[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_an_empty_frame_is_all_background(batch: int) -> None:
    outputs = random_outputs(batch=batch)
    losses = query_losses(outputs, [NONE] * batch, GRID, CONFIG)
    assert losses["query_box"] == 0
    background = 2.0 * focal_loss(outputs.logits, torch.zeros_like(outputs.logits))
    assert losses["query_class"].item() == pytest.approx(background.item(), rel=1e-5)  # divided by 1
    (gradient,) = torch.autograd.grad(losses["query_box"], outputs.codes)  # there is one: every process has the same
    assert not gradient.any()


def test_unknown_velocities_neither_count_nor_pass_a_gradient() -> None:
    truth = make_boxes(3)
    half_known = replace(
        truth, velocities=np.where([[True, True], [False, True], [True, True]], np.nan, truth.velocities)
    )
    outputs = random_outputs(layers=1, batch=1)
    velocity_only = replace(CONFIG, weights=(0.0, 0.0, 0.0, 0.0, 1.0))
    losses = query_losses(outputs, [half_known], GRID, velocity_only)
    (gradient,) = torch.autograd.grad(losses["query_box"], outputs.codes)
    assert gradient.isfinite().all() and (gradient != 0).sum() == 1
    (at,) = (gradient[0, 0, :, 8] != 0).nonzero()[:, 0].tolist()
    expected = 0.25 * abs(outputs.codes[0, 0, at, 8].item() - truth.velocities[1, 0]) / 3
    assert losses["query_box"].item() == pytest.approx(expected, rel=1e-5)


def test_only_matched_queries_learn_boxes_and_each_box_has_one() -> None:
    truth, outputs = [make_boxes(4), NONE], random_outputs(layers=1)
    (gradient,) = torch.autograd.grad(query_losses(outputs, truth, GRID, CONFIG)["query_box"], outputs.codes)
    assert gradient[0].any(dim=-1).sum(dim=-1).tolist() == [4, 0]
    # More boxes than queries: as many as there are queries.
    few = random_outputs(layers=1, batch=1, queries=3)
    (gradient,) = torch.autograd.grad(query_losses(few, truth[:1], GRID, CONFIG)["query_box"], few.codes)
    assert gradient[0].any(dim=-1).sum() == 3


def test_boxes_off_the_grid_do_not_count() -> None:
    truth = make_boxes(3)
    far = Boxes([[20.0, 0, 0]], [[4, 2, 1]], [0.0], [[0, 0]], [1], [0], CLASSES)
    names = ("centers", "sizes", "yaws", "velocities", "scores", "labels")
    both = Boxes(*(np.concatenate([getattr(truth, n), getattr(far, n)]) for n in names), CLASSES)
    outputs = random_outputs(batch=1)
    assert box_count([both, far, NONE], GRID) == 3
    one, other = (query_losses(outputs, [boxes], GRID, CONFIG) for boxes in (truth, both))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_given_count_divides() -> None:
    truth, outputs = [make_boxes(4)], random_outputs(batch=1)
    own = query_losses(outputs, truth, GRID, CONFIG)
    given = query_losses(outputs, truth, GRID, CONFIG, torch.tensor(10.0))
    for name, value in own.items():
        assert given[name].item() == pytest.approx(0.4 * value.item(), rel=1e-5)


def test_the_weights_of_the_configuration_are_used() -> None:
    truth, outputs = [make_boxes(4)], random_outputs(batch=1)
    own = query_losses(outputs, truth, GRID, CONFIG)
    other = query_losses(outputs, truth, GRID, replace(CONFIG, class_weight=1.0, box_weight=0.5))
    assert other["query_class"].item() == pytest.approx(0.5 * own["query_class"].item(), rel=1e-5)
    assert other["query_box"].item() == pytest.approx(2.0 * own["query_box"].item(), rel=1e-5)
    # Without the box cost it is the classes alone that decide.
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0, 1] = 3.0
    codes = torch.zeros(1, 1, 2, 10)
    codes[0, 0, 0] = torch.from_numpy(encode_boxes(make_boxes(1)))[0]
    near = query_losses(QueryOutputs(logits, codes), [make_boxes(1)], GRID, CONFIG)
    sure = query_losses(QueryOutputs(logits, codes), [make_boxes(1)], GRID, replace(CONFIG, box_cost=0.0))
    assert near["query_box"] == pytest.approx(0.0, abs=1e-5) and sure["query_box"] > 0.1


def test_predictions_that_are_not_finite_make_a_loss_that_is_not() -> None:
    outputs = random_outputs()
    for bad in (torch.nan, torch.inf):
        codes, logits = outputs.codes.detach().clone(), outputs.logits.detach().clone()
        codes[:] = bad
        assert not query_losses(QueryOutputs(logits, codes), [make_boxes(2), NONE], GRID, CONFIG)[
            "query_box"
        ].isfinite()
    logits[0, 0, 0, 0] = torch.nan
    assert not query_losses(QueryOutputs(logits, outputs.codes), [NONE, NONE], GRID, CONFIG)["query_class"].isfinite()


def test_losses_are_float32_whatever_the_outputs_are() -> None:
    outputs = random_outputs()
    half = QueryOutputs(outputs.logits.bfloat16(), outputs.codes.bfloat16())
    assert {v.dtype for v in query_losses(half, [make_boxes(3), NONE], GRID, CONFIG).values()} == {torch.float32}
    heatmap = torch.zeros(1, 3, 16, 20, dtype=torch.bfloat16)
    assert auxiliary_loss(heatmap, [NONE], GRID, CONFIG)["auxiliary_heatmap"].dtype == torch.float32


def test_auxiliary_loss_by_hand() -> None:
    truth = [make_boxes(3), NONE]
    logits = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([draw_heatmap(boxes, GRID, 0.1, 1, torch.device("cpu")) for boxes in truth])
    losses = auxiliary_loss(logits, truth, GRID, replace(CONFIG, heatmap_weight=0.5))
    assert losses["auxiliary_heatmap"].item() == pytest.approx(
        0.5 * float(gaussian_focal_loss(logits, maps)) / 3, rel=1e-5
    )
    empty = auxiliary_loss(logits, [NONE, NONE], GRID, CONFIG)["auxiliary_heatmap"]
    assert empty.item() == pytest.approx(float(gaussian_focal_loss(logits, torch.zeros_like(logits))), rel=1e-5)
    given = auxiliary_loss(logits, truth, GRID, CONFIG, torch.tensor(6.0))["auxiliary_heatmap"]
    assert given.item() == pytest.approx(losses["auxiliary_heatmap"].item(), rel=1e-5)


def test_the_heatmaps_least_radius_is_one_cell() -> None:
    small = Boxes([[0.4, 0.4, 0]], [[0.5, 0.5, 1]], [0.0], [[0, 0]], [1], [1], CLASSES)
    heatmap = draw_heatmap(small, GRID, CONFIG.heatmap_overlap, CONFIG.heatmap_min_radius, torch.device("cpu"))
    assert (heatmap[1] > 0).sum() == 9 and heatmap[1, 8, 10] == 1 and not heatmap[[0, 2]].any()
    assert heatmap[1, 8, 11] == pytest.approx(math.exp(-1 / (2 * 0.5**2)))


def test_a_head_learns_two_frames_by_heart() -> None:
    """From maps that show boxes' places and classes it learns to give each box once."""
    torch.manual_seed(0)
    truth = [make_boxes(3), make_boxes(5, seed=1)]
    maps = torch.stack([draw_heatmap(boxes, GRID, 0.1, 2, torch.device("cpu")) for boxes in truth])
    config = QueryHeadConfig(queries=16, channels=32, layers=2, heads=4, points=4, feedforward=32, dropout=0.0)
    head = QueryHead(3, 3, GRID, config)
    optimiser = torch.optim.AdamW(head.parameters(), 4e-3)
    for step in range(250):
        optimiser.param_groups[0]["lr"] = 4e-3 * min(1.0, (250 - step) / 100)
        losses = query_losses(head(maps), truth, GRID, CONFIG)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 10.0)
        optimiser.step()
    for boxes, found in zip(truth, decode_queries(head.eval()(maps), CLASSES, config, min_score=0.5), strict=True):
        assert len(found) == len(boxes)
        for i, center in enumerate(boxes.centers):
            j = int(np.argmin(np.linalg.norm(found.centers - center, axis=1)))
            assert np.linalg.norm(found.centers[j] - center) < 0.8 and found.names[j] == boxes.names[i]
            assert np.allclose(found.sizes[j], boxes.sizes[i], rtol=0.3)
