"""Work as a CUDA graph: all its kernels are started at once, in place of one after the other by Python.

How far it is tested: no GPU has run it yet. ``recorded_run`` does all the rest, and is tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bevdistill_ros.runtime.recorded_run import Found

WARM_UP = 3
"""Times that work is done before it is recorded: libraries choose kernels, and reserve memory, when they first meet a size."""


class CudaGraphs:
    """A ``Recorder``. What its graphs need besides what they give is memory that they share: one at a time may run."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Found]) -> Callable[[], Found]:
        """See ``Recorder``."""
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            try:
                return self._record(work, before)
            finally:
                torch.cuda.set_stream(before)  # torch leaves a recording that has failed on that recording's stream

    def _record(self, work: Callable[[], Found], before: torch.cuda.Stream) -> Callable[[], Found]:
        aside = torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        before.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: their calls are no part of the recording, and do not break it.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = work()

        def repeat() -> Found:
            graph.replay()
            return found

        return repeat
