"""Over DDS, from the cameras' stamp to boxes received: rig, detector and listener are processes of their own."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from bevdistill_ros.bench.publish import BASE_FRAME
from bevdistill_ros.bench.timing import summary
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import large_segment
from bevdistill_ros.training.demo.isolation import private_domain
from bevdistill_ros.training.demo.programs import Program

DETECTIONS, STATUS = "/bevdistill_detector/detections", "/bevdistill_detector/status"

START_LIMIT_S = 120.0
"""The detector, and the rig, have so long until the first boxes come: torch may have to be read from a cold disk."""

SETTLE = 5
"""Sets of boxes that come before any is counted."""

END_LIMIT_S = 5.0
"""Boxes of images published within the time measured are waited for so long after it."""


@dataclass(frozen=True)
class Answerer:
    """A program that makes boxes of the cameras' images.

    Attributes:
        name: of its log.
        arguments: its command line, behind ``program``.
        program: what runs them; None: ``bevdistill``, and the first of them is a verb.
        tells: whether it publishes bevdistill_ros/DetectorStatus, too.
    """

    name: str
    arguments: Sequence[str]
    program: Sequence[str] | None = None
    tells: bool = False


def detector(model: Path, device: str, cameras: Sequence[str], logs: Path, **parameters: Any) -> Answerer:
    """The detector node, its parameters at their defaults but for those given, and for what the rig is like."""
    values = {
        "model": str(model.absolute()),
        "device": device,
        "cameras": list(cameras),
        "camera_offsets_ms": [0.0] * len(cameras),
        "base_frame": BASE_FRAME,
        "fixed_frame": "",  # the rig stands
        "frozen_after": 0,  # few pictures, again and again
        **parameters,
    }
    path = logs / "detector.yaml"
    write_atomically(path, yaml.safe_dump({"/**": {"ros__parameters": values}}))
    return Answerer("detector", ["detector", "--ros-args", "--params-file", str(path)], tells=True)


def check_ros() -> None:
    """Raise UserError unless there is a ROS 2 here, and a build of this package."""
    try:
        import rclpy  # noqa: F401
        import vision_msgs.msg  # noqa: F401

        import bevdistill_ros.msg  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--end-to-end needs ROS 2 and a build of this package: source its setup file first ({error})"
        ) from None


def over_dds(
    answerer: Answerer,
    source: Sequence[str],
    rate: float,
    seconds: float,
    logs: Path,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Start the rig and a detector, and see for ``seconds`` what comes of the images.

    Args:
        source: options of ``bench`` that name the pictures, with absolute paths.
        rate: sets of images a second.
        logs: an existing folder, absolute, for what the processes print.

    Returns:
        ``rate_hz``, ``seconds``, ``published``, ``answered``, ``sets_a_second``, ``latency``, ``p99_over_median``, ``late_ms`` (the
        rig's, behind its own pace), ``stages``: medians of what ``~/status`` told, where it did.

    Raises:
        UserError: there is no ROS 2 here, a process fails, or no boxes come.
    """
    with ExitStack() as stack:
        stack.enter_context(private_domain(logs / "ros"))
        listener = stack.enter_context(_Listener(answerer.tells))
        running = stack.enter_context(Program(answerer.name, answerer.arguments, logs, program=answerer.program))
        figures = logs / "rig.json"
        figures.unlink(missing_ok=True)
        words = ["bench", "--publish", "--rate", repr(rate), "--json", str(figures), *source]
        with Program("rig", words, logs, large_segment()) as rig:

            def look() -> None:
                running.check_running()
                rig.check_running()

            told(f"{answerer.name}: waiting for its first boxes")
            if not listener.wait(lambda: len(listener.boxes) >= SETTLE, START_LIMIT_S, look):
                raise running.failure(f"has sent {len(listener.boxes)} sets of boxes within {START_LIMIT_S:g} s")
            told(f"{answerer.name}: {rate:g} sets of images a second for {seconds:g} s")
            begin = time.time_ns()
            end = begin + round(seconds * 1e9)
            listener.wait(lambda: time.time_ns() >= end, seconds + END_LIMIT_S, look)
            listener.wait(lambda: listener.newest >= end, END_LIMIT_S, look)
        result = json.loads(figures.read_bytes())
        published = {stamp for stamp in result["stamps_ns"] if begin <= stamp < end}
        latencies = [(arrival - stamp) / 1e6 for stamp, arrival in listener.boxes.items() if stamp in published]
        if not latencies:
            raise running.failure("has answered no set of images")
        latency = summary(latencies)
        return {
            "rate_hz": rate,
            "seconds": seconds,
            "published": len(published),
            "answered": len(latencies),
            "sets_a_second": round(len(latencies) / seconds, 2),
            "latency": latency,
            "p99_over_median": round(latency["p99_ms"] / latency["median_ms"], 2),
            "late_ms": result["late_ms"],
            "stages": listener.stages(published),
        }


class _Listener:
    """Keeps when boxes came, by their stamp; a context manager.

    Attributes:
        boxes: arrival (ns, wall clock) by stamp (ns).
    """

    def __init__(self, status: bool) -> None:
        self.boxes: dict[int, int] = {}
        self._status = status
        self._told: list[bytes] = []
        self._changed = threading.Condition()

    def __enter__(self) -> _Listener:
        check_ros()
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from vision_msgs.msg import Detection3DArray

        from bevdistill_ros.msg import DetectorStatus

        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self._node = rclpy.create_node("bevdistill_listener", context=self._context, start_parameter_services=False)
        self._node.create_subscription(Detection3DArray, DETECTIONS, self._hear, 100)
        if self._status:
            self._node.create_subscription(DetectorStatus, STATUS, self._told.append, 1000, raw=True)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="listener", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.try_shutdown()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _hear(self, message: Any) -> None:
        arrival = time.time_ns()
        with self._changed:
            self.boxes[_stamp(message)] = arrival
            self._changed.notify_all()

    @property
    def newest(self) -> int:
        """Stamp of the newest boxes."""
        return max(self.boxes, default=0)

    def wait(self, condition: Callable[[], bool], timeout_s: float, look: Callable[[], None]) -> bool:
        """Until ``condition()`` holds; False if it does not within ``timeout_s``. ``look()`` is called every so often meanwhile."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                look()
                if time.monotonic() >= give_up:
                    return False
                self._changed.wait(0.2)
            return True

    def stages(self, stamps: set[int]) -> dict[str, float]:
        """Median milliseconds by stage, of sets with these stamps."""
        from rclpy.serialization import deserialize_message

        from bevdistill_ros.msg import DetectorStatus

        by_stage: dict[str, list[float]] = {}
        for message in (deserialize_message(bytes(data), DetectorStatus) for data in self._told):
            if _stamp(message) in stamps:
                for stage in message.stages:
                    by_stage.setdefault(stage.name, []).append(stage.milliseconds)
        return {name: round(statistics.median(values), 3) for name, values in by_stage.items()}


def _stamp(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
