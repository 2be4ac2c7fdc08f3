"""Transforms over time."""

from __future__ import annotations

import numpy as np
import pytest

from bevdistill_ros.geometry import make_transform, quaternion_from_rotation, rotation_z
from bevdistill_ros.training.convert.frames import Frames, NoPoseThen, Unconnected

MS = 1_000_000


def row(x: float, yaw: float = 0.0) -> tuple[float, ...]:
    return (x, 0.0, 0.0, *quaternion_from_rotation(rotation_z(yaw)))


def tree() -> Frames:
    """map -> odom (still) -> base -> cam; odom -> base at 0, 100 and 1100 ms, told out of order."""
    frames = Frames(250 * MS, 20 * MS)
    frames.add("map", "odom", 0, row(100.0), static=True)
    for at, x, yaw in ((100, 1.0, 3.0), (0, 0.0, 2.8), (1100, 11.0, -3.0)):
        assert frames.add("/odom", "base", at * MS, row(x, yaw), static=False) is None
    frames.add("base", "cam", 0, row(2.0), static=True)
    frames.finish()
    return frames


def test_chains_up_and_down():
    frames = tree()
    expected = (
        make_transform(None, (100, 0, 0)) @ make_transform(rotation_z(3.0), (1, 0, 0)) @ make_transform(None, (2, 0, 0))
    )
    assert np.allclose(frames.lookup("map", "cam", 100 * MS), expected)
    assert np.allclose(frames.lookup("cam", "map", 100 * MS), np.linalg.inv(expected))
    assert np.allclose(frames.lookup("base", "base", 77), np.eye(4))


def test_between_and_a_little_beyond():
    frames = tree()
    assert np.allclose(frames.lookup("odom", "base", 50 * MS), make_transform(rotation_z(2.9), (0.5, 0, 0)))
    assert np.allclose(frames.lookup("odom", "base", -10 * MS), make_transform(rotation_z(2.78), (-0.1, 0, 0)))


@pytest.mark.parametrize(
    ("at", "text"), [(-21, "before the first"), (1121, "after the last"), (600, "more than 250 ms apart")]
)
def test_no_pose_is_made_up(at, text):
    with pytest.raises(NoPoseThen, match=text):
        tree().lookup("map", "cam", at * MS)


def test_frames_that_nothing_joins():
    with pytest.raises(Unconnected, match="'lidar' and 'base'.*base, cam, map, odom"):
        tree().lookup("base", "lidar", 0)


def test_a_loop_is_no_endless_one():
    frames = Frames(1, 1)
    frames.add("a", "b", 0, row(1.0), static=True)
    frames.add("b", "a", 0, row(1.0), static=True)
    with pytest.raises(Unconnected, match="loop"):
        frames.lookup("b", "c", 0)


@pytest.mark.parametrize(
    ("parent", "child", "pose", "text"),
    [
        ("other", "base", row(0.0), "hangs from odom and from other"),
        ("odom", "base", (0, 0, 0, 0, 0, 0, 0), "no"),
        ("odom", "base", (np.nan, 0, 0, 0, 0, 0, 1), "rigid"),
        ("odom", "odom", row(0.0), "in itself"),
        ("", "x", row(0.0), "without a name"),
    ],
)
def test_what_cannot_be_is_not_taken(parent, child, pose, text):
    frames = tree()
    assert text in frames.add(parent, child, 200 * MS, pose, static=False)
    frames.finish()
    assert np.allclose(frames.lookup("odom", "base", 100 * MS), make_transform(rotation_z(3.0), (1, 0, 0)))
