"""Calibration: CameraInfo to a camera, the YAML file, and poses from TF at the reference time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo
from tf2_ros import Buffer

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import make_transform, rotation_from_quaternion, rotation_z, transform_points
from bevdistill_ros.node.calibration import (
    CalibrationStore,
    FileCalibration,
    Mount,
    TransformSource,
    intrinsics_from_info,
    load_calibration_file,
)
from bevdistill_ros.node.messages import time_message
from bevdistill_ros.paths import share_directory

MS = 1_000_000
T0 = 1_600_000_000_000_000_000


def info(**changes) -> CameraInfo:
    message = CameraInfo(width=1600, height=900, distortion_model="plumb_bob", d=[0.1, -0.2, 0.001, 0.002, 0.05])
    message.k = [1000.0, 0.0, 800.0, 0.0, 1100.0, 450.0, 0.0, 0.0, 1.0]
    message.p = [900.0, 0.0, 790.0, 0.0, 0.0, 950.0, 440.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        target = message
        *path, last = name.split("__")
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    return message


# ---------------------------------------------------------------------------------------------------------- CameraInfo


def test_raw_images_take_k_and_d() -> None:
    camera = intrinsics_from_info(info()).camera
    assert np.array_equal(camera.K, [[1000, 0, 800], [0, 1100, 450], [0, 0, 1]])
    assert (camera.width, camera.height, camera.distortion_model) == (1600, 900, "plumb_bob")
    assert np.array_equal(camera.D, [0.1, -0.2, 0.001, 0.002, 0.05])


def test_rectified_images_take_p_without_distortion() -> None:
    found = intrinsics_from_info(info(), rectified=True)
    assert np.array_equal(found.camera.K, [[900, 0, 790], [0, 950, 440], [0, 0, 1]])
    assert not found.camera.is_distorted and np.array_equal(found.frame_T_image, np.eye(4))


def test_projection_with_baseline_is_that_of_the_message() -> None:
    """P projects points of the message's frame; the camera and its offset must do the same."""
    P = np.array([[900.0, 0, 790, -108], [0, 950, 440, 19], [0, 0, 1, 0]])
    found = intrinsics_from_info(info(p=P.reshape(-1).tolist()), rectified=True)
    point = np.array([1.0, -0.5, 8.0])
    u, v, w = P @ [*point, 1.0]
    in_camera = transform_points(np.linalg.inv(found.frame_T_image), point)
    assert found.camera.project(in_camera)[0] == pytest.approx([u / w, v / w])
    assert found.frame_T_image[:3, 3] == pytest.approx([0.12, -0.02, 0.0])


def test_region_of_interest_then_binning() -> None:
    """Sensor pixel (400, 300) is the first one kept. Blocks of 2 x 2 are joined: the centre of sensor pixels 400 and 401 is 0."""
    message = info(roi__x_offset=400, roi__y_offset=300, roi__width=800, roi__height=402, binning_x=2, binning_y=2)
    camera = intrinsics_from_info(message).camera
    assert (camera.width, camera.height) == (400, 201)
    assert np.allclose(camera.K, [[500, 0, (800 - 400.5) / 2], [0, 550, (450 - 300.5) / 2], [0, 0, 1]])


