"""The node's own threads: as many as the policy says, none left behind."""

from __future__ import annotations

import threading
import time

import cv2
import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from bevdistill_ros import threads
from bevdistill_ros.node import detector_node
from bevdistill_ros.threads import Crew

DEADLINE = 60.0
CAMERAS = ["front", "left", "right"]
SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.mark.parametrize(("cores", "given", "expected"), [(1, 0, 1), (2, 0, 2), (16, 0, 3), (2, 5, 5)])
def test_a_crew_for_the_cameras_and_cores_there_are(make_bench, monkeypatch, cores, given, expected) -> None:
    made: list[int] = []
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr(detector_node, "Crew", lambda count, name: made.append(count) or Crew(count, name))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        bench = make_bench(CAMERAS, decode_threads=given)
        assert bench.node.trigger_configure() == SUCCESS
        assert made == [expected] and cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_the_crew_goes_home(make_bench, start_rig) -> None:
    from bevdistill_ros.msg import DetectorStatus

    bench = make_bench(CAMERAS, decode_threads=3, camera_offsets_ms=[0.0, 7.0, 14.0])
    status = bench.listen(DetectorStatus, "/bevdistill_detector/status")
    assert bench.node.start(), bench.node.failure
    bench.spin()
    start_rig(CAMERAS)

    def at_work() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]

    bench.wait(lambda: next((s for s in status if s.published), None), "a set")
    assert 1 <= len(at_work()) <= 2  # the caller is the third
    # Where transitions that services ask for run, too.
    ended = bench.executor.create_task(lambda: (bench.node.trigger_deactivate(), bench.node.trigger_cleanup()))
    deadline = time.monotonic() + DEADLINE
    while not ended.done() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended.result() == (SUCCESS, SUCCESS) and not at_work()
