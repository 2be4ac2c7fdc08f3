"""What several ways of doing something take beside one another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def medians_ms(
    ways: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each by ``clock`` (s), run in turn; each once before, untimed."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begin = clock()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                taken[name].append(1e3 * (clock() - begin))
    return {name: statistics.median(values) for name, values in taken.items()}
