"""Following one class: gaps, crossings, losses, and the smoothed velocities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bevdistill_ros.geometry import Boxes

pytest.importorskip("stonesoup")

from bevdistill_ros.training.label.motion import MOTIONS
from bevdistill_ros.training.label.tracking import Tracker, smooth_series

PERIOD = 500_000_000
NAMES = ("car", "pedestrian")


def boxes(centers: Sequence[Sequence[float]], yaw: float = 0.0, score: float = 0.9, label: int = 0) -> Boxes:
    """Boxes at (x, y) far from the origin of the global frame, as in a map."""
    n = len(centers)
    xyz = np.column_stack([np.reshape(centers, (n, 2)) + (1000.0, 2000.0), np.full(n, 1.0)])
    sizes = np.tile([4.0, 2.0, 1.5], (n, 1))
    return Boxes(xyz, sizes, np.full(n, yaw), np.zeros((n, 2)), np.full(n, score), np.full(n, label), NAMES)


def stamps(count: int) -> list[int]:
    return [1_600_000_000_000_000_000 + i * PERIOD for i in range(count)]


def test_a_straight_track_goes_on_through_a_gap():
    """12 m/s along x, not found in two of ten keyframes."""
    frames = [boxes([] if i in (4, 5) else [(6.0 * i, 0.0)]) for i in range(10)]
    (track,) = Tracker(MOTIONS["car"])(frames, stamps(10))
    assert track.first == 0 and track.found.tolist() == [0, 0, 0, 0, -1, -1, 0, 0, 0, 0]
    truth = np.column_stack([1000.0 + 6.0 * np.arange(10), np.full(10, 2000.0), np.ones(10)])
    np.testing.assert_allclose(track.centers, truth, atol=0.1)
    np.testing.assert_allclose(track.velocities[1:], np.tile([12.0, 0.0], (9, 1)), atol=0.2)
    np.testing.assert_allclose(track.velocities[0], [12.0, 0.0], atol=0.5)  # the first one knew nothing


def test_a_pair_that_crosses_keeps_its_identities():
    """Two people, 1.4 m/s, pass through each other's ways within 0.3 m; the boxes change places in every frame."""
    ways = [[(-3.5 + 0.7 * i, 0.15), (3.5 - 0.7 * i, -0.15)] for i in range(11)]
    frames = [boxes(way if i % 2 else way[::-1], label=1) for i, way in enumerate(ways)]
    tracks = Tracker(MOTIONS["pedestrian"])(frames, stamps(11))
    assert len(tracks) == 2
    for track in tracks:
        assert (track.found >= 0).all()
        direction = np.sign(track.velocities[5, 0])
        np.testing.assert_allclose(track.velocities[2:, 0], direction * 1.4, atol=0.2)
        assert track.centers[-1, 0] - track.centers[0, 0] == pytest.approx(direction * 7.0, abs=0.2)


def test_too_long_a_gap_makes_two_objects_and_nothing_in_between():
    frames = [boxes([(0.0, 0.0)] if i in (1, 2, 7, 8) else []) for i in range(10)]
    tracks = Tracker(MOTIONS["car"])(frames, stamps(10))
    assert [(track.first, track.found.tolist()) for track in tracks] == [(1, [0, 0]), (7, [0, 0])]


def test_a_weak_box_goes_on_with_a_track_but_begins_none():
    strong, weak = boxes([(0.0, 0.0)]), boxes([(0.1, 0.0), (20.0, 0.0)], score=0.3)
    (track,) = Tracker(MOTIONS["car"], thresholds=(0.5, 0.9))([weak, strong, weak], stamps(3))
    assert track.first == 1 and track.found.tolist() == [0, 0]


def test_an_object_whose_speed_is_known_chooses_before_a_new_one():
    """A car at 8 m/s begins to brake just after a wrong box was found behind it, which could reach its next one easily."""
    frames = [boxes([(4.0 * i, 0.0)]) for i in range(4)]
    frames[3] = boxes([(12.0, 0.0), (11.0, 0.5)])
    frames.append(boxes([(14.5, 0.0)]))
    car, other = Tracker(MOTIONS["car"])(frames, stamps(5))
    assert car.found.tolist() == [0] * 5 and other.found.tolist() == [1]


def test_what_cannot_move_has_no_velocity():
    rng = np.random.default_rng(0)
    frames = [boxes(rng.normal(0, 0.2, (1, 2))) for _ in range(8)]
    (track,) = Tracker(MOTIONS["traffic_cone"])(frames, stamps(8))
    assert len(track.found) == 8 and np.abs(track.velocities).max() < 0.05
    np.testing.assert_allclose(track.centers[:, :2] - (1000.0, 2000.0), 0.0, atol=0.2)


def test_noise_is_smoothed():
    rng = np.random.default_rng(1)
    truth = np.column_stack([4.0 * np.arange(12), np.zeros(12)])
    measured = truth + rng.normal(0, 0.4, truth.shape)
    (track,) = Tracker(MOTIONS["car"])([boxes([center]) for center in measured], stamps(12))
    smoothed = track.centers[:, :2] - (1000.0, 2000.0)
    assert np.linalg.norm(smoothed - truth, axis=1).mean() < 0.8 * np.linalg.norm(measured - truth, axis=1).mean()
    raw_speed = np.abs(np.diff(measured[:, 0]) / 0.5 - 8.0).mean()
    assert np.abs(track.velocities[:, 0] - 8.0).mean() < 0.6 * raw_speed


def test_frames_without_boxes_have_no_tracks():
    assert Tracker(MOTIONS["car"])([boxes([])] * 3, stamps(3)) == []


def test_a_series_is_smoothed_and_its_holes_are_filled():
    times = np.arange(10) * 0.5
    truth = 1.0 + 0.2 * times
    values = truth + np.random.default_rng(2).normal(0, 0.15, 10)
    values[[3, 7]] = np.nan
    smoothed = smooth_series(values, times, noise=0.15, change=0.1)
    assert np.nanmean(np.abs(smoothed - truth)) < np.nanmean(np.abs(values - truth))
    assert smooth_series(np.array([0.7]), np.zeros(1), 0.15, 0.1) == pytest.approx([0.7])
