"""Boxes to what the detector node publishes of them; for that, ROS 2 must be here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bevdistill_ros.geometry import Boxes

MakeMessages = Callable[[Boxes], Any]

MANY = 300
"""Boxes of a crowded street."""

_STAMP, _FRAME, _CAMERAS = 1_700_000_000_000_000_000, "base_link", ("cam_front", "cam_back")


def message_makers() -> tuple[MakeMessages, MakeMessages] | None:
    """What makes ``~/detections`` and ``~/objects`` as bytes: as the node does, and field by field.

    None where there is no ROS 2, or no build of this package.
    """
    try:
        from rclpy.serialization import serialize_message

        from bevdistill_ros.node import messages, wire
    except ImportError:
        return None
    stamps = dict.fromkeys(_CAMERAS, _STAMP)

    def as_bytes(boxes: Boxes) -> list[bytes]:
        return [
            wire.detections(boxes, _STAMP, _FRAME),
            wire.objects(boxes, _STAMP, _FRAME, _CAMERAS, stamps),
        ]

    def by_fields(boxes: Boxes) -> list[bytes]:
        made = messages.detections(boxes, _STAMP, _FRAME), messages.objects(boxes, _STAMP, _FRAME, _CAMERAS, stamps)
        return [serialize_message(message) for message in made]

    return (as_bytes if wire.agrees() else by_fields), by_fields


def many_boxes(class_names: tuple[str, ...]) -> Boxes:
    """``MANY`` of them, of any class, anywhere."""
    rng = np.random.default_rng(0)
    return Boxes(
        rng.uniform(-50, 50, (MANY, 3)),
        rng.uniform(0.5, 8, (MANY, 3)),
        rng.uniform(-3, 3, MANY),
        rng.uniform(-9, 9, (MANY, 2)),
        rng.uniform(0.3, 1, MANY),
        rng.integers(0, len(class_names), MANY),
        class_names,
    )
