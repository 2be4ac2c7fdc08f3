"""The training's rig in a checkpoint: there and back, and what is no rig."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bevdistill_ros.geometry import Camera, make_transform, rotation_z
from bevdistill_ros.training_rig import RIG, RigCamera, rig_of, rig_to_plain

CAMERA = Camera(np.array([[500.25, 0, 320], [0, 500.25, 180], [0, 0, 1.0]]), 640, 360)
POSE = make_transform(rotation_z(0.3), (1.5, 0.0, 1.6))


def plain() -> dict:
    return json.loads(json.dumps(rig_to_plain({"CAM_FRONT": RigCamera(CAMERA, POSE)})))


def test_there_and_back_through_json() -> None:
    found = rig_of({RIG: plain()})
    assert list(found) == ["CAM_FRONT"]
    view = found["CAM_FRONT"]
    assert (view.camera.width, view.camera.height) == (640, 360)
    np.testing.assert_allclose(view.camera.K, CAMERA.K, atol=1e-3)
    np.testing.assert_allclose(view.base_T_camera, POSE, atol=1e-6)


def test_files_of_before_tell_none() -> None:
    assert rig_of({"data": "world"}) == {}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("width", 0, "width and height"),
        ("height", True, "width and height"),
        ("K", [1.0] * 8, "K is"),
        ("K", [math.nan] * 9, "K is"),
        ("K", [0.0] * 9, "intrinsic matrix"),
        ("base_T_camera", ["1"] * 12, "base_T_camera is"),
        ("base_T_camera", [2.0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0, 2.0, 0], "no rotation"),
        ("base_T_camera", [10**400] * 12, "base_T_camera is"),
    ],
)
def test_what_is_no_camera_is_refused(key, value, text) -> None:
    rig = plain()
    rig["CAM_FRONT"][key] = value
    with pytest.raises(ValueError, match=text):
        rig_of({RIG: rig})


@pytest.mark.parametrize("rig", [[], "rig", {"CAM": None}, {"": plain()["CAM_FRONT"]}, {str(i): {} for i in range(65)}])
def test_what_is_no_rig_is_refused(rig) -> None:
    with pytest.raises(ValueError, match=RIG):
        rig_of({RIG: rig})
