"""The query head: where it looks, how layers refine boxes, and decoding without suppression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import QueryHeadConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.box_code import BOX_CODE
from bevdistill_ros.models.outputs import QueryOutputs
from bevdistill_ros.models.query_head import QueryHead, decode_queries, sine_positions

GRID = BevGrid(-16.0, 16.0, -8.0, 8.0, 2.0)  # 8 rows, 16 columns
CONFIG = QueryHeadConfig(
    queries=12,
    channels=16,
    layers=3,
    heads=4,
    points=2,
    feedforward=24,
    dropout=0.0,
    z_min=-2.0,
    z_max=4.0,
    max_boxes=10,
)
CLASSES = ("car", "pedestrian", "barrier")
LOW, SPAN = torch.tensor([-16.0, -8.0, -2.0]), torch.tensor([32.0, 16.0, 6.0])


def make_head(**changes) -> QueryHead:
    torch.manual_seed(0)
    return QueryHead(6, len(CLASSES), GRID, replace(CONFIG, **changes)).eval()


def make_bev(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 6, GRID.rows, GRID.columns, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_all_layers_in_training_and_the_last_one_in_use() -> None:
    head, bev = make_head(), make_bev()
    used, asked, trained = head(bev), head(bev, every_layer=True), head.train()(bev)
    assert asked.logits.shape == trained.logits.shape == (3, 2, 12, 3)
    assert asked.codes.shape == trained.codes.shape == (3, 2, 12, BOX_CODE)
    assert torch.equal(trained.codes, asked.codes)  # without dropout
    assert torch.equal(used.logits, asked.logits[2:]) and torch.equal(used.codes, asked.codes[2:])
    assert torch.equal(head(bev, every_layer=False).codes, asked.codes[2:])


@torch.no_grad()
def test_before_training_queries_stay_where_their_positions_are() -> None:
    head = make_head()
    outputs = head(make_bev(), every_layer=True)
    places = LOW + SPAN * head.place(head.position).sigmoid()
    torch.testing.assert_close(outputs.codes[..., :3], places.expand(3, 2, -1, -1))
    assert places[:, :2].std(dim=0).min() > 2  # they are spread
    assert 0.005 < outputs.logits.sigmoid().mean() < 0.02


@torch.no_grad()
def test_each_layer_moves_the_place_of_the_one_before() -> None:
    head = make_head()
    moves = torch.tensor([[0.3, -0.2, 0.1], [1.0, 0.5, -0.4], [-2.0, 0.0, 0.7]])
    for branch, move in zip(head.regress, moves, strict=True):
        branch[-1].bias[:3] = move
        branch[-1].weight[3:] = 0.0
        branch[-1].bias[3:] = torch.arange(7.0)
    outputs = head(make_bev(), every_layer=True)
    places = head.place(head.position) + moves.cumsum(dim=0)[:, None]  # (layers, queries, 3)
    torch.testing.assert_close(outputs.codes[:, 0, :, :3], LOW + SPAN * places.sigmoid())
    assert torch.equal(outputs.codes[..., 3:], torch.arange(7.0).expand(3, 2, 12, 7))


def test_a_layers_boxes_pass_no_gradient_to_the_places_of_the_one_before() -> None:
    head = make_head()
    codes = head(make_bev(), every_layer=True).codes
    for layer in range(3):
        others = [p for i in range(3) if i != layer for p in head.regress[i].parameters()]
        own = list(head.regress[layer].parameters())
        found = torch.autograd.grad(codes[layer].square().sum(), own + others, retain_graph=True, allow_unused=True)
        assert all(g is not None and g.any() for g in found[: len(own)])
        assert not any(g is not None and g.any() for g in found[len(own) :])


def test_gradients_reach_every_weight() -> None:
    head = make_head().train()
    outputs = head(make_bev())
    (outputs.logits.square().sum() + outputs.codes.square().sum()).backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]


@torch.no_grad()
def test_queries_read_the_map_at_their_place() -> None:
    """The first layer reads up to ``points`` cells about the place that x along the columns and y along the rows give."""
    head = make_head(layers=1)
    x, y = 5.0, -3.0  # column 10, row 2
    head.place.weight.zero_()
    head.place.bias.copy_(torch.logit((torch.tensor([x, y, 1.0]) - LOW) / SPAN))
    bev = make_bev(1)
    before = head(bev).logits
    for row in range(GRID.rows):
        for column in range(GRID.columns):
            changed = bev.clone()
            changed[:, :, row, column] += torch.arange(6.0)
            seen = max(abs(row - 2), abs(column - 10)) in (1, 2) and (row == 2 or column == 10)
            assert bool((head(changed).logits - before).abs().max() > 1e-3) == seen, (row, column)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch() -> None:
    head, bev = make_head(), make_bev(3)
    together = head(bev)
    for i in range(3):
        alone = head(bev[i, None])
        torch.testing.assert_close(alone.codes[:, 0], together.codes[:, i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_permuted_queries_give_permuted_boxes() -> None:
    head, bev = make_head(), make_bev()
    before = head(bev)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    head.content.copy_(head.content[order])
    head.position.copy_(head.position[order])
    after = head(bev)
    torch.testing.assert_close(after.codes, before.codes[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.logits, before.logits[:, :, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_places_are_exact_under_autocast() -> None:
    head, bev = make_head(), make_bev()
    exact = head(bev)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(bev)
    assert mixed.codes.dtype == mixed.logits.dtype == torch.float32
    # Untrained queries stay at their places, which bfloat16 would round by up to 6 cm.
    torch.testing.assert_close(mixed.codes[..., :3], exact.codes[..., :3], rtol=0, atol=1e-5)
    assert (mixed.logits - exact.logits).abs().max() < 0.2


def test_map_positions_tell_cells_apart() -> None:
    positions = sine_positions(6, 9, 16).reshape(6, 9, 16)
    assert (positions[:, 0, :8] == positions[:, 5, :8]).all() and (positions[0, :, 8:] == positions[3, :, 8:]).all()
    distances = torch.cdist(positions.flatten(0, 1), positions.flatten(0, 1)) + 10 * torch.eye(54)
    assert distances.min() > 0.5


def outputs_of(logits: list[list[float]], codes: torch.Tensor) -> QueryOutputs:
    """Of one sample, with a worse layer before."""
    last = torch.tensor(logits)[None]
    return QueryOutputs(torch.stack([last - 5, last]), torch.stack([codes[None] + 1, codes[None]]))


def test_the_best_pairs_of_query_and_class_become_boxes() -> None:
    codes = torch.zeros(3, BOX_CODE)
    codes[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    codes[:, 3] = torch.log(torch.tensor([4.0, 5.0, 6.0]))
    codes[:, 7] = 1.0
    outputs = outputs_of([[3.0, -3.0, 2.0], [-1.0, 1.0, -9.0], [-9.0, -9.0, 0.0]], codes)
    (boxes,) = decode_queries(outputs, CLASSES, CONFIG, min_score=0.4)
    assert boxes.names == ["car", "barrier", "pedestrian", "barrier"]
    assert boxes.centers[:, 0].tolist() == [1, 1, 2, 3]  # the first query is both a car and a barrier
    assert boxes.scores == pytest.approx(torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid().numpy())
    assert boxes.sizes[:, 0] == pytest.approx([4, 4, 5, 6])
    (few,) = decode_queries(outputs, CLASSES, replace(CONFIG, max_boxes=2))
    assert few.names == ["car", "barrier"]
    (all_,) = decode_queries(outputs, CLASSES, CONFIG)
    assert len(all_) == 9  # fewer pairs than max_boxes


def test_nothing_is_suppressed() -> None:
    codes = torch.zeros(4, BOX_CODE)  # all in one place
    (boxes,) = decode_queries(outputs_of([[2.0, -9, -9]] * 4, codes), CLASSES, CONFIG, min_score=0.5)
    assert boxes.names == ["car"] * 4


def test_boxes_that_are_not_finite_are_left_out() -> None:
    codes = torch.zeros(3, BOX_CODE)
    codes[0, 3:6] = 1e30
    codes[1, 0] = torch.nan
    codes[2, 8] = torch.inf
    (boxes,) = decode_queries(outputs_of([[2.0, -9, -9]] * 3, codes), CLASSES, CONFIG, min_score=0.5)
    assert len(boxes) == 1 and np.isfinite(boxes.sizes).all()


def test_samples_are_decoded_apart() -> None:
    logits = torch.full((1, 2, 3, 3), -20.0)
    logits[0, 1, 2, 1] = 4.0
    codes = torch.arange(2.0)[:, None, None].expand(1, 2, 3, BOX_CODE)
    first, second = decode_queries(QueryOutputs(logits, codes), CLASSES, CONFIG, min_score=0.1)
    assert len(first) == 0 and first.class_names == CLASSES
    assert second.names == ["pedestrian"] and second.centers[0, 0] == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"queries": 0}, "queries must be at least 1"),
        ({"channels": 18}, "multiple of heads 4 and of 4"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"z_min": 5.0}, "z_min < z_max"),
        ({"auxiliary_channels": -1}, "auxiliary_channels must not be negative"),
    ],
)
def test_wrong_settings_are_named(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(CONFIG, **changes)
