"""Poses of cameras from TF: as matrices say, and an answer to anything that anybody publishes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rclpy.logging
import tf2_ros
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st

from bevdistill_ros.geometry import MAX_DISTANCE, make_transform, quaternion_from_rotation, rotation_from_quaternion
from bevdistill_ros.node.calibration import Mount, TransformSource

few = settings(max_examples=40, deadline=None, derandomize=True)
STAMP = 1_700_000_000_000_000_000
SECOND = 10**9

unit = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1)
place = st.tuples(*[st.floats(-100, 100)] * 3)
anything = st.floats(width=64) | st.sampled_from([float("nan"), float("inf"), 1e300, 5e-324, 0.0])
frames = st.sampled_from(["base_link", "odom", "camera", "/camera", "", "map"])
stamps = st.integers(STAMP - SECOND, STAMP + SECOND) | st.sampled_from(
    [0, -SECOND, (2**31 - 1) * SECOND, -(2**31) * SECOND]
)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    rclpy.logging.set_logger_level("tf2_buffer", rclpy.logging.LoggingSeverity.FATAL)
    yield
    rclpy.logging.set_logger_level("tf2_buffer", rclpy.logging.LoggingSeverity.UNSET)


def message(parent: str, child: str, stamp: int, xyz, xyzw) -> TransformStamped:
    out = TransformStamped()
    out.header.frame_id, out.child_frame_id = parent, child
    out.header.stamp.sec, out.header.stamp.nanosec = divmod(stamp, SECOND)
    translation, rotation = out.transform.translation, out.transform.rotation
    translation.x, translation.y, translation.z = map(float, xyz)
    rotation.x, rotation.y, rotation.z, rotation.w = map(float, xyzw)
    return out


def matrix(xyz, xyzw) -> np.ndarray:
    return make_transform(rotation_from_quaternion(xyzw), xyz)


@few
@given(
    mount=st.tuples(place, unit), now=st.tuples(place, unit), back=place, turn=st.tuples(*[st.floats(-0.1, 0.1)] * 3)
)
def test_a_camera_is_where_it_was_when_it_took_its_picture(mount, now, back, turn) -> None:
    buffer = tf2_ros.Buffer()
    buffer.set_transform_static(message("base_link", "camera", 0, *mount), "test")
    now_T_then = matrix(back, (*turn, 1.0))
    odom_T_then = matrix(*now) @ now_T_then
    then = odom_T_then[:3, 3], quaternion_from_rotation(odom_T_then[:3, :3])
    for stamp, pose in ((STAMP - SECOND // 20, then), (STAMP, now)):
        buffer.set_transform(message("odom", "base_link", stamp, *pose), "test")
    mounts = {"early": Mount(STAMP - SECOND // 20, "camera"), "reference": Mount(STAMP, "camera")}
    poses = TransformSource(buffer, "base_link", "odom").attempt(mounts, STAMP, SECOND, last=True)
    assert poses.motion_compensated and not poses.problems
    np.testing.assert_allclose(poses.base_T_camera["reference"], matrix(*mount), atol=1e-6)
    np.testing.assert_allclose(poses.base_T_camera["early"], now_T_then @ matrix(*mount), atol=1e-5)


@few
@given(
    sent=st.lists(
        st.tuples(frames, frames, stamps, st.tuples(*[anything] * 3), st.tuples(*[anything] * 4), st.booleans()), max_size=5
    ),
    asked=st.lists(st.tuples(frames, stamps), min_size=1, max_size=3), fixed=st.sampled_from(["odom", "", "base_link"]),
)  # fmt: skip
def test_there_is_an_answer_to_anything(sent, asked, fixed) -> None:
    buffer = tf2_ros.Buffer()
    for parent, child, stamp, xyz, xyzw, static in sent:
        (buffer.set_transform_static if static else buffer.set_transform)(
            message(parent, child, stamp, xyz, xyzw), "test"
        )
    mounts = {f"camera_{i}": Mount(stamp, frame) for i, (frame, stamp) in enumerate(asked)}
    poses = TransformSource(buffer, "base_link", fixed).attempt(mounts, asked[0][1], SECOND, last=True)
    for name in mounts:
        assert name in poses.base_T_camera or poses.problems[name]
    for pose in poses.base_T_camera.values():
        assert np.isfinite(pose).all() and np.abs(pose).max() < 10 * MAX_DISTANCE
