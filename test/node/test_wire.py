"""Arrays of boxes as bytes: read back, they are what rclpy makes of the same boxes, field by field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node import messages, wire
from bevdistill_ros.node.markers import MarkerTracker, marker_array

STAMP = 1_600_000_000_123_456_789
NAMES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "",
    "Fußgänger",
    "bicycle",
    "traffic_cone",
    "x" * 300,
)


def boxes(count: int, seed: int = 0) -> Boxes:
    """Some of them still, some of unknown velocity."""
    rng = np.random.default_rng(seed)
    velocities = rng.normal(size=(count, 2))
    velocities[::3] = 0.0
    velocities[1::5] = math.nan
    return Boxes(
        rng.normal(size=(count, 3)) * 20, rng.uniform(0.5, 5, (count, 3)), rng.uniform(-4, 4, count), velocities,
        rng.uniform(0, 1, count), rng.integers(0, len(NAMES), count), NAMES,
    )  # fmt: skip


def fields(message: Any) -> Any:
    """A message as plain values with the names of their types; NaN, which is no number's equal, by name."""
    if hasattr(message, "get_fields_and_field_types"):
        names = message.get_fields_and_field_types()
        return type(message).__name__, {name: (kind, fields(getattr(message, name))) for name, kind in names.items()}
    if isinstance(message, (str, int, bool)):
        return type(message).__name__, message
    if isinstance(message, float):
        return "float", "nan" if math.isnan(message) else message
    return type(message).__name__, [fields(item) for item in message]


def assert_same(raw: bytes, message: Any) -> None:
    assert type(raw) is bytes  # nothing else is published as it is
    read, expected = (deserialize_message(each, type(message)) for each in (raw, serialize_message(message)))
    assert fields(read) == fields(expected)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_detections(count: int) -> None:
    found = boxes(count)
    assert_same(wire.detections(found, STAMP, "base_link"), messages.detections(found, STAMP, "base_link"))


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_objects(count: int) -> None:
    found, cameras = boxes(count), ("front", "back", "côté", "")
    for stamps in ({}, {"back": STAMP - 5, "": 7}, dict.fromkeys(cameras, STAMP)):
        arguments = (found, STAMP, "base_link", cameras, stamps)
        assert_same(wire.objects(*arguments), messages.objects(*arguments))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("lifetime_s", [0.0, 1.25])
def test_markers(text: bool, lifetime_s: float) -> None:
    """From one set of boxes to the next, so that some of them go."""
    tracker = MarkerTracker()
    for seed, count in enumerate((40, 300, 25, 0, 0)):
        scene = tracker.advance(boxes(count, seed), STAMP + seed, "base_link", lifetime_s, text)
        assert scene.fresh == (seed == 0) and (scene.gone or seed not in (2, 3))
        assert_same(wire.markers(scene), marker_array(scene))


def test_names_of_any_length_leave_every_number_in_its_place() -> None:
    one, cameras = boxes(3), [("a" * n,) * (n % 5) for n in range(9)]
    for length in range(9):
        frame = "f" * length
        for shift in range(9):
            names = tuple("n" * (shift + i) for i in range(len(NAMES)))
            found = Boxes(one.centers, one.sizes, one.yaws, one.velocities, one.scores, one.labels, names)
            assert_same(wire.detections(found, STAMP, frame), messages.detections(found, STAMP, frame))
            arguments = (found, STAMP, frame, cameras[shift], {"a" * shift: STAMP})
            assert_same(wire.objects(*arguments), messages.objects(*arguments))
            scene = MarkerTracker().advance(found, STAMP, frame, text=True)
            assert_same(wire.markers(scene), marker_array(scene))


def test_a_message_is_its_own_boxes_whatever_was_sent_before() -> None:
    """Prepared pieces are used again and again."""
    first = wire.detections(boxes(50, 1), STAMP, "base_link")
    kept = bytes(first)
    wire.detections(boxes(50, 2), STAMP + 10**9, "base_link")
    assert first == kept
    assert_same(wire.detections(boxes(50, 1), 5, "base_link"), messages.detections(boxes(50, 1), 5, "base_link"))


@pytest.mark.parametrize("distribution", ["HUMBLE", "IRON", "JAZZY", "KILTED"])
def test_markers_are_of_every_distributions_definition(distribution: str) -> None:
    """By an encoder that is not the middleware's: bit by bit."""
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores[f"ROS2_{distribution}"])
    raw = wire.markers(MarkerTracker().advance(boxes(20), STAMP, "base_link", 1.5, text=True))
    kind = "visualization_msgs/msg/MarkerArray"
    read = store.deserialize_cdr(raw, kind)
    assert read.markers[-1].text and read.markers[-1].header.stamp.nanosec == STAMP % 10**9
    assert bytes(store.serialize_cdr(read, kind)) == raw


def test_this_middleware_reads_the_bytes() -> None:
    assert wire.agrees()


@pytest.mark.parametrize("part", ["detections", "objects"])
def test_another_definition_is_noticed(monkeypatch, part: str) -> None:
    plain = getattr(messages, part)

    def longer(*arguments: Any) -> Any:
        message = plain(*arguments)
        message.header.frame_id += "_of_some_length"
        return message

    def other(*arguments: Any) -> Any:
        message = plain(*arguments)
        message.header.stamp.sec += 1
        return message

    for changed in (longer, other):
        monkeypatch.setattr(messages, part, changed)
        assert not wire.agrees()
    monkeypatch.setattr(messages, part, plain)
    assert wire.agrees()


def test_a_middleware_that_refuses_the_bytes_does_not_agree(monkeypatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("no CDR")

    monkeypatch.setattr(wire, "deserialize_message", refuse)
    assert not wire.agrees()
