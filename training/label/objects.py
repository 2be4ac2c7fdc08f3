"""From what a teacher finds in the keyframes of a scene to the objects in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bevdistill_ros.geometry import Boxes, rotated_iou_bev
from bevdistill_ros.training.label.motion import MOTIONS
from bevdistill_ros.training.label.refine import LabelledObject, concatenate, refine
from bevdistill_ros.training.label.tracking import Tracker

OVERLAP = 0.2
"""Intersection over union seen from above beyond which two boxes cannot both be right."""

NEAR = 1.0
"""m. A box this close to one of an object of its class is of that object, though smoothing has moved it."""

WEAK = 0.75
"""Share of its class's threshold from which on a box may continue an object; only a box of the whole threshold begins one."""

LONG_ENOUGH = 3
"""Detections from which on an object is kept, however weak they are."""

STRONG = 0.25
"""How far, from its class's threshold towards 1, the best score of an object must be that was seen more briefly than that."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What a teacher found in one keyframe.

    Attributes:
        stamp: ns, the time of the boxes.
        boxes: in the global frame.
    """

    stamp: int
    boxes: Boxes


@dataclass(frozen=True, eq=False)
class SceneObjects:
    """Objects of a scene, and what was left out.

    Attributes:
        objects: in the order of classes and first frames.
        dropped: number of boxes left out, by (class, reason).
    """

    objects: list[LabelledObject]
    dropped: Counter[tuple[str, str]]


def find_objects(frames: Sequence[Frame], thresholds: Mapping[str, float]) -> SceneObjects:
    """Follow objects through the keyframes of a scene.

    Args:
        frames: in order of time.
        thresholds: score by class.
    """
    dropped: Counter[tuple[str, str]] = Counter()
    stamps = [frame.stamp for frame in frames]
    kept = [_without_overlaps(_above(frame.boxes, thresholds), thresholds, dropped) for frame in frames]
    objects = []
    for label, name in enumerate(frames[0].boxes.class_names):
        boxes = [found[found.labels == label] for found in kept]
        tracks = Tracker(MOTIONS[name], thresholds[name])(boxes, stamps)
        used = sum(int((track.found >= 0).sum()) for track in tracks)
        dropped[name, "below the threshold, and no object goes on there"] += sum(map(len, boxes)) - used
        for track in tracks:
            thing = refine(track, boxes, stamps, name, MOTIONS[name])
            if len(thing.detections) < LONG_ENOUGH and thing.detections.max() < _strong(thresholds[name]):
                dropped[name, "seen briefly and weakly"] += len(thing.detections)
            else:
                objects.append(thing)
    return SceneObjects(_apart(objects, len(frames), thresholds, dropped), +dropped)


def doubtful_boxes(frame: Frame, written: Boxes, thresholds: Mapping[str, float], share: float) -> Boxes:
    """Boxes of a frame that became no object, and yet may be one: those of ``share`` of their class's threshold or more that
    neither lie on a ``written`` box of the same frame nor are ``NEAR`` one of their own class."""
    lowest = share * np.array([thresholds[name] for name in frame.boxes.class_names])
    boxes = frame.boxes[frame.boxes.scores >= lowest[frame.boxes.labels]]
    if not (len(boxes) and len(written)):
        return boxes
    distance = np.linalg.norm(boxes.centers[:, None, :2] - written.centers[None, :, :2], axis=2)
    own = (boxes.labels[:, None] == written.labels) & (distance < NEAR)
    return boxes[~((rotated_iou_bev(boxes, written) > OVERLAP) | own).any(axis=1)]


def _strong(threshold: float) -> float:
    return threshold + STRONG * (1 - threshold)


def _above(boxes: Boxes, thresholds: Mapping[str, float]) -> Boxes:
    """Boxes that may matter: those above the weak threshold of their class."""
    lowest = np.array([WEAK * thresholds[name] for name in boxes.class_names])
    return boxes[boxes.scores >= lowest[boxes.labels]]


def _without_overlaps(boxes: Boxes, thresholds: Mapping[str, float], dropped: Counter[tuple[str, str]]) -> Boxes:
    """Boxes of one frame that do not overlap, of whatever class: the one that is further above its threshold stays."""
    limits = np.array([thresholds[name] for name in boxes.class_names])[boxes.labels]
    order = np.argsort(-boxes.scores / limits, kind="stable")
    overlapping = rotated_iou_bev(boxes, boxes) > OVERLAP
    chosen: list[int] = []
    for index in order:
        if overlapping[index, chosen].any():
            if boxes.scores[index] >= limits[index]:
                dropped[boxes.names[index], "overlaps a stronger box"] += 1
        else:
            chosen.append(index)
    return boxes[np.sort(np.array(chosen, dtype=int))]


def _apart(
    objects: list[LabelledObject], frames: int, thresholds: Mapping[str, float], dropped: Counter[tuple[str, str]]
) -> list[LabelledObject]:
    """Objects without the boxes in which they overlap a stronger one; one that loses half of its boxes goes altogether."""
    strength = np.array([thing.detections.sum() / thresholds[thing.name] for thing in objects])
    keep = [np.ones(len(thing.frames), bool) for thing in objects]
    for frame in range(frames):
        here = [(i, frame - thing.frames[0]) for i, thing in enumerate(objects) if frame in thing.frames]
        if len(here) < 2:
            continue
        boxes = concatenate([objects[i].boxes[at] for i, at in here])
        for a, b in np.argwhere(np.triu(rotated_iou_bev(boxes, boxes), 1) > OVERLAP):
            weaker, at = min(here[a], here[b], key=lambda place: strength[place[0]])
            keep[weaker][at] = False
    result = []
    for thing, kept in zip(objects, keep):
        if kept.mean() <= 0.5:
            kept[:] = False
        else:
            result.append(replace(thing, frames=thing.frames[kept], boxes=thing.boxes[kept]))
        dropped[thing.name, "overlaps a stronger object"] += int((thing.found & ~kept).sum())
    return result
