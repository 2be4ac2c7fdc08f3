"""Boxes as RViz markers: one namespace a class, every marker that vanishes deleted by its id."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node.messages import box_pose, box_size, header
from bevdistill_ros.visualise import color_of

SLOWEST_ARROW = 0.2
"""m/s; below, a velocity is noise and gets no arrow."""
_CUBE, _ARROW, _TEXT = range(3)
_KINDS = 3


class MarkerTracker:
    """Turns each set of boxes into the MarkerArray that brings RViz from the last set to this one.

    The i-th box of a class has the ids 3 i (cube), 3 i + 1 (velocity arrow: where it will be in one second) and 3 i +
    2 (text) in the class's namespace. Renewed markers keep their id, so nothing flickers; ids without a box any more
    are deleted.
    """

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()
        self._fresh = True

    def update(
        self, boxes: Boxes, stamp_ns: int, frame_id: str, lifetime_s: float = 0.0, text: bool = False
    ) -> MarkerArray:
        """Markers of ``boxes`` (in ``frame_id`` at ``stamp_ns``), and the deletion of those shown before and gone
        now."""
        array = MarkerArray()
        if self._fresh:  # whoever listens may still show what an earlier run left
            array.markers.append(Marker(header=header(stamp_ns, frame_id), action=Marker.DELETEALL))
            self._fresh = False
        shown: set[tuple[str, int]] = set()
        count: dict[str, int] = {}
        for i, name in enumerate(boxes.names):
            number = count.get(name, 0)
            count[name] = number + 1
            markers = [_cube(boxes, i)]
            if math.hypot(*boxes.velocities[i]) >= SLOWEST_ARROW:  # False for NaN
                markers.append(_arrow(boxes, i))
            if text:
                markers.append(_text(boxes, i))
            blue, green, red = (c / 255.0 for c in color_of(name))
            for kind, marker in markers:
                marker.header = header(stamp_ns, frame_id)
                marker.ns, marker.id = name, _KINDS * number + kind
                marker.action = Marker.ADD
                marker.lifetime = _duration(lifetime_s)
                alpha = 0.45 if kind == _CUBE else 1.0
                marker.color = ColorRGBA(r=red, g=green, b=blue, a=alpha)
                shown.add((name, marker.id))
                array.markers.append(marker)
        for name, identifier in sorted(self._shown - shown):
            gone = Marker(header=header(stamp_ns, frame_id), ns=name, id=identifier, action=Marker.DELETE)
            array.markers.append(gone)
        self._shown = shown
        return array

    def clear(self, stamp_ns: int, frame_id: str) -> MarkerArray:
        """Deletes everything."""
        self.restart()
        return MarkerArray(markers=[Marker(header=header(stamp_ns, frame_id), action=Marker.DELETEALL)])

    def restart(self) -> None:
        """Nobody has listened for a while: the next update starts with an empty scene."""
        self._shown = set()
        self._fresh = True


def _cube(boxes: Boxes, i: int) -> tuple[int, Marker]:
    return _CUBE, Marker(type=Marker.CUBE, pose=box_pose(boxes, i), scale=box_size(boxes, i))


def _arrow(boxes: Boxes, i: int) -> tuple[int, Marker]:
    marker = Marker(type=Marker.ARROW)
    marker.pose.orientation.w = 1.0
    x, y, z = (float(v) for v in boxes.centers[i])
    vx, vy = (float(v) for v in boxes.velocities[i])
    marker.points = [Point(x=x, y=y, z=z), Point(x=x + vx, y=y + vy, z=z)]
    marker.scale = Vector3(x=0.12, y=0.35, z=0.0)  # diameters of shaft and head, m; length of the head: RViz's choice
    return _ARROW, marker


def _text(boxes: Boxes, i: int) -> tuple[int, Marker]:
    marker = Marker(
        type=Marker.TEXT_VIEW_FACING, pose=box_pose(boxes, i), text=f"{boxes.names[i]} {boxes.scores[i]:.2f}"
    )
    marker.pose.position.z += float(boxes.sizes[i, 2]) / 2 + 0.4
    marker.scale.z = 0.5  # height of a capital A, m
    return _TEXT, marker


def _duration(seconds: float) -> Duration:
    nanoseconds = round(seconds * 1e9)
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
