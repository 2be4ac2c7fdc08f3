"""The one-slot worker thread."""

from __future__ import annotations

import threading
import time

from bevdistill_ros.node.worker import Worker

DEADLINE = 60.0


def test_worker_takes_the_newest_and_counts_the_others() -> None:
    started, go, done = threading.Event(), threading.Event(), []

    def work(item: int, stopping: threading.Event) -> None:
        started.set()
        assert go.wait(DEADLINE)
        done.append(item)

    worker = Worker(work, lambda error: None)
    assert worker.offer(0) is False
    assert started.wait(DEADLINE)
    assert [worker.offer(i) for i in (1, 2, 3)] == [False, True, True]  # 0 is being worked on, 1 and 2 are displaced
    go.set()
    deadline = time.monotonic() + DEADLINE
    while len(done) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert done == [0, 3]
    assert worker.stop() and worker.stop()


def test_worker_survives_errors_and_drops_what_waits_when_stopped() -> None:
    seen, failed = [], threading.Event()

    def work(item: str, stopping: threading.Event) -> None:
        seen.append(item)
        raise RuntimeError(item)

    worker = Worker(work, lambda error: failed.set())
    for item in ("a", "b"):
        failed.clear()
        worker.offer(item)
        assert failed.wait(DEADLINE)
    assert seen == ["a", "b"] and worker.stop()
    worker.offer("c")
    assert seen == ["a", "b"]
