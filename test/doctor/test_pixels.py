"""Pictures: undecodable, black, frozen, of the wrong size."""

from dataclasses import replace

import numpy as np
import pytest


def test_undecodable(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", picture=None, picture_problem="it is damaged", encoding="h264", sizes=())])
    assert bad(facts) == [("error", "encoding", "left")]
    assert finding(facts, "encoding", "left").what == "images (h264) cannot be decoded: it is damaged"


def test_black(rig, bad):
    assert bad(rig(cameras=[rig.camera("left", picture=np.ones((192, 320, 3), np.uint8))])) == [
        ("warning", "picture", "left")
    ]


def test_frozen_pixels_under_new_stamps(rig, bad, finding):
    arrivals = rig.camera("left").arrivals
    frozen = tuple(replace(a, digest=min(i, 20)) for i, a in enumerate(arrivals))
    facts = rig(cameras=[rig.camera("left", arrivals=frozen)])
    assert bad(facts) == [("error", "picture", "left")]
    assert "10 times in a row" in finding(facts, "picture", "left").what
    twice = tuple(replace(a, digest=i // 2) for i, a in enumerate(arrivals))
    assert bad(rig(cameras=[rig.camera("left", arrivals=twice)])) == []


def test_the_size_changes(rig, bad):
    assert bad(rig(cameras=[rig.camera("left", sizes=((640, 384), (320, 192)))])) == [("error", "size", "left")]


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ((160, 96), "binning_x and binning_y to 2"),
        ((640, 384), "scales by 2"),
        ((320, 180), "of another mode or camera"),
    ],
)
def test_size_against_camera_info(rig, bad, finding, size, advice):
    facts = rig(cameras=[rig.camera("left", sizes=(size,))])
    assert bad(facts) == [("error", "size", "left")]
    assert "its calibration is for 320x192" in finding(facts, "size", "left").what
    assert advice in finding(facts, "size", "left").advice


def test_binning_is_taken_into_account(rig, bad, finding):
    camera = rig.camera("left", rig.info(binning_x=2, binning_y=2), sizes=((160, 96),))
    facts = rig(cameras=[camera])
    assert bad(facts) == []
    assert "fx 80.0, centre (79.5, 47.5)" in finding(facts, "binning", "left").what
