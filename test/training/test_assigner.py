"""The assignment of boxes to queries, and its costs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bevdistill_ros.training.assigner import assign, assign_each, focal_cost, l1_cost
from bevdistill_ros.training.query_losses import focal_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_best_of_all_assignments() -> None:
    cost = random(6, 4)
    rows, columns = assign(cost)
    assert rows.tolist() == sorted(rows.tolist()) and sorted(columns.tolist()) == [0, 1, 2, 3]
    best = min(sum(cost[q, g] for g, q in enumerate(chosen)) for chosen in itertools.permutations(range(6), 4))
    assert cost[rows, columns].sum() == pytest.approx(float(best))


def test_more_boxes_than_queries_and_none_at_all() -> None:
    cost = random(2, 5)
    rows, columns = assign(cost)
    best = min(sum(cost[q, g] for q, g in enumerate(chosen)) for chosen in itertools.permutations(range(5), 2))
    assert rows.tolist() == [0, 1] and cost[rows, columns].sum() == pytest.approx(float(best))
    rows, columns = assign(torch.zeros(7, 0))
    assert len(rows) == len(columns) == 0 and rows.dtype == columns.dtype == torch.int64
    assert assign_each([]) == []


def test_several_are_each_their_own() -> None:
    costs = [random(5, 3), random(4, 0), random(2, 6), random(5, 3, seed=1)]
    for cost, found in zip(costs, assign_each(costs), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, assign(cost), strict=True))


def test_costs_that_are_not_finite_are_avoided() -> None:
    cost = torch.zeros(4, 2)
    cost[0], cost[1, 0], cost[3, 1] = torch.nan, torch.inf, -torch.inf
    rows, columns = assign(cost)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) <= {(1, 1), (2, 0), (2, 1), (3, 0)}
    rows, columns = assign(torch.full((3, 2), torch.nan))
    assert len(rows) == 2


def test_no_gradient_is_kept() -> None:
    assign(random(3, 2).requires_grad_())


def test_focal_cost_is_what_the_loss_grows_by() -> None:
    logits, labels = random(5, 3), torch.tensor([2, 0, 2, 1])
    cost = focal_cost(logits, labels, alpha=0.3, gamma=1.5)
    assert cost.shape == (5, 4)
    background = focal_loss(logits, torch.zeros(5, 3), 0.3, 1.5)
    for q in range(5):
        for g in range(4):
            target = torch.zeros(5, 3)
            target[q, labels[g]] = 1.0
            grown = focal_loss(logits, target, 0.3, 1.5) - background
            assert cost[q, g] == pytest.approx(float(grown), abs=1e-5)


def test_focal_cost_by_hand() -> None:
    cost = focal_cost(torch.tensor([[math.log(0.8 / 0.2)]]), torch.tensor([0]))
    expected = -0.25 * 0.2**2 * math.log(0.8) + 0.75 * 0.8**2 * math.log(0.2)
    assert float(cost) == pytest.approx(expected, rel=1e-5)
    assert focal_cost(torch.tensor([[500.0], [-500.0]]), torch.tensor([0])).isfinite().all()


def test_l1_cost_by_hand() -> None:
    codes, wanted = torch.zeros(3, 2, 10), torch.zeros(4, 10)
    codes[2, 1] = torch.arange(10.0)
    wanted[3, 0] = -2.0
    wanted[:, 8:] = torch.nan  # unknown velocities do not matter
    cost = l1_cost(codes, wanted)
    assert cost.shape == (3, 2, 4)
    assert cost[2, 1].tolist() == [28, 28, 28, 30] and cost[0, 0].tolist() == [0, 0, 0, 2]
