"""Rig files: read strictly, and written by guessing."""

from __future__ import annotations

import numpy as np
import pytest
import robot
from datasets import Dataset
from robot import MS

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import quaternion_from_rotation
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.convert import main
from bevdistill_ros.training.convert.rig_file import CameraTopics, load_rig
from bevdistill_ros.training.world.rig import CAMERAS


def test_the_worlds_rig_is_the_worlds(tmp_path):
    rig = load_rig(share_directory() / "config" / "rigs" / "world.yaml")
    assert list(rig.cameras) == list(CAMERAS) and rig.reference == "LIDAR_TOP"
    for channel, (*_, exposed_us) in CAMERAS.items():
        assert rig.offset(channel) == -exposed_us * 1000
        assert rig.cameras[channel].info_topic == f"/{channel.lower()}/camera_info"


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/cam/image_raw", "/cam/camera_info"),
        ("/cam/image_raw/compressed", "/cam/camera_info"),
        ("/a/b/image_rect/compressed", "/a/b/camera_info"),
        ("image", "camera_info"),
    ],
)
def test_camera_info_is_beside_the_image(image, info):
    assert CameraTopics(image).info_topic == info


CAMERA = "cameras: {CAM_FRONT: {image: /a}}\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cameras: {}", "cameras must name at least one"),
        ("lidars: {}", "field 'cameras' is missing"),
        ("cameras: {CAM_FRONT: {topic: /a}}", "cameras.CAM_FRONT: unknown field 'topic'"),
        ("cameras: {CAM_FRONT: {image: /a, offset_ms: soon}}", "cameras.CAM_FRONT.offset_ms: expected float"),
        ("cameras: {CAM/FRONT: {image: /a}}", "channel 'CAM/FRONT'"),
        ("cameras: {CAM__FRONT: {image: /a}}", "channel 'CAM__FRONT'"),
        ("cameras: {A: {image: /a}, B: {image: /a}}", "topic '/a' is given twice"),
        (CAMERA + "keyframes: {rate: 0}", "rate, max_scene_s and max_gap_s must be positive"),
        (CAMERA + "lidars: {CAM_FRONT: {topic: /b}}", "channel 'CAM_FRONT' is a camera and a LiDAR"),
        ("cameras: [", "is not YAML"),
    ],
)
def test_wrong_files_are_refused_by_field(tmp_path, text, error):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"rig\.yaml") as caught:
        load_rig(path)
    assert error in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_rig(tmp_path / "none.yaml")


def test_a_guessed_rig_converts_as_the_right_one_does(tmp_path, rig):
    path = robot.record(tmp_path / "drive")
    guessed = tmp_path / "guessed.yaml"
    assert main(["--guess", str(path), "--rig", str(guessed)]) == 0
    ours, right = load_rig(guessed), load_rig(rig())
    assert {c: (t.image, t.offset_ms) for c, t in ours.cameras.items()} == {
        c: (t.image, t.offset_ms) for c, t in right.cameras.items()
    }
    assert (ours.base_frame, ours.global_frame) == ("base_link", "map")
    assert ours.annotations.topic == "/annotations" and ours.lidars["LIDAR_TOP"].topic == "/points"
    assert (
        main(["--bags", str(path), "--rig", str(guessed), "--output", str(tmp_path / "dataset"), "--workers", "1"]) == 0
    )
    assert len(Dataset(tmp_path / "dataset").samples) == 4


def test_guessing_says_what_it_left_out(tmp_path):
    """Frames of other names, a second point cloud, raw images beside compressed ones, and one without CameraInfo."""

    def change(events, make):
        changed = []
        for event in events:
            if event.topic == "/tf":
                T = robot.vehicle(event.log)
                pose = (T[:3, 3], quaternion_from_rotation(T[:3, :3]))
                event.message = make.tf([make.transform(event.log, "odom", "base_footprint", *pose)])
            elif event.topic == "/tf_static":
                still = make.transform(event.log, "base_footprint", "base_link", (0, 0, 0.3), (0, 0, 0, 1))
                event.message.transforms.append(still)
            elif event.topic == "/points" and event.log % (200 * MS) == 0:
                changed.append(robot.Event(event.log, "/filtered", event.msgtype, event.message))
            elif event.topic == "/cam_front/image_raw/compressed":
                pixels = np.zeros((robot.HEIGHT, robot.WIDTH, 3), np.uint8)
                changed.append(robot.raw(make, event.log, "cam_front", "bgr8", pixels))
                changed.append(robot.Event(event.log, "/thermal/image/compressed", event.msgtype, event.message))
            changed.append(event)
        return changed

    path = robot.record(tmp_path / "drive", sweeps=10, change=change)
    assert main(["--guess", str(path), "--rig", str(tmp_path / "rig.yaml")]) == 0
    text = (tmp_path / "rig.yaml").read_text()
    rig = load_rig(tmp_path / "rig.yaml")
    assert (rig.base_frame, rig.global_frame) == ("base_link", "odom")
    assert rig.lidars["LIDAR_TOP"].topic == "/points" and set(rig.cameras) == {"CAM_FRONT", "CAM_BACK"}
    for left_out in ("/filtered", "/thermal/image/compressed", "/cam_front/image_raw is left out"):
        assert left_out in text


def test_guessing_does_not_overwrite(tmp_path):
    (tmp_path / "rig.yaml").write_text("mine")
    path = robot.record(tmp_path / "drive", sweeps=9)
    with pytest.raises(UserError, match="exists already"):
        main(["--guess", str(path), "--rig", str(tmp_path / "rig.yaml")])
    assert (tmp_path / "rig.yaml").read_text() == "mine"
    assert main(["--guess", str(path), "--rig", str(tmp_path / "rig.yaml"), "--force"]) == 0
    assert load_rig(tmp_path / "rig.yaml").cameras
