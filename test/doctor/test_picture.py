"""The picture: where a calibration puts the horizon, the ground and the compass."""

from dataclasses import replace

import numpy as np

from bevdistill_ros.doctor.picture import (
    AHEAD_COLOR,
    GROUND_COLOR,
    HORIZON_COLOR,
    LEFT_COLOR,
    camera_picture,
    draw_calibration,
    picture,
)
from bevdistill_ros.geometry import Camera, make_transform, rotation_from_quaternion

CAMERA = Camera(np.array([[320.0, 0, 319.5], [0, 320.0, 192.0], [0, 0, 1]]), 640, 384)


def rows(image, color):
    return np.flatnonzero((image == color).all(axis=-1).any(axis=1))


def columns(image, color, row):
    return np.flatnonzero((image[row] == color).all(axis=-1))


def horizon(image):
    """Its row, in columns where no tick or label is."""
    return image[:, 100:110, 0].astype(int).sum(axis=1).argmax()


def drawn(pose):
    return draw_calibration(np.zeros((384, 640, 3), np.uint8), CAMERA, pose)


def test_a_level_camera_has_its_horizon_through_the_principal_point(rig):
    image = drawn(rig.pose(0.0))
    assert horizon(image) == 192
    # The ring of 5 m is 4.5 m ahead of the camera and 1.2 m below it; that of 2 m is below the picture.
    assert abs(rows(image, GROUND_COLOR).max() - (192 + 320 * 1.2 / 4.5)) < 1.5
    assert rows(image, AHEAD_COLOR).min() > 195
    # x of the base frame leads away from the camera, in the middle of the picture.
    assert abs(columns(image, AHEAD_COLOR, 300).mean() - 319.5) < 3


def test_a_pitched_camera_has_it_higher(rig):
    down = make_transform(rotation_from_quaternion((-np.sin(np.radians(5)), 0, 0, np.cos(np.radians(5)))))
    image = drawn(rig.pose(0.0) @ down)  # 10 degrees down: 320 tan 10 = 56 pixels
    assert horizon(image) in (135, 136)


def test_a_camera_to_the_left_sees_the_left_axis(rig):
    image = drawn(rig.pose(90.0))
    assert len(rows(image, LEFT_COLOR)) > 50 and not len(rows(image, AHEAD_COLOR))


def test_a_body_frame_shows_no_horizon(rig):
    body = make_transform(np.eye(3), (0.5, 0.0, 1.2))
    assert not len(rows(drawn(body), HORIZON_COLOR))


def test_whatever_is_unknown_the_picture_is_made(rig):
    plain = rig.camera("front")
    cameras = [
        plain,
        replace(rig.camera("left"), intrinsics=None),
        replace(rig.camera("right"), base_T_camera=None),
    ]
    image = picture(cameras, cell_width=320)
    assert image.dtype == np.uint8 and image.shape[1] > 3 * 320
    # Nothing is drawn where it is not known how: the left half of those images is as it came, below the name.
    assert (camera_picture(cameras[1], 320)[60:150, :160] == 90).all()
    assert (camera_picture(cameras[2], 320)[60:150, :160] == 90).all()
    assert not (camera_picture(plain, 320)[60:150, :160] == 90).all()
    assert camera_picture(replace(plain, picture=None), 320) is None
    wrong = replace(plain, picture=np.full((96, 160, 3), 90, np.uint8))
    assert (camera_picture(wrong, 320)[60:150, :160] == 90).all()
    assert picture([replace(plain, picture=None)], 320) is not None
