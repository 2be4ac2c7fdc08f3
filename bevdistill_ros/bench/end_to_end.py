"""Over DDS, from the cameras' stamp to boxes received: rig, detector and listener are processes of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
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
    check_ros()
    from bevdistill_ros.bench.box_listener import BoxListener

    with ExitStack() as stack:
        stack.enter_context(private_domain(logs / "ros"))
        listener = stack.enter_context(BoxListener(DETECTIONS, STATUS if answerer.tells else None))
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
