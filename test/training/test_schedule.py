"""Learning-rate schedules against their closed forms, and against PyTorch's own one-cycle."""

from __future__ import annotations

import math

import pytest
import torch

from bevdistill_ros.training.config import Schedule, TrainingConfig
from bevdistill_ros.training.schedule import END, START, learning_rate_factor


def factors(schedule: Schedule, steps: int, warmup: int = 0) -> list[float]:
    config = TrainingConfig(steps=steps, schedule=schedule, warmup_steps=warmup)
    return [learning_rate_factor(config, step) for step in range(steps + 1)]


def test_cosine_is_half_a_cosine() -> None:
    found = factors(Schedule.COSINE, 100)
    assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(101)])
    assert found[0] == 1.0 and found[50] == pytest.approx(0.5) and found[100] == pytest.approx(0.0, abs=1e-12)


def test_one_cycle_is_that_of_pytorch() -> None:
    steps = 201
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    # PyTorch's rise ends at step 0.3 * total - 1, its fall at total - 1: of a total one higher, both on whole steps here.
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=61 / 201)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step() if len(expected) < steps else None
    found = factors(Schedule.ONE_CYCLE, 200)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found[0] == pytest.approx(START) and max(found) == found[60] == 1.0 and found[-1] == pytest.approx(END)


@pytest.mark.parametrize("schedule", Schedule)
def test_warm_up_rises_linearly_on_any_schedule(schedule: Schedule) -> None:
    plain, warmed = factors(schedule, 100), factors(schedule, 100, warmup=10)
    assert [w / p for w, p in zip(warmed[:10], plain[:10])] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert warmed[9:] == plain[9:]


def test_warm_up_and_cosine_from_and_to_what_is_asked_for() -> None:
    config = TrainingConfig(steps=1000, schedule=Schedule.COSINE, warmup_steps=100, warmup_from=0.25, cosine_to=0.01)
    found = [learning_rate_factor(config, step) for step in range(1001)]
    cosine = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(1001)]
    rise = [0.25 + 0.75 * (step + 1) / 100 for step in range(100)]
    assert found == pytest.approx([a * b for a, b in zip(rise, cosine)] + cosine[100:])
    assert found[0] == pytest.approx(0.2575, abs=1e-4) and found[500] == pytest.approx(0.505) and found[1000] == 0.01


def test_constant_is_one_and_steps_beyond_the_last_are_as_the_last() -> None:
    assert set(factors(Schedule.CONSTANT, 50)) == {1.0}
    for schedule in Schedule:
        config = TrainingConfig(steps=50, schedule=schedule, warmup_steps=0)
        assert learning_rate_factor(config, 500) == learning_rate_factor(config, 50)
