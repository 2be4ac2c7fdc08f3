"""CameraInfo: what is no camera, and what is an implausible one."""

from types import SimpleNamespace

import numpy as np
import pytest

K = [160.0, 0.0, 159.5, 0.0, 160.0, 95.5, 0.0, 0.0, 1.0]
LENS = [-0.1, 0.01, 0.0, 0.0, 0.0]
P = [160.0, 0.0, 159.5, 0.0, 0.0, 160.0, 95.5, 0.0, 0.0, 0.0, 1.0, 0.0]


def of(fx=160.0, fy=160.0, cx=159.5, cy=95.5):
    return [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "what", "advice"),
    [
        ({"k": [0.0] * 9}, "field k is all zero", "calibrate the camera"),
        ({"width": 0, "height": 0}, "width and height are 0x0", "calibrate the camera"),
        ({"distortion_model": "fisheye62"}, "distortion model 'fisheye62'", "calibrate with one of plumb_bob"),
        ({"d": [0.1] * 3}, "takes (0, 4, 5)", "calibrate the camera"),
        ({"k": of(fx=float("nan"))}, "no intrinsic matrix", "calibrate the camera"),
        (
            {"roi": SimpleNamespace(x_offset=300, y_offset=0, width=100, height=100)},
            "field roi",
            "calibrate the camera",
        ),
    ],
)
def test_unusable(rig, bad, finding, changes, what, advice):
    camera = rig.camera("left", rig.info(**changes))
    facts = rig(cameras=[camera])
    assert bad(facts) == [("error", "camera_info", "left")]
    assert what in finding(facts, "camera_info", "left").what
    assert advice in finding(facts, "camera_info", "left").advice


def test_zero_P_where_it_counts(rig, finding):
    facts = rig({"rectified": True}, [rig.camera("left", rig.info(p=[0.0] * 12), rectified=True)])
    assert finding(facts, "camera_info", "left").severity == "error"
    assert "rectified: false" in finding(facts, "camera_info", "left").advice


def test_zero_P_where_it_does_not(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", rig.info(p=[0.0] * 12))])
    assert bad(facts) == [] and finding(facts, "P", "left").severity == "note"


@pytest.mark.parametrize(
    ("matrix", "severity", "what"),
    [
        (of(fy=120.0), "warning", "a ratio of 1.33"),
        (of(cx=400.0), "error", "(400, 96) is outside of the 320x192 image"),
        (of(cy=20.0), "warning", "(160, 20) is far from the middle"),
        (of(fx=1600.0, fy=1600.0), "warning", "angle of view would be 11 degrees"),
        (of(fx=30.0, fy=30.0), "warning", "angle of view would be 159 degrees"),
    ],
)
def test_implausible_K(rig, bad, finding, matrix, severity, what):
    facts = rig(cameras=[rig.camera("left", rig.info(k=matrix))])
    assert bad(facts) == [(severity, "K", "left")]
    assert what in finding(facts, "K", "left").what


def test_a_polynomial_that_folds_inside_of_the_image(rig, bad):
    folds = rig.camera("left", rig.info(d=[-0.6, 0.0, 0.0, 0.0, 0.0]))
    assert ("warning", "distortion", "left") in bad(rig(cameras=[folds]))


def test_a_fisheye_may_lack_its_corners(rig, bad, finding):
    lens = rig.info(distortion_model="equidistant", d=[0.0] * 4, k=of(fx=100.0, fy=100.0))
    facts = rig(cameras=[rig.camera("left", lens)])
    assert bad(facts) == [] and finding(facts, "distortion", "left").severity == "note"


def test_P_copied_from_K(rig, bad, finding):
    camera = rig.camera("left", rig.info(p=P, d=LENS))
    assert bad(rig(cameras=[camera])) == [] and finding(rig(cameras=[camera]), "P", "left").severity == "note"
    cameras = [
        rig.camera(
            n, rig.info(p=P, d=LENS), rectified=True, image=rig.camera(n).image.__class__("/x/image_rect", "t", ())
        )
        for n in ("front", "left", "right")
    ]
    assert ("warning", "P", "left") in bad(rig({"rectified": True}, cameras))
    undistorted = rig.camera("left", rig.info(p=P))
    assert not [f for f in bad(rig(cameras=[undistorted])) if f[1] == "P"]


def test_rectified_by_name_but_not_by_parameter(rig, bad):
    topic = rig.camera("left").image
    rectified = topic.__class__("/left/image_rect/compressed", topic.type, topic.publishers)
    assert bad(rig(cameras=[rig.camera("left", rig.info(d=LENS), image=rectified)])) == [
        ("warning", "distortion", "left")
    ]
    flat = rig.camera("left", image=rectified)
    assert bad(rig(cameras=[flat])) == []


def test_raw_by_name_but_rectified_by_parameter(rig, bad):
    cameras = [rig.camera(name, rig.info(d=LENS), rectified=True) for name in ("front", "left", "right")]
    assert bad(rig({"rectified": True}, cameras)) == [("warning", "distortion", n) for n in ("front", "left", "right")]


def test_R_turns_a_rectified_camera(rig, bad, finding):
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).reshape(-1).tolist()
    facts = rig({"rectified": True}, [rig.camera("left", rig.info(r=turn), rectified=True)])
    assert ("warning", "P", "left") in bad(facts)
    assert "R turns the rectified images by 90.0 degrees" in finding(facts, "P", "left").what


def test_a_calibration_that_changes(rig, bad):
    assert bad(rig(cameras=[rig.camera("left", info_variants=2)])) == [("warning", "camera_info", "left")]
