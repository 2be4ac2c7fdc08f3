"""Frames, paths and poses on TF; an optical frame is told from a body frame."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bevdistill_ros.doctor.facts import Edge
from bevdistill_ros.geometry import make_transform, rotation_from_quaternion, rotation_z

MS = 1_000_000


def unplaced(rig, **changes):
    return rig.camera("left", base_T_camera=None, **changes)


def without(facts, child):
    return replace(facts, edges=tuple(edge for edge in facts.edges if edge.child != child))


def test_no_frame_id(rig, bad):
    assert bad(rig(cameras=[unplaced(rig, frame="")])) == [("error", "tf", "left")]


def test_a_frame_that_is_not_on_tf(rig, bad, finding):
    facts = without(rig(cameras=[unplaced(rig, frame="left_optica")]), "left_optical")
    facts = replace(facts, edges=(*facts.edges, Edge("base_link", "left_optical_frame")))
    assert bad(facts) == [("error", "tf", "left")]
    found = finding(facts, "tf", "left")
    assert found.what == "its frame 'left_optica' is not on TF"
    assert "--frame-id base_link --child-frame-id left_optica" in found.advice and "left_optical_frame" in found.advice


def test_a_frame_of_another_tree(rig, bad, finding):
    facts = without(rig(cameras=[unplaced(rig)]), "left_optical")
    facts = replace(facts, edges=(*facts.edges, Edge("left_mount", "left_optical")))
    assert bad(facts) == [("error", "tf", "left")]
    assert finding(facts, "tf", "left").what == (
        "no path on TF: 'left_optical' is below 'left_mount', base_frame 'base_link' below 'odom'"
    )


def test_a_base_frame_that_is_not_on_tf_is_told_once(rig, bad, finding):
    cameras = [rig.camera(name, base_T_camera=None) for name in ("front", "left", "right")]
    facts = rig({"base_frame": "base_lnk", "fixed_frame": ""}, cameras)
    assert bad(facts) == [("error", "tf", "tf")]
    assert "TF has base_link" in finding(facts, "tf", "tf").advice


def test_nothing_on_tf(rig, finding):
    facts = rig(cameras=[unplaced(rig)], edges=())
    assert "nothing is on TF at all" in finding(facts, "tf", "left").advice


def test_a_path_but_no_transform_at_the_time(rig, bad, finding):
    facts = rig(cameras=[unplaced(rig, pose_problem="no transform base_link <- left_optical at the image's time: ...")])
    assert bad(facts) == [("error", "tf", "left")]
    assert "at the image's time" in finding(facts, "tf", "left").what


def test_a_pose_that_is_not_exact(rig, bad):
    assert bad(rig(cameras=[rig.camera("left", pose_problem="used the newest one, 80 ms older")])) == [
        ("warning", "tf", "left")
    ]


def test_two_parents(rig, bad):
    facts = rig()
    facts = replace(facts, edges=(*facts.edges, Edge("mast", "left_optical"), Edge("base_link", "mast")))
    assert bad(facts) == [("error", "tf", "tf")]


def test_a_loop_in_tf_ends(rig):
    from bevdistill_ros.doctor.mounting import Tree

    tree = Tree([Edge("a", "b"), Edge("b", "c"), Edge("c", "a")])
    assert tree.path("a") == ["a", "c", "b"]


# ---- motion


def test_without_a_fixed_frame_is_a_note(rig, bad, finding):
    assert bad(rig({"fixed_frame": ""})) == []
    assert finding(rig({"fixed_frame": ""}), "motion", "tf").severity == "note"


def test_no_odometry(rig, bad, finding):
    facts = without(rig(), "base_link")
    assert bad(facts) == [("warning", "motion", "tf")]
    assert "no way from 'base_link' to fixed_frame 'odom'" in finding(facts, "motion", "tf").what


def test_slow_and_late_odometry(rig, bad, finding):
    slow = Edge("odom", "base_link", False, np.eye(3), (20 * MS,) * 11, 5.0)
    facts = without(rig(), "base_link")
    slow_facts = replace(facts, edges=(*facts.edges, slow))
    assert bad(slow_facts) == [("warning", "motion", "tf")]
    assert "comes 2.0 times a second" in finding(slow_facts, "motion", "tf").what
    late = Edge("odom", "base_link", False, np.eye(3), (230 * MS,) * 101, 5.0)
    late_facts = replace(facts, edges=(*facts.edges, late))
    assert bad(late_facts) == [("warning", "motion", "tf")]
    assert "200.0 ms later than the images" in finding(late_facts, "motion", "tf").what


def test_motion_that_the_transforms_do_not_tell(rig, bad):
    assert bad(rig(motion_problem="motion between the images is not compensated: ...")) == [("warning", "motion", "tf")]


# ---- axes


def body(rig, yaw=100.0):
    """The pose of the camera's body frame: x forward, y left, z up."""
    return make_transform(rotation_z(np.radians(yaw)), (0.5, 0.0, 1.2))


