"""From what a teacher finds in the keyframes of a scene to the objects in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bevdistill_ros.geometry import Boxes, rotated_iou_bev
from bevdistill_ros.training.label.motion import KINDS, MOTIONS
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
    class_names = frames[0].boxes.class_names
    limits = np.array([thresholds[name] for name in class_names])
    # Weaker boxes are for what is doubtful; they have no say here.
    frames = [replace(frame, boxes=frame.boxes[frame.boxes.scores >= WEAK * limits.min()]) for frame in frames]
    overlapping = [rotated_iou_bev(frame.boxes, frame.boxes) > OVERLAP for frame in frames]
    kept = [_without_overlaps(frame.boxes, own, limits, dropped) for frame, own in zip(frames, overlapping)]
    objects = []
    for kind in KINDS:
        labels = [class_names.index(name) for name in kind if name in class_names]
        if labels:
            places = [chosen[np.isin(frame.boxes.labels[chosen], labels)] for frame, chosen in zip(frames, kept)]
            objects += _follow(frames, overlapping, places, labels, limits, dropped)
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


def _follow(
    frames: Sequence[Frame],
    overlapping: Sequence[np.ndarray],
    places: Sequence[np.ndarray],
    labels: Sequence[int],
    limits: np.ndarray,
    dropped: Counter[tuple[str, str]],
) -> list[LabelledObject]:
    """Objects of one kind.

    Args:
        overlapping: of each frame, (n, n) which of its boxes overlap.
        places: of each frame, indices of the boxes that show them, one a thing.
        labels: of the kind's classes.
        limits: thresholds by label.
    """
    class_names = frames[0].boxes.class_names
    stamps = [frame.stamp for frame in frames]
    tracker = Tracker(MOTIONS[class_names[labels[0]]], limits)
    objects = []
    unused = [set(chosen.tolist()) for chosen in places]
    for track in tracker([frame.boxes[chosen] for frame, chosen in zip(frames, places)], stamps):
        seen = []
        for frame, index in zip(track.frames, track.found):
            if index >= 0:
                place = int(places[frame][index])
                unused[frame].remove(place)
                seen.append(_opinions(frames[frame].boxes, overlapping[frame], place, labels))
        label = _vote(seen, limits)
        name = class_names[label]
        thing = refine(track, concatenate([_opinion(boxes, label) for boxes in seen]), stamps, name, MOTIONS[name])
        strong = limits[label] + STRONG * (1 - limits[label])
        if len(thing.detections) < LONG_ENOUGH and thing.detections.max() < strong:
            dropped[name, "seen briefly and weakly"] += len(thing.detections)
        else:
            objects.append(thing)
    for frame, left in zip(frames, unused):
        for index in left:
            dropped[frame.boxes.names[index], "below the threshold, and no object goes on there"] += 1
    return objects


def _without_overlaps(
    boxes: Boxes, overlapping: np.ndarray, limits: np.ndarray, dropped: Counter[tuple[str, str]]
) -> np.ndarray:
    """Indices of those boxes of a frame that may matter, as they are above the weak threshold of their class, and do not overlap,
    of whatever class: the one that is further above its threshold stays."""
    strength = boxes.scores / limits[boxes.labels]
    candidates = np.flatnonzero(strength >= WEAK)
    candidates = candidates[np.argsort(-strength[candidates], kind="stable")]
    chosen: list[int] = []
    for index in candidates:
        if overlapping[index, chosen].any():
            if strength[index] >= 1:
                dropped[boxes.names[index], "overlaps a stronger box"] += 1
        else:
            chosen.append(index)
    return np.sort(np.array(chosen, dtype=int))


def _opinions(boxes: Boxes, overlapping: np.ndarray, place: int, labels: Sequence[int]) -> Boxes:
    """What a frame says of the thing at a box: that box first, then the strongest overlapping one of each other class."""
    there = np.flatnonzero(overlapping[place])
    opinions = [place]
    for label in labels:
        own = there[boxes.labels[there] == label]
        if label != boxes.labels[place] and len(own):
            opinions.append(own[np.argmax(boxes.scores[own])])
    return boxes[opinions]


def _vote(seen: Sequence[Boxes], limits: np.ndarray) -> int:
    """The label that all frames together say most for: the largest sum of scores, in thresholds of their classes."""
    votes = np.zeros(len(limits))
    for opinions in seen:
        votes[opinions.labels] += opinions.scores / limits[opinions.labels]
    return int(np.argmax(votes))


def _opinion(opinions: Boxes, label: int) -> Boxes:
    """The box of a class, or the first where none is of it."""
    own = np.flatnonzero(opinions.labels == label)
    return opinions[own if len(own) else [0]]


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
