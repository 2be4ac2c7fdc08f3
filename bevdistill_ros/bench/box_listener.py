"""When boxes came, and what the detector told of them."""

from __future__ import annotations

import statistics
import time

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection3DArray

from bevdistill_ros.msg import DetectorStatus
from bevdistill_ros.node.spinning import SpinningNode
from bevdistill_ros.stamps import header_ns


class BoxListener(SpinningNode):
    """Keeps when boxes came, by their stamp.

    Args:
        detections: topic of the boxes, vision_msgs/Detection3DArray.
        status: topic of bevdistill_ros/DetectorStatus; None: nobody publishes it.

    Attributes:
        boxes: arrival (ns, wall clock) by stamp (ns).
    """

    def __init__(self, detections: str, status: str | None = None) -> None:
        super().__init__("bevdistill_listener")
        self.boxes: dict[int, int] = {}
        self._detections = detections
        self._status = status
        self._told: list[bytes] = []

    def subscribe(self, node: Node) -> None:
        """To boxes and status."""
        node.create_subscription(Detection3DArray, self._detections, self._hear, 100)
        if self._status:
            node.create_subscription(DetectorStatus, self._status, self._told.append, 1000, raw=True)

    def _hear(self, message: Detection3DArray) -> None:
        arrival = time.time_ns()
        with self.changed:
            self.boxes[header_ns(message)] = arrival
            self.changed.notify_all()

    @property
    def newest(self) -> int:
        """Stamp of the newest boxes."""
        return max(self.boxes, default=0)

    def stages(self, stamps: set[int]) -> dict[str, float]:
        """Median milliseconds by stage, of sets with these stamps."""
        by_stage: dict[str, list[float]] = {}
        for message in (deserialize_message(bytes(data), DetectorStatus) for data in self._told):
            if header_ns(message) in stamps:
                for stage in message.stages:
                    by_stage.setdefault(stage.name, []).append(stage.milliseconds)
        return {name: round(statistics.median(values), 3) for name, values in by_stage.items()}
