"""Boxes as RViz markers: one namespace a class, every marker that vanishes deleted by its id."""

from __future__ import annotations

import math
from dataclasses import dataclass

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node.messages import box_pose, box_size, header
from bevdistill_ros.visualise import color_of

SLOWEST_ARROW = 0.2
"""m/s; below, a velocity is noise and gets no arrow."""
CUBE, ARROW, TEXT = range(3)
KINDS = 3
CUBE_ALPHA = 0.45
ARROW_SCALE = (0.12, 0.35, 0.0)
"""Diameters of shaft and head, m; length of the head: RViz's choice."""
TEXT_HEIGHT = 0.5
"""Height of a capital A, m."""
TEXT_ABOVE = 0.4
"""From the top of the box to the middle of its text, m."""


@dataclass(frozen=True)
class Scene:
    """What RViz is to show next.

    Attributes:
        boxes: in ``frame_id`` at ``stamp_ns``.
        lifetime_s: after which RViz drops them; 0: never.
        text: whether class and score are written above them.
        fresh: whoever listens may still show what an earlier run left, which is to go.
        numbers: of each box, which it is of its class.
        arrows: whether it moves.
        gone: namespace and id of markers that were shown and are not any more.
    """

    boxes: Boxes
    stamp_ns: int
    frame_id: str
    lifetime_s: float
    text: bool
    fresh: bool
    numbers: list[int]
    arrows: list[bool]
    gone: list[tuple[str, int]]


class MarkerTracker:
    """Turns each set of boxes into the scene that brings RViz from the last set to this one.

    The i-th box of a class has the ids 3 i (cube), 3 i + 1 (velocity arrow: where it will be in one second) and 3 i +
    2 (text) in the class's namespace. Renewed markers keep their id, so nothing flickers; ids without a box any more
    are deleted.
    """

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()
        self._fresh = True

    def advance(self, boxes: Boxes, stamp_ns: int, frame_id: str, lifetime_s: float = 0.0, text: bool = False) -> Scene:
        """``boxes`` (in ``frame_id`` at ``stamp_ns``) take the place of those before."""
        shown: set[tuple[str, int]] = set()
        count: dict[str, int] = {}
        numbers: list[int] = []
        arrows = [math.hypot(*velocity) >= SLOWEST_ARROW for velocity in boxes.velocities.tolist()]  # False for NaN
        for name, arrow in zip(boxes.names, arrows):
            number = count.get(name, 0)
            count[name] = number + 1
            numbers.append(number)
            shown.add((name, KINDS * number + CUBE))
            if arrow:
                shown.add((name, KINDS * number + ARROW))
            if text:
                shown.add((name, KINDS * number + TEXT))
        gone = sorted(self._shown - shown)
        fresh, self._fresh, self._shown = self._fresh, False, shown
        return Scene(boxes, stamp_ns, frame_id, lifetime_s, text, fresh, numbers, arrows, gone)

    def restart(self) -> None:
        """Nobody has listened for a while: the next set starts with an empty scene."""
        self._shown = set()
        self._fresh = True


def marker_array(scene: Scene) -> MarkerArray:
    """What brings RViz there."""
    boxes, stamp_ns, frame_id = scene.boxes, scene.stamp_ns, scene.frame_id
    array = nothing(stamp_ns, frame_id) if scene.fresh else MarkerArray()
    for i, name in enumerate(boxes.names):
        markers = [(CUBE, _cube(boxes, i))]
        if scene.arrows[i]:
            markers.append((ARROW, _arrow(boxes, i)))
        if scene.text:
            markers.append((TEXT, _text(boxes, i)))
        red, green, blue = rgb_of(name)
        for kind, marker in markers:
            marker.header = header(stamp_ns, frame_id)
            marker.ns, marker.id = name, KINDS * scene.numbers[i] + kind
            marker.action = Marker.ADD
            marker.lifetime = _duration(scene.lifetime_s)
            marker.color = ColorRGBA(r=red, g=green, b=blue, a=CUBE_ALPHA if kind == CUBE else 1.0)
            array.markers.append(marker)
    for name, identifier in scene.gone:
        array.markers.append(Marker(header=header(stamp_ns, frame_id), ns=name, id=identifier, action=Marker.DELETE))
    return array


def nothing(stamp_ns: int, frame_id: str) -> MarkerArray:
    """Deletes everything."""
    return MarkerArray(markers=[Marker(header=header(stamp_ns, frame_id), action=Marker.DELETEALL)])


def rgb_of(name: str) -> tuple[float, float, float]:
    """Red, green and blue of a class, 0 to 1."""
    blue, green, red = (c / 255.0 for c in color_of(name))
    return red, green, blue


def label_of(name: str, score: float) -> str:
    """What is written above a box."""
    return f"{name} {score:.2f}"


def _cube(boxes: Boxes, i: int) -> Marker:
    return Marker(type=Marker.CUBE, pose=box_pose(boxes, i), scale=box_size(boxes, i))


def _arrow(boxes: Boxes, i: int) -> Marker:
    marker = Marker(type=Marker.ARROW)
    marker.pose.orientation.w = 1.0
    x, y, z = (float(v) for v in boxes.centers[i])
    vx, vy = (float(v) for v in boxes.velocities[i])
    marker.points = [Point(x=x, y=y, z=z), Point(x=x + vx, y=y + vy, z=z)]
    width, head, length = ARROW_SCALE
    marker.scale = Vector3(x=width, y=head, z=length)
    return marker


def _text(boxes: Boxes, i: int) -> Marker:
    marker = Marker(
        type=Marker.TEXT_VIEW_FACING, pose=box_pose(boxes, i), text=label_of(boxes.names[i], float(boxes.scores[i]))
    )
    marker.pose.position.z += float(boxes.sizes[i, 2]) / 2 + TEXT_ABOVE
    marker.scale.z = TEXT_HEIGHT
    return marker


def _duration(seconds: float) -> Duration:
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=sec, nanosec=nanosec)
