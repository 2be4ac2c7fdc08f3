"""What the detector published, in the package's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevdistill_ros.geometry import Boxes, rotation_from_quaternion, yaw_of
from bevdistill_ros.stamps import header_ns


@dataclass(frozen=True, eq=False)
class DetectedSet:
    """The boxes of one set of images.

    Attributes:
        stamp: time of the boxes, ns: that of one of the set's images.
        boxes: in the base frame at that time.
        partial: whether images of some camera are missing.
    """

    stamp: int
    boxes: Boxes
    partial: bool


@dataclass(frozen=True)
class SetStatus:
    """How it went with one set of images.

    Attributes:
        published: whether boxes came of it.
        stages_ms: by stage.
        latency_ms: from the boxes' time to their publication, on the bag's clock.
        superseded_sets, failed_sets, dropped_images: counts since the start.
    """

    published: bool
    stages_ms: dict[str, float]
    latency_ms: float
    superseded_sets: int
    failed_sets: int
    dropped_images: int


def detected_set(message: Any, class_names: Sequence[str]) -> DetectedSet:
    """Of a bevdistill_ros/DetectedObjectArray."""
    return DetectedSet(header_ns(message), _boxes(message.objects, class_names), bool(message.partial))


def set_status(message: Any) -> SetStatus:
    """Of a bevdistill_ros/DetectorStatus."""
    return SetStatus(
        published=bool(message.published),
        stages_ms={stage.name: stage.milliseconds for stage in message.stages},
        latency_ms=message.latency_ms,
        superseded_sets=message.superseded_sets,
        failed_sets=message.failed_sets,
        dropped_images=message.dropped_images,
    )


def _boxes(objects: Sequence[Any], class_names: Sequence[str]) -> Boxes:
    if not objects:
        return Boxes.empty(class_names)
    rows = []
    for found in objects:
        p, q = found.pose.position, found.pose.orientation
        yaw = yaw_of(rotation_from_quaternion((q.x, q.y, q.z, q.w)))
        size = (found.size.x, found.size.y, found.size.z)
        rows.append([p.x, p.y, p.z, *size, yaw, found.velocity.x, found.velocity.y, found.score])
    table = np.array(rows, dtype=np.float64)
    labels = [list(class_names).index(found.class_name) for found in objects]
    return Boxes(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7:9], table[:, 9], labels, class_names)
