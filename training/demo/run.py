"""The drive played in one process to the detector in another, over DDS; this process records what the detector publishes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import large_segment
from bevdistill_ros.stamps import header_ns
from bevdistill_ros.training.data.messages import BASE_FRAME, FIXED_FRAME
from bevdistill_ros.training.demo.isolation import private_domain
from bevdistill_ros.training.demo.programs import Program
from bevdistill_ros.training.demo.result_bag import RecordedTopic

NODE = "/bevdistill_detector"
DETECTIONS, OBJECTS, LABELS, MARKERS, STATUS = (
    f"{NODE}/{name}" for name in ("detections", "objects", "labels", "markers", "status")
)

CLOCK_HZ = 100.0
"""Of /clock, on which latencies are measured, so to 10 ms."""

START_LIMIT_S = 120.0
"""From its start, the detector has so long until it is ready: torch may have to come from a cold disk."""

SUBSCRIBE_LIMIT_S = 60.0
"""A detector that is ready subscribes to the cameras within this time."""

END_LIMIT_S = 10.0
"""After the end of the drive, the detector has so long to finish the last set of images."""

PLAY_LIMIT_S = 120.0
"""The player may take so much longer than the drive before it counts as stuck."""


@dataclass(frozen=True)
class DetectorSettings:
    """How the detector is run.

    Attributes:
        model: checkpoint file.
        device: as of its parameter.
        cameras: names as in the topics, the reference first.
        offsets_ms: when each exposes within a set of images.
        score: boxes from this score on are published.
    """

    model: Path
    device: str
    cameras: Sequence[str]
    offsets_ms: Sequence[float]
    score: float

    def parameters(self) -> dict[str, Any]:
        """The node's parameters."""
        return {
            "use_sim_time": True,
            "model": str(self.model.absolute()),
            "device": self.device,
            "cameras": list(self.cameras),
            "camera_offsets_ms": [float(offset) for offset in self.offsets_ms],
            "base_frame": BASE_FRAME,
            "fixed_frame": FIXED_FRAME,
            "score_threshold": self.score,
        }


@dataclass(frozen=True)
class Recording:
    """What came of a run.

    Attributes:
        topics: everything that the detector published, by topic.
        objects, statuses: the messages of two of them.
        seconds: what the phases took.
    """

    topics: dict[str, RecordedTopic]
    objects: list[Any]
    statuses: list[Any]
    seconds: dict[str, float]


def detector_topics() -> dict[str, type]:
    """What the detector publishes: message class by topic.

    Raises:
        UserError: there is no ROS 2 here, or no build of this package.
    """
    try:
        import rclpy  # noqa: F401
        from vision_msgs.msg import Detection3DArray, LabelInfo
        from visualization_msgs.msg import MarkerArray

        from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus
    except ImportError as error:
        raise UserError(
            f"the demo needs ROS 2 and a build of this package: source its setup file first ({error})"
        ) from None
    return {
        DETECTIONS: Detection3DArray,
        OBJECTS: DetectedObjectArray,
        MARKERS: MarkerArray,
        STATUS: DetectorStatus,
        LABELS: LabelInfo,
    }


def play_to_detector(
    bag: Path, frames: int, last_stamp: int, duration_s: float, settings: DetectorSettings, rate: float, logs: Path
) -> Recording:
    """Start the detector, play the bag to it, and record until it has answered the last frame.

    Args:
        bag: the drive.
        frames: how many the reference camera has, for the progress bar.
        last_stamp: stamp of its last image, ns.
        duration_s: of the bag.
        rate: speed to play at.
        logs: folder for what the processes print.

    Raises:
        UserError: a process fails, or is not ready in time. The text has the last lines of its log.
    """
    from bevdistill_ros.node.recorder import Recorder

    topics = detector_topics()
    logs = logs.absolute()
    logs.mkdir(parents=True, exist_ok=True)
    parameters = logs / "detector.yaml"
    write_atomically(parameters, yaml.safe_dump({"/**": {"ros__parameters": settings.parameters()}}))
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(private_domain(logs / "ros"))
        recorder = stack.enter_context(Recorder(topics, latched=(LABELS,)))
        words = ["detector", "--ros-args", "--params-file", str(parameters)]
        detector = stack.enter_context(Program("detector", words, logs))
        # It publishes its labels when it is activated.
        if not recorder.wait(lambda: recorder.newest(LABELS) is not None, START_LIMIT_S, detector.check_running):
            raise detector.failure(f"was not ready within {START_LIMIT_S:g} s")
        ready = time.monotonic()

        player = stack.enter_context(Program("player", _play_words(bag, rate, logs), logs, large_segment()))
        bar = stack.enter_context(tqdm(total=frames, unit="set", disable=None))  # None: if a terminal

        def look() -> None:
            detector.check_running()
            bar.update(len(recorder.serialised(STATUS)) - bar.n)

        limit = duration_s / rate + SUBSCRIBE_LIMIT_S + PLAY_LIMIT_S
        if not recorder.wait(player.has_ended, limit, look):
            raise player.failure(f"had not come to its end after {limit:.0f} s")

        def answered() -> bool:
            """Whether what came of the last frame has arrived. Sets may be dropped, but never the newest."""
            status = recorder.newest(STATUS)
            if status is None or header_ns(status) < last_stamp:
                return False
            arrays = (recorder.newest(topic) for topic in (OBJECTS, DETECTIONS))
            return not status.published or all(array is not None and header_ns(array) >= last_stamp for array in arrays)

        recorder.wait(answered, END_LIMIT_S, look)  # where images were lost it never does; the figures then tell
        look()
        played = time.monotonic()
        recorded = {
            name: RecordedTopic(_type_name(kind), name == LABELS, recorder.serialised(name))
            for name, kind in topics.items()
        }
        seconds = {"start": ready - began, "play": played - ready}
        return Recording(recorded, recorder.messages(OBJECTS), recorder.messages(STATUS), seconds)


def _play_words(bag: Path, rate: float, logs: Path) -> list[str]:
    options = {
        "--clock": f"{CLOCK_HZ:g}",
        "--rate": f"{rate!r}",
        "--wait": f"{SUBSCRIBE_LIMIT_S:g}",
        "--json": str(logs / "player.json"),
    }
    return ["play", str(bag.absolute()), *(word for option in options.items() for word in option)]


def _type_name(message_class: type) -> str:
    """'vision_msgs/msg/Detection3DArray' of the class."""
    return f"{message_class.__module__.split('.')[0]}/msg/{message_class.__name__}"