def test_binning_alone_and_different_by_axis() -> None:
    camera = intrinsics_from_info(info(binning_x=4, binning_y=1)).camera
    assert (camera.width, camera.height) == (400, 900)
    assert np.allclose(camera.K, [[250, 0, (800 - 1.5) / 4], [0, 1100, 450], [0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "rectified", "text"),
    [
        ({"k": [0.0] * 9}, False, "field k is all zero"),
        ({"p": [0.0] * 12}, True, "field p is all zero"),
        ({"width": 0}, False, "width and height are 0x900"),
        ({"width": 2**31}, False, "width and height"),
        ({"k": [math.nan] * 9}, False, "field k"),
        ({"k": [-1.0, 0, 5, 0, 1, 5, 0, 0, 1]}, False, "field k"),
        ({"p": [1.0] * 12}, True, "field p"),
        ({"distortion_model": "thin"}, False, "'thin'"),
        ({"d": [0.1, 0.2]}, False, "coefficients, not 2"),
        ({"d": [math.nan] * 5}, False, "finite"),
        ({"roi__width": 2000, "roi__height": 10}, False, "field roi"),
        ({"roi__width": 20}, False, "field roi"),
        ({"binning_x": 5000}, False, "binning"),
    ],
)
def test_wrong_camera_infos_are_refused_by_field(changes, rectified, text) -> None:
    with pytest.raises(ValueError, match=text):
        intrinsics_from_info(info(**changes), rectified)


# ----------------------------------------------------------------------------------------------------------- YAML file


def test_shipped_rig_looks_where_it_says() -> None:
    rig = load_calibration_file(share_directory() / "config" / "nuscenes_rig.yaml")
    yaws = {
        "cam_front": 0,
        "cam_front_right": -55,
        "cam_back_right": -110,
        "cam_back": 180,
        "cam_back_left": 110,
        "cam_front_left": 55,
    }
    assert set(rig) == set(yaws)
    for name, degrees in yaws.items():
        yaw = math.radians(degrees)
        axis, right, down = (rig[name].base_T_camera[:3, i] for i in (2, 0, 1))
        assert axis == pytest.approx([math.cos(yaw), math.sin(yaw), 0], abs=1e-3), name
        assert right == pytest.approx([math.sin(yaw), -math.cos(yaw), 0], abs=1e-3)
        assert down == pytest.approx([0, 0, -1], abs=1e-3)
        assert (rig[name].camera.width, rig[name].camera.height) == (1600, 900)


def write(tmp_path, text: str):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    return path


def test_file_may_give_either_half(tmp_path) -> None:
    path = write(
        tmp_path, "cameras:\n  a: {width: 4, height: 2, K: [1, 0, 2, 0, 1, 1, 0, 0, 1]}\n  b: {frame_id: b_optical}\n"
    )
    rig = load_calibration_file(path)
    assert rig["a"].camera.width == 4 and rig["a"].base_T_camera is None and rig["a"].frame_id is None
    assert rig["b"].camera is None and rig["b"].frame_id == "b_optical"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("cameras: [", "is not YAML"),
        ("- 1", "must hold 'cameras:'"),
        ("cameras: {}", "must hold 'cameras:'"),
        ("cameras: {a: 3}", "cameras.a: must be a mapping"),
        ("cameras: {a: {k: []}}", "cameras.a.k: unknown field"),
        ("cameras: {a: {width: 4, height: 2}}", "cameras.a.K"),
        ("cameras: {a: {width: 4, height: 2, K: [1, 2]}}", "cameras.a.K: must be a list of 9"),
        ("cameras: {a: {width: 4, height: 2, K: [1, 0, 2, 0, .nan, 1, 0, 0, 1]}}", "cameras.a.K"),
        ("cameras: {a: {width: 4.5, height: 2, K: [1, 0, 2, 0, 1, 1, 0, 0, 1]}}", "cameras.a.width"),
        ("cameras: {a: {width: 4, height: 2, K: [1, 0, 2, 0, 1, 1, 0, 0, 1], D: [1]}}", "cameras.a: "),
        ("cameras: {a: {base_T_camera: {translation: [0, 0, 0]}}}", "cameras.a.base_T_camera"),
        ("cameras: {a: {base_T_camera: {translation: [0, 0], rotation: [0, 0, 0, 1]}}}", "base_T_camera.translation"),
        ("cameras: {a: {base_T_camera: {translation: [0, 0, 0], rotation: [0, 0, 0, 2]}}}", "base_T_camera.rotation"),
        ("cameras: {a: {frame_id: 3}}", "cameras.a.frame_id"),
    ],
)
def test_wrong_files_are_refused_by_file_and_field(tmp_path, text, field) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_calibration_file(path)
    assert str(path) in str(caught.value) and field in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UserError, match="/nowhere/rig.yaml"):
        load_calibration_file("/nowhere/rig.yaml")


# ------------------------------------------------------------------------------------------- what is known of a camera


def test_the_newest_camera_info_counts_and_changes_are_told() -> None:
    store = CalibrationStore({})
    assert store.needs_info("a") and store.intrinsics("a") is None
    assert [store.hear("a", info()), store.hear("a", info())] == [False, False]
    assert store.hear("a", info(width=1280)) and store.intrinsics("a").camera.width == 1280
    with pytest.raises(ValueError, match="width and height"):
        store.hear("a", info(width=0))
    assert store.intrinsics("a") is None
    assert store.hear("a", info(width=0)) is False and store.intrinsics("a") is None  # told once
    assert store.hear("a", info()) and store.intrinsics("a").camera.width == 1600


