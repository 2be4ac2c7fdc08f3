"""What several ways of doing something take beside one another on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

COLD_BYTES = 512 * 2**20
"""Written before each run: more than any GPU's cache holds, so that every run finds it cold."""
COLD_TIMES = 8
"""How often: as long as that takes, a way's launches queue up behind it, so that what the CPU takes to launch is not timed."""


def gpu_medians_ms(ways: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each between two events of the current stream, run in turn; each three times before, untimed."""
    for way in ways.values():
        for _ in range(3):
            way()
    cold = torch.empty(COLD_BYTES, dtype=torch.uint8, device=device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            for _ in range(COLD_TIMES):
                cold.zero_()
            begin.record()
            way()
            end.record()
            end.synchronize()
            taken[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in taken.items()}


def copy_gb_s(device: torch.device) -> float:
    """What the GPU's memory gives: bytes read and written a second when a GiB is copied."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = gpu_medians_ms({"copy": lambda: target.copy_(source)}, 11, device)["copy"]
    return 2 * 2**30 / ms / 1e6
