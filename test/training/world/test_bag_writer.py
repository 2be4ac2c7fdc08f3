"""A bag of a drive holds what the dataset of the same drive holds, and the sweeps as they were measured."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rosbags")

import fake_drive
from fake_drive import FakeDrive

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import make_transform, rotation_from_quaternion, transform_points
from bevdistill_ros.training.data.bags import BagWriter, custom_data
from bevdistill_ros.training.world.bag_writer import POINT_FIELDS, POSE_PERIOD, DriveBagWriter, read_settings
from bevdistill_ros.training.world.drive import Image, Keyframe, Sweep
from bevdistill_ros.training.world.nuscenes_writer import DatasetWriter, instance_token, shard_path
from bevdistill_ros.training.world.options import DriveOptions
from bevdistill_ros.training.world.taxonomy import CATEGORIES

SETTINGS = {"seed": [3, 1], "sweeps": "all"}


def drive() -> FakeDrive:
    return fake_drive.simulate("night-3-0001", (3, 1), DriveOptions(duration_s=1.0, sweeps="all"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> SimpleNamespace:
    """One stream of readings in a bag and in a dataset, and the readings themselves."""
    from rosbags.highlevel import AnyReader

    folder = tmp_path_factory.mktemp("both")
    source, readings = drive(), []
    with (
        DatasetWriter(folder / "dataset", "night", source, SETTINGS) as dataset,
        DriveBagWriter(folder / "bag", source, SETTINGS) as bag,
    ):
        for reading in source.readings():
            dataset.add(reading)
            bag.add(reading)
            readings.append(reading)
    topics = defaultdict(list)
    with AnyReader([folder / "bag"]) as reader:
        for place, (connection, log, data) in enumerate(reader.messages()):
            message = reader.deserialize(data, connection.msgtype)
            header = message.transforms[0].header if connection.topic.startswith("/tf") else message.header
            stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
            topics[connection.topic].append(SimpleNamespace(log=log, place=place, stamp=stamp, data=message))
    tables = json.loads(shard_path(folder / "dataset", source.name).read_text())["tables"]
    return SimpleNamespace(
        drive=source, readings=readings, topics=topics, tables=tables, root=folder / "dataset", bag=folder / "bag"
    )


def tf_matrix(transform) -> np.ndarray:
    t, q = transform.translation, transform.rotation
    return make_transform(rotation_from_quaternion((q.x, q.y, q.z, q.w)), (t.x, t.y, t.z))


def table_matrix(record: dict) -> np.ndarray:
    w, x, y, z = record["rotation"]
    return make_transform(rotation_from_quaternion((x, y, z, w)), record["translation"])


def test_topics_and_quality_of_service_are_those_of_bags_of_nuscenes(written):
    from rosbags.interfaces import QosDurability, QosReliability
    from rosbags.rosbag2 import Reader

    types = {
        "/tf": "tf2_msgs/msg/TFMessage",
        "/tf_static": "tf2_msgs/msg/TFMessage",
        "/lidar_top/points": "sensor_msgs/msg/PointCloud2",
        "/annotations": "vision_msgs/msg/Detection3DArray",
    }
    for frame in ("cam_front", "cam_back"):
        types[f"/{frame}/camera_info"] = "sensor_msgs/msg/CameraInfo"
        types[f"/{frame}/image_raw/compressed"] = "sensor_msgs/msg/CompressedImage"
    with Reader(written.bag) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == types
        for connection in reader.connections:
            (qos,) = connection.ext.offered_qos_profiles
            assert qos.reliability == QosReliability.RELIABLE
            assert (qos.durability == QosDurability.TRANSIENT_LOCAL) == (connection.topic == "/tf_static")


def test_messages_are_in_order_of_time_and_poses_come_first(written):
    ordered = sorted((m for messages in written.topics.values() for m in messages), key=lambda m: m.place)
    assert all(m.log == m.stamp for m in ordered)
    assert all(a.log <= b.log for a, b in pairwise(ordered))
    assert ordered[0] is written.topics["/tf_static"][0]
    poses = {m.stamp: m.place for m in written.topics["/tf"]}
    for topic, messages in written.topics.items():
        if not topic.startswith("/tf"):
            assert all(poses[m.stamp] < m.place for m in messages)
    for frame in ("cam_front", "cam_back"):
        infos = {m.stamp: m.place for m in written.topics[f"/{frame}/camera_info"]}
        assert all(infos[m.stamp] < m.place for m in written.topics[f"/{frame}/image_raw/compressed"])


def test_bag_and_dataset_have_the_same_images_at_the_same_times(written):
    sensors = {row["token"]: row["channel"] for row in written.tables["sensor"]}
    calibrations = {row["token"]: row for row in written.tables["calibrated_sensor"]}
    images = 0
    for row in written.tables["sample_data"]:
        calibration = calibrations[row["calibrated_sensor_token"]]
        channel = sensors[calibration["sensor_token"]]
        if channel == "LIDAR_TOP":
            continue
        frame, stamp = channel.lower(), 1000 * row["timestamp"]
        (image,) = [m.data for m in written.topics[f"/{frame}/image_raw/compressed"] if m.stamp == stamp]
        (info,) = [m.data for m in written.topics[f"/{frame}/camera_info"] if m.stamp == stamp]
        assert image.data.tobytes() == (written.root / row["filename"]).read_bytes()
        assert (image.format, image.header.frame_id, info.header.frame_id) == ("jpeg", frame, frame)
        assert np.array_equal(info.k.reshape(3, 3), calibration["camera_intrinsic"])
        assert (info.width, info.height) == (row["width"], row["height"])
        images += 1
    assert images == sum(len(m) for topic, m in written.topics.items() if topic.endswith("compressed")) == 36


def test_bag_and_dataset_have_the_same_poses(written):
    (static,) = written.topics["/tf_static"]
    mountings = {t.child_frame_id: tf_matrix(t.transform) for t in static.data.transforms}
    assert {t.header.frame_id for t in static.data.transforms} == {"base_link"}
    sensors = {row["token"]: row["channel"].lower() for row in written.tables["sensor"]}
    for row in written.tables["calibrated_sensor"]:
        assert np.allclose(mountings[sensors[row["sensor_token"]]], table_matrix(row), rtol=0, atol=1e-8)
    poses = {m.stamp: m.data.transforms for m in written.topics["/tf"]}
    for row in written.tables["ego_pose"]:
        (transform,) = poses[1000 * row["timestamp"]]
        assert (transform.header.frame_id, transform.child_frame_id) == ("map", "base_link")
        assert np.allclose(tf_matrix(transform.transform), table_matrix(row), rtol=0, atol=1e-8)


def test_poses_come_once_each_and_never_farther_apart_than_their_period(written):
    stamps = [m.stamp for m in written.topics["/tf"]]
    assert all(0 < b - a <= POSE_PERIOD for a, b in pairwise(stamps))
    assert (stamps[0], stamps[-1]) == (written.readings[0].stamp, written.readings[-1].stamp)
    for message in written.topics["/tf"]:
        expected = written.drive.pose(message.stamp)
        assert np.allclose(tf_matrix(message.data.transforms[0].transform), expected, rtol=0, atol=1e-9)
    without_readings = set(stamps) - {reading.stamp for reading in written.readings}
    assert without_readings and all(stamp % POSE_PERIOD == 0 for stamp in without_readings)


def test_points_are_as_measured_with_their_times(written):
    sweeps = [r for r in written.readings if isinstance(r, Sweep)]
    assert len(sweeps) == len(written.topics["/lidar_top/points"])
    poses = written.drive.pose
    moved = 0.0
    for sweep, message in zip(sweeps, written.topics["/lidar_top/points"]):
        cloud = message.data
        assert (message.stamp, cloud.header.frame_id) == (sweep.stamp, "lidar_top")
        assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
            (n, 4 * i, 7) for i, n in enumerate(POINT_FIELDS)
        ]
        assert (cloud.width, cloud.point_step) == (len(sweep.points), 24)
        table = cloud.data.view("<f4").reshape(-1, 6)
        assert np.array_equal(table[:, :5], sweep.points)
        assert np.array_equal(table[:, 5], sweep.times)
        # What the fields mean: undoing the ego's motion with them gives the dataset's points.
        for point, deskewed in zip(table, sweep.deskewed):
            stamp = sweep.stamp + round(float(point[5]) * 1e9)
            in_map = transform_points(poses(stamp) @ written.drive.ego_T_lidar, point[:3])
            at_stamp = transform_points(np.linalg.inv(poses(sweep.stamp) @ written.drive.ego_T_lidar), in_map)
            assert np.allclose(at_stamp, deskewed, atol=1e-4)
            moved = max(moved, np.linalg.norm(point[:3] - deskewed))
    assert moved > 0.15, "5 m/s during 50 ms: raw and deskewed points must differ for this test to mean anything"


def test_annotations_are_the_objects_seen_from_the_base_frame(written):
    keyframes = [r for r in written.readings if isinstance(r, Keyframe)]
    arrays = written.topics["/annotations"]
    assert [m.stamp for m in arrays] == [keyframe.stamp for keyframe in keyframes]
    for keyframe, message in zip(keyframes, arrays):
        assert message.data.header.frame_id == "base_link"
        found = {detection.id: detection for detection in message.data.detections}
        expected = [a for a in keyframe.annotations if CATEGORIES[a.category]]
        assert len(found) == len(expected) < len(keyframe.annotations), "animals are no detection class"
        pose = written.drive.pose(keyframe.stamp)
        for annotation in expected:
            detection = found[instance_token(written.drive.name, annotation.instance)]
            (result,) = detection.results
            assert (result.hypothesis.class_id, result.hypothesis.score) == (CATEGORIES[annotation.category], 1.0)
            p, q, size = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
            in_map = pose @ make_transform(rotation_from_quaternion((q.x, q.y, q.z, q.w)), (p.x, p.y, p.z))
            assert np.allclose(in_map[:3, 3], annotation.center, rtol=0, atol=1e-9)
            # In the map the box stands upright again: the rotation is complete, with the car's pitch and roll.
            c, s = np.cos(annotation.yaw), np.sin(annotation.yaw)
            assert np.allclose(in_map[:3, :3], [[c, -s, 0], [s, c, 0], [0, 0, 1]], rtol=0, atol=1e-9)
            assert (size.x, size.y, size.z) == tuple(annotation.size)


def test_the_settings_stay_with_the_bag(written):
    assert read_settings(written.bag) == SETTINGS


def test_other_bags_are_not_taken_for_drives(tmp_path):
    with BagWriter(tmp_path / "robot") as bag:
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
    assert custom_data(tmp_path / "robot") == {}
    with pytest.raises(UserError, match="robot: exists, and is no bag that `world` has written"):
        read_settings(tmp_path / "robot")
    (tmp_path / "robot" / "metadata.yaml").write_text("{")
    with pytest.raises(UserError, match=r"metadata\.yaml: is not YAML"):
        read_settings(tmp_path / "robot")


def test_an_interrupted_bag_leaves_nothing(tmp_path):
    class Fault(Exception):
        pass

    source = drive()
    with pytest.raises(Fault), DriveBagWriter(tmp_path / "bag", source, SETTINGS) as bag:
        bag.add(next(r for r in source.readings() if isinstance(r, Image)))
        raise Fault
    assert not list(Path(tmp_path).iterdir())