def test_the_file_goes_before_messages_field_by_field() -> None:
    camera, pose = intrinsics_from_info(info(width=640)).camera, make_transform(translation=(1, 2, 3))
    store = CalibrationStore({"a": FileCalibration(camera), "b": FileCalibration(None, pose, "b_file")})
    for name in "abc":
        store.hear(name, info(header__frame_id=f"{name}_info"))
    assert [store.needs_info(name) for name in "abc"] == [False, True, True]
    assert [store.intrinsics(name).camera.width for name in "abc"] == [640, 1600, 1600]
    assert [store.mount(name, T0, "image").frame for name in "abc"] == ["image", "b_file", "image"]
    assert [store.mount(name, T0, "").frame for name in "abc"] == ["a_info", "b_file", "c_info"]
    assert store.mount("b", T0, "").base_T_camera is pose and store.mount("a", T0, "").base_T_camera is None


# ------------------------------------------------------------------------------------------------------------------ TF


def transform(parent: str, child: str, time: int, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, time_message(time)
    message.transform.translation.x, message.transform.translation.y = x, y
    message.transform.rotation.z, message.transform.rotation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return message


@pytest.fixture
def buffer() -> Buffer:
    """Camera a sits 1 m ahead of base_link, b 1 m to its left and looks left. The base drives at 10 m/s along odom's x and turns by
    1 rad/s; odom knows it at 0 and 100 ms."""
    buffer = Buffer()
    buffer.set_transform_static(transform("base_link", "a", 0, x=1.0), "test")
    buffer.set_transform_static(transform("base_link", "b", 0, y=1.0, yaw=math.pi / 2), "test")
    for ms in (0, 100):
        buffer.set_transform(transform("odom", "base_link", T0 + ms * MS, x=ms / 100, yaw=ms / 1000), "test")
    return buffer


def mounts(**stamps_ms: float) -> dict[str, Mount]:
    return {name: Mount(T0 + round(ms * MS), name) for name, ms in stamps_ms.items()}


def attempt(buffer, mounts, t_ref_ms: float, fixed: str = "odom", max_age_ms: float = 1000, last: bool = False):
    source = TransformSource(buffer, "base_link", fixed)
    return source.attempt(mounts, T0 + round(t_ref_ms * MS), round(max_age_ms * MS), last)


def test_images_of_one_time_need_no_fixed_frame(buffer) -> None:
    poses = attempt(buffer, mounts(a=30, b=30), 30, fixed="nowhere")
    assert poses.motion_compensated and not poses.problems and not poses.motion_problem
    assert poses.base_T_camera["a"] == pytest.approx(make_transform(translation=(1, 0, 0)))
    assert poses.base_T_camera["b"] == pytest.approx(make_transform(rotation_z(math.pi / 2), (0, 1, 0)))


def test_later_image_is_seen_from_further_ahead(buffer) -> None:
    """At 80 ms the base is 0.8 m along odom's x and turned by 0.08 rad; at t_ref = 20 ms 0.2 m and 0.02 rad."""
    poses = attempt(buffer, mounts(a=20, b=80), 20)
    assert poses.motion_compensated and not poses.problems
    assert poses.base_T_camera["a"] == pytest.approx(make_transform(translation=(1, 0, 0)))
    driven = rotation_z(-0.02) @ [0.6, 0.0, 0.0]
    expected = make_transform(rotation_z(0.06 + math.pi / 2), driven + rotation_z(0.06) @ [0.0, 1.0, 0.0])
    assert poses.base_T_camera["b"] == pytest.approx(expected, abs=1e-4)  # odom's pose between two is interpolated


def test_without_fixed_frame_the_static_pose_is_used(buffer) -> None:
    poses = attempt(buffer, mounts(a=20, b=80), 20, fixed="")
    assert not poses.motion_compensated and not poses.motion_problem and not poses.problems
    assert poses.base_T_camera["b"] == pytest.approx(make_transform(rotation_z(math.pi / 2), (0, 1, 0)))


def test_unknown_fixed_frame_is_named_and_not_waited_for(buffer) -> None:
    poses = attempt(buffer, mounts(a=20, b=80), 20, fixed="map")
    assert not poses.motion_compensated and "map" in poses.motion_problem and len(poses.base_T_camera) == 2


def test_late_odometry_is_waited_for_then_done_without(buffer) -> None:
    late = mounts(a=80, b=130)
    assert attempt(buffer, late, 80) is None
    poses = attempt(buffer, late, 80, last=True)
    assert not poses.motion_compensated and "odom <- base_link" in poses.motion_problem
    assert poses.base_T_camera["b"] == pytest.approx(make_transform(rotation_z(math.pi / 2), (0, 1, 0)))
    buffer.set_transform(transform("odom", "base_link", T0 + 200 * MS, x=2.0, yaw=0.2), "test")
    assert attempt(buffer, late, 80).motion_compensated


def test_forgotten_times_are_not_waited_for(buffer) -> None:
    poses = attempt(buffer, mounts(a=-50, b=-20), -50)
    assert poses is not None and not poses.motion_compensated and poses.motion_problem


def test_jumps_of_the_fixed_frame_are_no_motion(buffer) -> None:
    """A localisation that corrects itself by metres or by a quarter turn between two cameras' images."""
    source = TransformSource(buffer, "base_link", "odom")
    assert source.attempt(mounts(a=20, b=80), T0 + 20 * MS, 10**9, True, max_speed=12.0).motion_compensated
    for changes in ({"x": 4.0, "yaw": 0.15}, {"x": 1.5, "yaw": 1.6}):
        buffer.set_transform(transform("odom", "base_link", T0 + 150 * MS, **changes), "test")
        poses = source.attempt(mounts(a=95, b=145), T0 + 95 * MS, 10**9, True, max_speed=30.0)
        assert not poses.motion_compensated and "base_link has jumped in odom, by" in poses.motion_problem
        assert poses.base_T_camera["b"] == pytest.approx(make_transform(rotation_z(math.pi / 2), (0, 1, 0)))
    assert attempt(buffer, mounts(a=20, b=80), 20).motion_compensated


def test_transforms_of_the_far_future_do_not_shut_out_the_present(buffer) -> None:
    """tf2 refuses what is ten seconds older than its newest: one wrong stamp would end the compensation for good."""
    for ms in (3600_000, 200):  # the second is refused already
        buffer.set_transform(transform("odom", "base_link", T0 + ms * MS, x=0.0), "test")
    poses = attempt(buffer, mounts(a=120, b=180), 120)
    assert not poses.motion_compensated and "are forgotten" in poses.motion_problem
    for ms in (200, 300):
        buffer.set_transform(transform("odom", "base_link", T0 + ms * MS, x=ms / 100), "test")
    assert attempt(buffer, mounts(a=220, b=280), 220).motion_compensated


def test_camera_without_a_frame_is_named_and_the_others_go_on(buffer) -> None:
    poses = attempt(buffer, {**mounts(a=20, c=20), "d": Mount(T0 + 20 * MS, "")}, 20)
    assert set(poses.base_T_camera) == {"a"}
    assert "base_link <- c" in poses.problems["c"] and "frame_id" in poses.problems["d"]


def test_pose_from_a_file_needs_no_tf(buffer) -> None:
    given = make_transform(rotation_z(0.3), (1, 2, 3))
    poses = attempt(Buffer(), {"a": Mount(T0, "", given)}, 0, fixed="")
    assert poses.base_T_camera["a"] == pytest.approx(given)


def test_moving_mount_uses_its_newest_pose_if_that_is_recent(buffer) -> None:
    for ms in (0, 100):
        buffer.set_transform(transform("base_link", "turret", T0 + ms * MS, yaw=ms / 1000), "test")
    exact = attempt(buffer, mounts(turret=50), 50)
    assert exact.base_T_camera["turret"][:3, :3] == pytest.approx(rotation_z(0.05), abs=1e-6)
    late = mounts(turret=160)
    assert attempt(buffer, late, 160) is None
    newest = attempt(buffer, late, 160, last=True)
    assert (
        newest.base_T_camera["turret"][:3, :3] == pytest.approx(rotation_z(0.1))
        and "60 ms" in newest.problems["turret"]
    )
    stale = attempt(buffer, late, 160, max_age_ms=50, last=True)
    assert not stale.base_T_camera and "turret" in stale.problems


def test_quaternion_order() -> None:
    """x, y, z, w as in ROS: this one is a quarter turn about z, and would be another if w came first."""
    assert rotation_from_quaternion((0, 0, math.sqrt(0.5), math.sqrt(0.5))) == pytest.approx(rotation_z(math.pi / 2))
