"""Times of things that are run again and again, and ways of doing the same run in turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all that was asked of it: a GPU's work is only queued."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


class StageClock:
    """Milliseconds between laps."""

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, float] = {}
        self._wait = waiter(device)
        self.begin()

    def begin(self) -> None:
        """What went before belongs to no lap."""
        self._wait()
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage has come to its end; one that is gone through several times counts together."""
        self._wait()
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """``median_ms``, ``p90_ms``, ``p99_ms`` of at least one value. A percentile is a value that was measured: the least one that so
    many percent do not exceed."""
    values = np.asarray(milliseconds, dtype=np.float64)
    percentiles = (float(np.percentile(values, q, method="inverted_cdf")) for q in (90, 99))
    p90, p99 = (round(value, 4) for value in percentiles)
    return {"median_ms": round(float(np.median(values)), 4), "p90_ms": p90, "p99_ms": p99}


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    turns: int,
    seed: int,
    device: torch.device,
    prepare: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """Milliseconds of each way, ``turns`` times. In every turn all are run, in another order; once before, untimed.

    ``prepare(name)`` goes before each run, untimed.
    """
    wait, order = waiter(device), random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name in order.sample(list(ways), len(ways)):
            prepare(name)
            wait()
            begin = time.perf_counter()
            ways[name]()
            wait()
            if turn:
                taken[name].append((time.perf_counter() - begin) * 1e3)
    return taken
