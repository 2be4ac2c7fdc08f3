"""Markers: what appears, what is renewed under the same id, what is deleted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from visualization_msgs.msg import Marker

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node.markers import MarkerTracker, marker_array, nothing
from bevdistill_ros.visualise import color_of

NAMES = ("car", "pedestrian")


def boxes(*labels: int, speed: float = 3.0) -> Boxes:
    n = len(labels)
    return Boxes(
        np.arange(3.0 * n).reshape(n, 3), np.tile((4.0, 2.0, 1.0), (n, 1)), np.full(n, math.pi / 2),
        np.tile((0.0, speed), (n, 1)), np.full(n, 0.5), np.array(labels, int), NAMES,
    )  # fmt: skip


def update(tracker: MarkerTracker, *arguments, **named):
    return marker_array(tracker.advance(*arguments, **named))


def replay(shown: dict, array) -> dict:
    """What RViz shows after a MarkerArray: (namespace, id) -> marker."""
    shown = dict(shown)
    for marker in array.markers:
        if marker.action == Marker.DELETEALL:
            shown = {}
        elif marker.action == Marker.DELETE:
            assert shown.pop((marker.ns, marker.id)), "deleted what is not there"
        else:
            shown[marker.ns, marker.id] = marker
    return shown


def test_scene_is_always_the_last_set_of_boxes() -> None:
    """RViz never shows what is gone, and what stays keeps its id, whatever comes after whatever."""
    tracker, shown = MarkerTracker(), {("car", 77): "left by an earlier run"}
    for number, labels in enumerate([(0, 1, 0), (0,), (1, 1, 1), (), (0, 0), (0, 0)]):
        array = update(tracker, boxes(*labels), 5 + number, "base_link")
        shown = replay(shown, array)
        cubes = sorted(ns for (ns, _), marker in shown.items() if marker.type == Marker.CUBE)
        assert cubes == sorted(NAMES[label] for label in labels)
        arrows = [marker for marker in shown.values() if marker.type == Marker.ARROW]
        assert len(arrows) == len(labels)
        assert all(marker.header.stamp.nanosec == 5 + number for marker in shown.values())
    assert all(
        marker.action == Marker.ADD for marker in array.markers
    )  # nothing is deleted and drawn again: no flicker


def test_cube_and_arrow_are_where_the_box_is() -> None:
    array = update(MarkerTracker(), boxes(1, speed=2.0), 1_000_000_007, "base_link", lifetime_s=1.5)
    clear, cube, arrow = array.markers
    assert clear.action == Marker.DELETEALL
    assert (cube.ns, cube.id, arrow.id) == ("pedestrian", 0, 1)
    assert cube.header.frame_id == "base_link" and (cube.header.stamp.sec, cube.header.stamp.nanosec) == (1, 7)
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == (0.0, 1.0, 2.0)
    assert (cube.pose.orientation.z, cube.pose.orientation.w) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == (4.0, 2.0, 1.0)
    blue, green, red = color_of("pedestrian")
    assert (cube.color.r, cube.color.g, cube.color.b) == pytest.approx((red / 255, green / 255, blue / 255))
    start, end = arrow.points
    assert (start.x, start.y, start.z) == (0.0, 1.0, 2.0) and (end.x, end.y, end.z) == (0.0, 3.0, 2.0)
    assert (cube.lifetime.sec, cube.lifetime.nanosec) == (1, 500_000_000)


@pytest.mark.parametrize("speed", [0.0, 0.1, math.nan])
def test_no_arrow_without_a_velocity(speed) -> None:
    tracker = MarkerTracker()
    shown = replay({}, update(tracker, boxes(0, speed=5.0), 0, "b"))
    assert len(shown) == 2
    shown = replay(shown, update(tracker, boxes(0, speed=speed), 1, "b"))
    assert [marker.type for marker in shown.values()] == [Marker.CUBE]


def test_text_on_request() -> None:
    shown = replay({}, update(MarkerTracker(), boxes(0), 0, "b", text=True))
    assert shown["car", 2].text == "car 0.50" and shown["car", 2].pose.position.z > 2.5


def test_after_a_pause_the_scene_starts_anew() -> None:
    tracker = MarkerTracker()
    update(tracker, boxes(0, 0, 0), 0, "b")
    tracker.restart()
    array = update(tracker, boxes(0), 1, "b")
    assert array.markers[0].action == Marker.DELETEALL and Marker.DELETE not in [m.action for m in array.markers]
    assert [m.action for m in nothing(2, "b").markers] == [Marker.DELETEALL]
