"""Which threads compute, and how many: the one place that decides it for pictures, OpenCV and PyTorch beside the threads of ROS.

Cores are those that the process may use: ``hardware.available_cores`` counts its affinity and its container's CPU quota.

Pictures: as many threads as cores, but no more than cameras. The thread that wants the pictures is one of them: on a single core
    nobody hands anything over, on two one thread helps.
OpenCV: one thread a call. Pictures run side by side, which needs no hand-over within a picture; threads of OpenCV's own in each of
    them would only compete for the cores.
PyTorch: its own choice, one thread a core, but never more than there are cores, which it does not know of a CPU quota.
ONNX Runtime, where it runs the network: as many as PyTorch, none of which spins while pictures are decoded.
ROS: the executor's thread sleeps most of the time (six JPEG cameras at 12 Hz keep it busy for a twentieth of a core), and so do
    those of the middleware: no core is set aside for them.

A set of images is preprocessed first and goes through the network then, so both may have all cores. Two cores: two pictures at a
time, two threads of the network. Four: four and four. Many: a thread a camera, and a thread a core.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

from bevdistill_ros.hardware import available_cores

T = TypeVar("T")


def picture_threads(cameras: int) -> int:
    """How many pictures of a set are decoded and warped at a time."""
    return max(1, min(cameras, available_cores()))


def limit_opencv() -> None:
    """Give each call of OpenCV one thread, in the whole process."""
    cv2.setNumThreads(1)


@contextmanager
def opencv_limited() -> Iterator[None]:
    """``limit_opencv`` for a while."""
    before = cv2.getNumThreads()
    limit_opencv()
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def limit_libraries(torch_threads: int = 0) -> None:
    """Give OpenCV and, where it is loaded, PyTorch their share of the cores, in the whole process.

    Args:
        torch_threads: of PyTorch on the CPU; 0: its own choice, which ``OMP_NUM_THREADS`` changes, within the cores there are.
    """
    limit_opencv()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if not torch_threads and "OMP_NUM_THREADS" not in os.environ:
        torch_threads = min(torch.get_num_threads(), available_cores())
    if torch_threads:
        torch.set_num_threads(torch_threads)


class Crew:
    """Does a handful of jobs side by side: the caller's thread and ``threads - 1`` others each take the next one left.

    Beside handing every job to a pool, that saves the hand-over of the jobs that the caller, who would only wait, does itself.

    Args:
        threads: at work, the caller's among them.
        name: of the others, for debuggers.
    """

    def __init__(self, threads: int, name: str = "crew") -> None:
        if threads < 1:
            raise ValueError(f"a crew has at least one thread, not {threads}")
        self.threads = threads
        self._others = ThreadPoolExecutor(threads - 1, thread_name_prefix=name) if threads > 1 else None

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """What each job returned or raised, in their order. It comes back when all have ended, whatever they raised."""
        outcomes: list[T | Exception] = [RuntimeError("not begun")] * len(jobs)
        left = deque(range(len(jobs)))

        def work() -> None:
            while True:
                try:
                    i = left.popleft()  # safe among threads
                except IndexError:
                    return
                try:
                    outcomes[i] = jobs[i]()
                except Exception as error:
                    outcomes[i] = error

        helpers = min(self.threads, len(jobs)) - 1
        helping = [self._others.submit(work) for _ in range(helpers)] if self._others is not None else []
        work()
        for future in helping:
            if not future.cancel():  # one that has not begun by now would find nothing to do
                future.result()
        return outcomes

    def close(self) -> None:
        """End the threads. Repeatable."""
        if self._others is not None:
            self._others.shutdown(wait=True, cancel_futures=True)
