"""Boxes out of a bag's messages, and where they are at a keyframe between two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bevdistill_ros.geometry import make_transform, rotation_from_quaternion
from bevdistill_ros.training.convert.bag import read_header
from bevdistill_ros.training.convert.frames import interpolate
from bevdistill_ros.training.convert.rig_file import Annotations
from bevdistill_ros.training.world.taxonomy import CATEGORIES

DETECTIONS = "vision_msgs/msg/Detection3DArray"
MARKERS = "visualization_msgs/msg/MarkerArray"
OBJECTS = "bevdistill_ros/msg/DetectedObjectArray"
KINDS = (DETECTIONS, MARKERS, OBJECTS)

CATEGORY_OF_CLASS = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
"""A nuScenes category of each detection class."""

SAME_MOMENT = 50_000_000
"""ns. A message so close to the keyframe tells of all that is there; of one further away only objects that are in both count."""

_CUBE, _ADD = 1, 0  # of visualization_msgs/Marker


@dataclass(frozen=True, eq=False)
class Box:
    """An annotated object at one time.

    Attributes:
        identity: the same in all messages; '' where the source has no tracks.
        category: of nuScenes.
        pose: (4, 4) of the gravity centre; x is the heading.
        size: (3,) length, width, height.
        velocity: (3,) m/s in the axes of the pose's frame; None where it is not known.
    """

    identity: str
    category: str
    pose: np.ndarray
    size: np.ndarray
    velocity: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Message:
    """All boxes of one time, in the global frame."""

    stamp: int
    boxes: tuple[Box, ...]


class Classes:
    """nuScenes categories by the labels of a bag.

    Raises:
        ValueError: the rig file maps to what is neither a category nor a detection class.
    """

    def __init__(self, config: Annotations) -> None:
        self._known = {**{name: name for name in CATEGORIES}, **CATEGORY_OF_CLASS}
        for label, name in config.classes.items():
            if name and name not in self._known:
                raise ValueError(
                    f"annotations.classes.{label}: '{name}' is neither a nuScenes category nor one of "
                    f"{', '.join(CATEGORY_OF_CLASS)}"
                )
            self._known[label] = self._known[name] if name else ""
        self.unknown: Counter[str] = Counter()
        self.unusable = 0

    def category(self, label: str) -> str:
        """The category; '' where boxes of that label are left out. Unknown labels are counted."""
        if label not in self._known:
            self.unknown[label] += 1
            return ""
        return self._known[label]


def stamp_of(msgtype: str, data: bytes, message: Any, log_time: int) -> tuple[int, str]:
    """Stamp (ns) and frame of an annotation message. A MarkerArray has those of its first marker; an empty one has the time at
    which it was recorded."""
    if msgtype != MARKERS:
        return read_header(data)
    first = next((marker for marker in message.markers if marker.action == _ADD), None)
    if first is None:
        return log_time, ""
    return first.header.stamp.sec * 10**9 + first.header.stamp.nanosec, first.header.frame_id


def read_boxes(msgtype: str, message: Any, config: Annotations, classes: Classes) -> list[Box]:
    """The boxes of a message, in its frame."""
    read = {DETECTIONS: _detections, OBJECTS: _objects, MARKERS: _markers}[msgtype]
    boxes = []
    for identity, category, pose, size, velocity in read(message, config, classes):
        try:
            box = Box(identity, category, _pose(pose), _xyz(size), velocity)
        except ValueError:  # a quaternion that is none
            classes.unusable += 1
            continue
        if np.isfinite(box.pose).all() and np.isfinite(box.size).all() and (box.size > 0).all():
            boxes.append(box)
        else:
            classes.unusable += 1
    return boxes


_Row = tuple[str, str, Any, Any, np.ndarray | None]
"""Identity, category, geometry_msgs/Pose, size, velocity."""


def _detections(message: Any, config: Annotations, classes: Classes) -> Iterator[_Row]:
    for detection in message.detections:
        if not detection.results:
            classes.unusable += 1
            continue
        best = max((result.hypothesis for result in detection.results), key=lambda hypothesis: hypothesis.score)
        if best.score >= config.min_score and (category := classes.category(best.class_id)):
            yield detection.id if config.tracks else "", category, detection.bbox.center, detection.bbox.size, None


def _objects(message: Any, config: Annotations, classes: Classes) -> Iterator[_Row]:
    for thing in message.objects:
        if thing.score >= config.min_score and (category := classes.category(thing.class_name)):
            yield "", category, thing.pose, thing.size, np.nan_to_num(_xyz(thing.velocity))


def _markers(message: Any, config: Annotations, classes: Classes) -> Iterator[_Row]:
    for marker in message.markers:
        if marker.type == _CUBE and marker.action == _ADD and (category := classes.category(marker.ns)):
            yield f"{marker.ns}/{marker.id}" if config.tracks else "", category, marker.pose, marker.scale, None


def in_frame(box: Box, target_T_source: np.ndarray) -> Box:
    """The same object in another frame."""
    velocity = None if box.velocity is None else target_T_source[:3, :3] @ box.velocity
    return replace(box, pose=target_T_source @ box.pose, velocity=velocity)


def at_keyframe(around: Sequence[Message], stamp: int) -> tuple[list[Box], int]:
    """Boxes at a time from the messages around it (one of them, where it is at that very time), and how many could not be placed.

    An object that both have moves straight and turns the shorter way in between. One that only one has is placed if that message
    is within SAME_MOMENT, moved on with its velocity where that is known.
    """
    nearest = min(around, key=lambda message: abs(message.stamp - stamp))
    other = next((message for message in around if message is not nearest), None)
    close = abs(nearest.stamp - stamp) <= SAME_MOMENT
    partners = {(box.identity, box.category): box for box in other.boxes if box.identity} if other else {}
    boxes, lost = [], 0
    for box in nearest.boxes:
        partner = partners.pop((box.identity, box.category), None)
        if partner is not None:
            fraction = (stamp - nearest.stamp) / (other.stamp - nearest.stamp)
            boxes.append(replace(box, pose=interpolate(box.pose, partner.pose, fraction)))
        elif close:
            moved = box.pose.copy()
            if box.velocity is not None:
                moved[:3, 3] += box.velocity * ((stamp - nearest.stamp) * 1e-9)
            boxes.append(replace(box, pose=moved))
        else:
            lost += 1
    return boxes, lost


def _pose(pose: Any) -> np.ndarray:
    """(4, 4) of a geometry_msgs/Pose; an unset orientation is none."""
    q = pose.orientation
    xyzw = (q.x, q.y, q.z, q.w)
    rotation = rotation_from_quaternion(xyzw) if any(xyzw) else np.eye(3)
    return make_transform(rotation, _xyz(pose.position))


def _xyz(vector: Any) -> np.ndarray:
    return np.array([vector.x, vector.y, vector.z], np.float64)
