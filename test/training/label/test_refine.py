"""One rigid object from the boxes along its track."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bevdistill_ros.geometry import Boxes, wrap_angle

pytest.importorskip("stonesoup")

from bevdistill_ros.training.label.motion import MOTIONS
from bevdistill_ros.training.label.refine import (
    LabelledObject,
    concatenate,
    refine,
    stands_still,
    weighted_median,
    without_flips,
)
from bevdistill_ros.training.label.tracking import Tracker

STEP = 500_000_000


def follow(
    xy: np.ndarray, yaws: np.ndarray, sizes: np.ndarray, scores: np.ndarray, name: str = "car"
) -> LabelledObject:
    """The one object that has a box at xy (n, 2) in each of n frames; none where x is NaN."""
    frames = []
    for i in range(len(xy)):
        one = Boxes([[*xy[i], 1.0]], sizes[i : i + 1], yaws[i : i + 1], [[0, 0]], scores[i : i + 1], [0], (name,))
        frames.append(one[:0] if np.isnan(xy[i, 0]) else one)
    stamps = [i * STEP for i in range(len(xy))]
    (track,) = Tracker(MOTIONS[name])(frames, stamps)
    return refine(track, concatenate([frame for frame in frames if len(frame)]), stamps, name, MOTIONS[name])


def test_headings_that_flip_are_turned_to_the_front():
    """A car drives at 8 m/s; the network sees its back for its front in six frames of ten."""
    n = 10
    heading = 2.9  # such that flips and noise cross the border of the interval of angles
    way = 4.0 * np.arange(n)[:, None] * [math.cos(heading), math.sin(heading)]
    yaws = heading + np.random.default_rng(0).normal(0, 0.05, n)
    yaws[[0, 1, 2, 4, 5, 8]] += math.pi
    thing = follow(way, wrap_angle(yaws), np.tile([4.0, 2.0, 1.5], (n, 1)), np.full(n, 0.5))
    assert not thing.still
    np.testing.assert_allclose(wrap_angle(thing.boxes.yaws - heading), 0.0, atol=0.1)
    assert ((thing.boxes.yaws >= -math.pi) & (thing.boxes.yaws < math.pi)).all()


def test_a_parked_object_points_where_its_best_boxes_do():
    yaws, scores = np.array([0.1, 0.1 - math.pi, 0.1 + math.pi, 0.1]), np.array([0.9, 0.3, 0.3, 0.8])
    found = without_flips(yaws, scores, np.zeros((4, 2)))
    np.testing.assert_allclose(found, 0.1, atol=1e-9)
    found = without_flips(yaws, 1 - scores, np.zeros((4, 2)))
    np.testing.assert_allclose(wrap_angle(found - 0.1 - math.pi), 0.0, atol=1e-9)


def test_a_turn_is_no_flip():
    """A quarter of a turn over ten frames, one of them reversed."""
    truth = np.linspace(0.0, math.pi / 2, 10)
    seen = truth.copy()
    seen[4] += math.pi
    directions = np.column_stack([np.cos(truth), np.sin(truth)]) * 5.0
    np.testing.assert_allclose(without_flips(seen, np.ones(10), directions), truth, atol=1e-9)


def test_one_size_by_the_weighted_median():
    assert weighted_median(np.array([1.0, 2.0, 9.0]), np.ones(3)) == 2.0
    assert weighted_median(np.array([9.0, 1.0, 2.0]), np.array([3.0, 1.0, 1.0])) == 9.0
    sizes = np.tile([4.0, 2.0, 1.5], (5, 1))
    sizes[2] = (2.0, 1.0, 0.9)  # half of it was hidden
    thing = follow(np.zeros((5, 2)), np.zeros(5), sizes, np.array([0.8, 0.8, 0.2, 0.8, 0.8]))
    assert np.unique(thing.boxes.sizes, axis=0).tolist() == [[4.0, 2.0, 1.5]]


def test_a_still_object_stays_in_one_place():
    """And a gap in it is filled there."""
    xy = np.random.default_rng(3).normal(0, 0.3, (12, 2))
    xy[5] = np.nan
    thing = follow(xy, np.full(12, 0.3), np.tile([4.0, 2.0, 1.5], (12, 1)), np.full(12, 0.5))
    assert thing.still and len(thing.boxes) == 12 and thing.found.tolist() == [i != 5 for i in range(12)]
    assert np.ptp(thing.boxes.centers, axis=0).max() == 0 and not thing.boxes.velocities.any()
    assert np.linalg.norm(thing.boxes.centers[0, :2]) < 0.3
    np.testing.assert_allclose(thing.boxes.yaws, 0.3, atol=1e-9)
    assert thing.score == pytest.approx(0.5) and np.isnan(thing.boxes.scores[5])


@pytest.mark.parametrize("speed", [0.0, 0.6, 1.4])
def test_slow_walkers_are_not_still(speed: float):
    times = np.arange(12) * 0.5
    xy = np.column_stack([speed * times, np.zeros(12)]) + np.random.default_rng(4).normal(0, 0.15, (12, 2))
    assert stands_still(xy, times, MOTIONS["pedestrian"]) == (speed == 0)


def test_one_box_alone_says_nothing_of_motion():
    assert not stands_still(np.zeros((1, 2)), np.zeros(1), MOTIONS["car"])
    assert stands_still(np.zeros((1, 2)), np.zeros(1), MOTIONS["barrier"])


def test_starting_is_not_standing():
    """A car that waits for 5 s and then drives on."""
    times = np.arange(16) * 0.5
    x = np.where(times > 5, 1.0 * (times - 5) ** 2, 0.0)
    thing = follow(
        np.column_stack([x, np.zeros(16)]), np.zeros(16), np.tile([4.0, 2.0, 1.5], (16, 1)), np.full(16, 0.9)
    )
    assert not thing.still
    speeds = thing.boxes.velocities[:, 0]
    assert np.abs(speeds[:8]).max() < 0.3 and speeds[13] == pytest.approx(3.0, abs=0.5)
