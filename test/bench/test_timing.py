"""Percentiles, stage clocks, ways in turn."""

from __future__ import annotations

import time

import numpy as np
import torch

from bevdistill_ros.bench.timing import StageClock, in_turn, summary

CPU = torch.device("cpu")


def test_percentiles_are_values_that_were_measured():
    values = list(np.random.default_rng(0).permutation(np.arange(1.0, 101.0)))
    assert summary(values) == {"median_ms": 50.5, "p90_ms": 90.0, "p99_ms": 99.0}
    assert summary([7.0]) == {"median_ms": 7.0, "p90_ms": 7.0, "p99_ms": 7.0}


def test_laps_add_up_to_the_time_between():
    clock = StageClock(CPU)
    begin = time.perf_counter()
    clock.begin()
    for stage in ("a", "b", "a"):
        time.sleep(0.01)
        clock.lap(stage)
    taken = 1e3 * (time.perf_counter() - begin)
    assert list(clock.laps) == ["a", "b"]
    assert clock.laps["a"] >= 20 and clock.laps["b"] >= 10
    assert clock.laps["a"] + clock.laps["b"] <= taken


def test_ways_are_run_in_turn_in_an_order_that_the_seed_repeats():
    def orders(seed: int) -> list[str]:
        ran = []
        ways = {name: lambda name=name: ran.append(name) for name in "abc"}
        taken = in_turn(ways, 6, seed, CPU, prepare=lambda name: ran.append(name.upper()))
        assert all(len(values) == 6 for values in taken.values())
        assert all(ran[i].lower() == ran[i + 1] for i in range(0, len(ran), 2))
        return ran[1::2]

    first = orders(1)
    turns = [first[i : i + 3] for i in range(0, len(first), 3)]
    assert len(turns) == 7 and all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert orders(1) == first and orders(2) != first
