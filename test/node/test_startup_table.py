"""The table in the node's log: of the first complete set, by the checks of `doctor`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bevdistill_ros.camera_info import Intrinsics
from bevdistill_ros.geometry import Camera, make_transform, rotation_from_quaternion, rotation_z
from bevdistill_ros.node.calibration import RigPoses
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.set_pipeline import SetResult
from bevdistill_ros.node.startup_table import StartupTable
from bevdistill_ros.synchroniser import CameraSet

OPTICAL = rotation_from_quaternion((-0.5, 0.5, -0.5, 0.5))
CAMERA = Camera(np.array([[160.0, 0, 159.5], [0, 160.0, 95.5], [0, 0, 1]]), 320, 192)
YAWS = {"front": 0.0, "left": 90.0}


def result(missing=(), poses=None, **problems):
    pixels = np.zeros((192, 320, 3), np.uint8)
    message = SimpleNamespace(
        encoding="bgr8", width=320, height=192, step=960, data=pixels.tobytes(), header=SimpleNamespace(frame_id="eye")
    )
    present = [name for name in YAWS if name not in missing]
    camera_set = CameraSet(0, dict.fromkeys(present, message), dict.fromkeys(present, 1), tuple(YAWS))
    mounted = {n: make_transform(rotation_z(np.radians(yaw)) @ OPTICAL, (0.5, 0, 1.2)) for n, yaw in YAWS.items()}
    mounted = {name: pose for name, pose in {**mounted, **(poses or {})}.items() if pose is not None}
    intrinsics = {name: Intrinsics(CAMERA, np.eye(4)) for name in present}
    return SetResult(camera_set, 1, intrinsics=intrinsics, poses=RigPoses(mounted, True, problems, ""))


@pytest.fixture
def told():
    """(table to hear sets, what it logged)."""
    logged = []
    settings = Settings(cameras=tuple(YAWS), reference_camera="front")
    return StartupTable(settings, ("FRONT", "LEFT"), lambda text, wrong: logged.append((text, wrong))), logged


def test_it_waits_for_a_complete_set_and_tells_once(told):
    startup, logged = told
    startup.hear(result(missing=("left",)))
    assert not logged
    startup.hear(result())
    startup.hear(result())
    ((text, wrong),) = logged
    assert not wrong and text.splitlines()[0] == "the rig at its first complete set: all is well"
    assert "320x192 bgr8, 90 degrees wide, looks 90 degrees to the left from 1.20 m up" in text


def test_a_body_frame_is_named(told):
    startup, logged = told
    startup.hear(result(poses={"left": make_transform(np.eye(3), (0.5, 0, 1.2))}))
    ((text, wrong),) = logged
    assert wrong and "1 error" in text and "'eye' is a BODY frame" in text


def test_an_unknown_pose_is_an_error(told):
    startup, logged = told
    startup.hear(result(poses={"left": None}, left="no transform base_link <- eye"))
    ((text, wrong),) = logged
    assert wrong and "no transform base_link <- eye" in text