def test_a_body_frame_is_named_and_the_transform_that_mends_it_does(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", frame="left_link", base_T_camera=body(rig))])
    facts = replace(facts, edges=(*facts.edges, Edge("base_link", "left_link")))
    assert bad(facts) == [("error", "body_frame", "left")]
    found = finding(facts, "body_frame", "left")
    assert found.what.startswith("'left_link' is a BODY frame")
    numbers = [float(value) for value in re.findall(r"--q[xyzw] (-?[\d.]+)", found.advice)]
    assert "--frame-id left_link --child-frame-id left_link_optical" in found.advice
    mended = body(rig) @ make_transform(rotation_from_quaternion(numbers))
    np.testing.assert_allclose(mended, rig.pose(100.0), atol=1e-12)


def test_a_tilted_body_frame_is_one_too(rig, bad):
    tilt = np.radians(25)
    pitch = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    pose = body(rig)
    pose[:3, :3] = pose[:3, :3] @ pitch
    assert bad(rig(cameras=[rig.camera("left", base_T_camera=pose)])) == [("error", "body_frame", "left")]


def test_the_optical_frame_beside_a_body_frame_is_found(rig, finding):
    optical = Edge("left_link", "left_eye", rotation=rotation_from_quaternion((-0.5, 0.5, -0.5, 0.5)))
    facts = rig(cameras=[rig.camera("left", frame="left_link", base_T_camera=body(rig))])
    facts = replace(facts, edges=(*facts.edges, Edge("base_link", "left_link"), optical))
    assert finding(facts, "body_frame", "left").advice.startswith("TF has the optical frame, 'left_eye'")


def test_images_in_the_base_frame(rig, finding):
    facts = rig(cameras=[rig.camera("left", frame="base_link", base_T_camera=np.eye(4))])
    assert "the base frame itself" in finding(facts, "body_frame", "left").what


def test_a_body_pose_in_the_calibration_file(rig, finding):
    facts = rig(cameras=[rig.camera("left", mount_from_file=True, base_T_camera=body(rig))])
    assert "base_T_camera of calibration_file" in finding(facts, "body_frame", "left").what


def turned(rig, axis, degrees):
    """The left camera, turned about an axis of its own."""
    angle = np.radians(degrees)
    half = np.zeros(4)
    half["xyz".index(axis)], half[3] = np.sin(angle / 2), np.cos(angle / 2)
    return rig.pose(100.0) @ make_transform(rotation_from_quaternion(half))


@pytest.mark.parametrize(
    ("axis", "degrees", "severity", "what"),
    [
        ("x", 40, "warning", "points 40 degrees up"),
        ("x", -40, "warning", "points 40 degrees down"),
        ("x", -80, "error", "points 80 degrees down"),
        ("z", 30, "warning", "turned clockwise by 30 degrees"),
        ("z", -90, "error", "turned counter-clockwise by 90 degrees"),
        ("z", 180, "error", "by 180 degrees"),
    ],
)
def test_axes(rig, bad, finding, axis, degrees, severity, what):
    facts = rig(cameras=[rig.camera("left", base_T_camera=turned(rig, axis, degrees))])
    assert bad(facts) == [(severity, "mounting", "left")]
    assert what in finding(facts, "mounting", "left").what


@pytest.mark.parametrize(("axis", "degrees"), [("x", 25), ("x", -25), ("y", 30), ("z", 10)])
def test_what_a_robot_may_well_have(rig, bad, axis, degrees):
    assert bad(rig(cameras=[rig.camera("left", base_T_camera=turned(rig, axis, degrees))])) == []


def test_exchanged_sides(rig, bad, finding):
    cameras = [rig.camera("left", base_T_camera=rig.pose(-100.0)), rig.camera("right", base_T_camera=rig.pose(100.0))]
    facts = rig(cameras=cameras)
    assert bad(facts) == [("warning", "mounting", "left"), ("warning", "mounting", "right")]
    assert finding(facts, "mounting", "left").what == "is named 'left', but looks 100 degrees to the right"
    stereo = [rig.camera(n, base_T_camera=rig.pose(0.0, (0.5, y, 1.2))) for n, y in (("left", 0.1), ("right", -0.1))]
    assert bad(rig(cameras=stereo)) == []


def test_front_and_back_by_name(rig, bad):
    assert bad(rig(cameras=[rig.camera("front", base_T_camera=rig.pose(170.0))])) == [("warning", "mounting", "front")]


def test_height(rig, bad, finding):
    low = rig(cameras=[rig.camera("left", base_T_camera=rig.pose(100.0, (0.0, 0.3, -0.2)))])
    assert bad(low) == [("warning", "mounting", "left")] and "-0.20 m above" in finding(low, "mounting", "left").what
    origin = rig(cameras=[rig.camera("left", base_T_camera=rig.pose(100.0, (0.0, 0.0, 0.0)))])
    assert "exactly in the base frame's origin" in finding(origin, "mounting", "left").what


def test_a_copied_pose(rig, bad, finding):
    facts = rig(cameras=[rig.camera("right", base_T_camera=rig.pose(0.0))])
    assert bad(facts) == [("error", "mounting", "right")]
    assert finding(facts, "mounting", "right").what == "has the same pose as 'front'"
