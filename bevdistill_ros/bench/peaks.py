"""What this device can do at best, measured: arithmetic and memory. Floors of stages are told by these."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bevdistill_ros.bench.timing import waiter

SECONDS = 0.25
"""That each thing is tried for."""


@dataclass(frozen=True)
class Peaks:
    """The best that was seen.

    Attributes:
        matmul, convolution: floating-point operations a second.
        memory: bytes a second, read and written, of a copy that no cache holds.
        cache: the same of copies that the caches hold; at least ``memory``.
    """

    matmul: float
    convolution: float
    memory: float
    cache: float

    @property
    def flops(self) -> float:
        """Operations a second that nothing is expected to exceed."""
        return max(self.matmul, self.convolution)

    @property
    def bandwidth(self) -> float:
        """Bytes a second that nothing is expected to exceed: a small network's features stay in the caches."""
        return max(self.memory, self.cache)

    def floor_ms(self, flops: float, moved: float) -> float:
        """The least time for so many operations on so many bytes."""
        return max(flops / self.flops, moved / self.bandwidth) * 1e3


@torch.no_grad()
def measure_peaks(device: torch.device, dtype: torch.dtype = torch.float32) -> Peaks:
    """Measure, with the threads that torch has at present; about a second."""
    large = device.type == "cuda"
    matmul = 0.0
    for n in (4096,) if large else (512, 1024):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        matmul = max(matmul, 2 * n**3 / _best_s(lambda a=a, b=b: a @ b, device))

    batch, channels, height, width = (6, 256, 64, 176) if large else (2, 64, 32, 88)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    convolution = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, channels, height, width, device=device, dtype=dtype).to(memory_format=layout)
        own = weight.to(memory_format=layout)
        seconds = _best_s(lambda x=x, own=own: F.conv2d(x, own, padding=1), device)
        convolution = max(convolution, 2 * 9 * channels * channels * batch * height * width / seconds)

    rates = []
    for size in (1 << 28, 1 << 20, 1 << 18):  # bytes
        source = torch.zeros(size // 4, device=device)
        target = torch.ones_like(source)
        rates.append(2 * size / _best_s(lambda s=source, t=target: t.copy_(s), device))
    return Peaks(matmul, convolution, rates[0], max(rates))


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    """Shortest seconds of one run. Short ones are taken many at a time, as reading the clock and waiting would count with them."""
    wait = waiter(device)
    for _ in range(3):
        work()
    at_a_time, best, end = 1, float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        wait()
        begin = time.perf_counter()
        for _ in range(at_a_time):
            work()
        wait()
        taken = time.perf_counter() - begin
        best = min(best, taken / at_a_time)
        if taken < 2e-3:
            at_a_time *= 2
    return best
