"""From the boxes along a track to those of one rigid object: one size, a heading that never flips, velocities, stillness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.geometry import Boxes, wrap_angle
from bevdistill_ros.training.evaluation import MOVING_SPEED
from bevdistill_ros.training.label.motion import Motion
from bevdistill_ros.training.label.tracking import Track, smooth_series

YAW_NOISE = 0.15
"""Standard deviation of a detected heading, rad."""

YAW_CHANGE = 0.4
"""Standard deviation of how a turning rate changes over one second, rad/s."""

CLEAR_SPEED = 1.0
"""Speed (m/s) from which on the way an object takes says more about where its front is than what a network sees of it."""


DOUBT = 3.0
"""Standard deviations of its speed, as noise alone would make it, within which an object is taken to be still."""


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """One object of a scene, in the frames from the first to the last that it was found in.

    Attributes:
        name: detection class.
        frames: (n,) indices, rising.
        boxes: (n) in the global frame at the frames' own times, one size; ``scores`` are those of the detections, NaN where the box
            fills a gap.
        still: whether it stands in one place all the time.
    """

    name: str
    frames: np.ndarray
    boxes: Boxes
    still: bool

    @property
    def found(self) -> np.ndarray:
        """(n,) whether each box was detected."""
        return ~np.isnan(self.boxes.scores)

    @property
    def detections(self) -> np.ndarray:
        """Scores of its detections."""
        return self.boxes.scores[self.found]

    @property
    def score(self) -> float:
        """Of the object: the mean of its detections'."""
        return float(self.detections.mean())


def refine(track: Track, seen: Boxes, stamps: Sequence[int], name: str, motion: Motion) -> LabelledObject:
    """The object behind a track.

    Args:
        track: when it was found, and the way that it takes.
        seen: its box in each frame that it was found in, global frame; some are of class ``name``, others may be of another.
        stamps: times of the scene's frames, ns.
        name: what it is.
    """
    found = track.found >= 0
    times = (np.array([stamps[frame] for frame in track.frames]) - stamps[track.first]) * 1e-9
    label = seen.class_names.index(name)
    own = seen[seen.labels == label]  # a box of another class has the size of what it was taken for
    size = np.array([weighted_median(own.sizes[:, axis], own.scores) for axis in range(3)])

    centers, velocities = track.centers.copy(), track.velocities.copy()
    still = stands_still(seen.centers[:, :2], times[found], motion)
    if still:
        centers[:] = [weighted_median(seen.centers[:, axis], seen.scores) for axis in range(3)]
        velocities[:] = 0.0
    consistent = without_flips(seen.yaws, seen.scores, velocities[found])
    if still:
        reference = circular_mean(consistent, seen.scores)
        yaws = np.full(len(found), reference + weighted_median(wrap_angle(consistent - reference), seen.scores))
    else:
        series = np.full(len(found), np.nan)
        series[found] = np.unwrap(consistent)
        yaws = smooth_series(series, times, YAW_NOISE, YAW_CHANGE)
    scores = np.full(len(found), np.nan)
    scores[found] = seen.scores
    labels = np.full(len(found), label)
    boxes = Boxes(
        centers, np.tile(size, (len(found), 1)), wrap_angle(yaws), velocities, scores, labels, seen.class_names
    )
    return LabelledObject(name, track.frames, boxes, still)


def concatenate(parts: Sequence[Boxes]) -> Boxes:
    """All boxes of at least one collection with the same classes."""
    fields = ("centers", "sizes", "yaws", "velocities", "scores", "labels")
    return Boxes(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields), parts[0].class_names)


def stands_still(positions: np.ndarray, times: np.ndarray, motion: Motion) -> bool:
    """Whether detected positions (n, 2) at times (n,) in s are noise about one place.

    They are, where none is far from their median, and where the straight line through them is slower than ``MOVING_SPEED`` or than
    what noise alone might make of a still object.
    """
    if not motion.moves:
        return True
    if len(positions) == 1:
        return False  # nothing is known
    spread = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    offsets = times - times.mean()
    speed = np.linalg.norm(offsets @ positions) / (offsets @ offsets)
    noise = motion.position / np.sqrt(offsets @ offsets)
    return bool(np.quantile(spread, 0.9) < 4 * motion.position and speed < max(MOVING_SPEED, DOUBT * noise))


def without_flips(yaws: np.ndarray, weights: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Headings (n,) along a track, each turned by pi or not, so that they follow each other and point forward.

    Networks mistake front for back; what they mostly say, and the velocities (n, 2) of an object that clearly moves, decide for the
    whole track.
    """
    chained = yaws.copy()
    for i in range(1, len(chained)):
        if np.cos(chained[i] - chained[i - 1]) < 0:
            chained[i] += np.pi
    speeds = np.linalg.norm(velocities, axis=1)
    directions = np.arctan2(velocities[:, 1], velocities[:, 0])
    moving = np.where(speeds > CLEAR_SPEED, 2.0, 0.0)
    agreement = weights @ (np.cos(yaws - chained) + moving * np.cos(directions - chained))
    return wrap_angle(chained if agreement >= 0 else chained + np.pi)


def circular_mean(angles: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean direction of angles (n,)."""
    return float(np.arctan2(weights @ np.sin(angles), weights @ np.cos(angles)))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The lower weighted median of (n,) values: half of the weight lies at it or below."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
