"""Bags to datasets: what was recorded is what nuscenes-devkit finds, from any storage, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import fake_drive
import numpy as np
import pytest
import robot
from datasets import Dataset, pictures
from robot import MS, START

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Camera, rotation_z
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.convert import main
from bevdistill_ros.training.convert.from_bags import convert_bags, ensure_converted
from bevdistill_ros.training.convert.recording import Options
from bevdistill_ros.training.convert.rig_file import load_rig
from bevdistill_ros.training.data.messages import CAMERA_INFO, DETECTIONS
from bevdistill_ros.training.world.bag_writer import DriveBagWriter
from bevdistill_ros.training.world.nuscenes_writer import DatasetWriter, merge
from bevdistill_ros.training.world.options import DriveOptions


def convert(bag: Path | list[Path], rig: Path, root: Path, *options: str) -> dict:
    """Run the verb; returns its summary."""
    bags = bag if isinstance(bag, list) else [bag]
    report = root.with_suffix(".json")
    command = ["--bags", *map(str, bags), "--rig", str(rig), "--output", str(root), "--json", str(report)]
    status = main([*command, "--workers", "1", *options])
    summary = json.loads(report.read_text())
    assert status == (1 if summary["failed"] else 0)
    return summary


def hashes(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    return robot.record(tmp_path_factory.mktemp("bags") / "drive")


@pytest.fixture(scope="module")
def converted(bag, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    (folder / "rig.yaml").write_text(robot.RIG)
    summary = convert(bag, folder / "rig.yaml", folder / "dataset", "--sweeps", "all")
    assert summary["made"] == ["drive"] and summary["dropped"] == []
    return folder / "dataset"


def test_a_world_bag_becomes_the_dataset_that_the_world_wrote(tmp_path):
    """Through the world's two writers, from one drive."""
    drive = fake_drive.simulate("a", (3,), DriveOptions(duration_s=1.0, sweeps="all"))
    with DatasetWriter(tmp_path / "world", "s", drive, {}) as dataset, DriveBagWriter(tmp_path / "a", drive, {}) as bag:
        for reading in drive.readings():
            dataset.add(reading)
            bag.add(reading)
    merge(tmp_path / "world")
    text = (share_directory() / "config" / "rigs" / "world.yaml").read_text().splitlines()
    absent = ("CAM_FRONT_", "CAM_BACK_")  # the fake drive has two cameras
    (tmp_path / "rig.yaml").write_text("\n".join(line for line in text if not line.strip().startswith(absent)))
    convert(tmp_path / "a", tmp_path / "rig.yaml", tmp_path / "bags", "--sweeps", "all")

    ours, theirs = Dataset(tmp_path / "bags"), Dataset(tmp_path / "world", "v1.0-world")
    assert ours.keyframe_stamps == theirs.keyframe_stamps and len(ours.samples) == 3
    # The world has readings before half a second ahead of its first keyframe, too.
    assert set(ours.readings) <= set(theirs.readings)
    assert len(ours.readings) >= len(theirs.readings) - 2
    for key, reading in ours.readings.items():
        expected = theirs.readings[key]
        assert np.allclose(reading.pose, expected.pose, rtol=0, atol=1e-6)
        assert np.allclose(reading.mounting, expected.mounting, rtol=0, atol=1e-6)
        assert reading.K == expected.K
        assert reading.sample == expected.sample
        assert reading.row["is_key_frame"] == expected.row["is_key_frame"]
        if reading.row["fileformat"] == "jpg":
            assert reading.path.read_bytes() == expected.path.read_bytes()
        else:
            # Between the bag's poses, 10 ms apart, the car moves not quite straight.
            assert np.allclose(reading.points, expected.points, rtol=0, atol=1e-3)
    for number in range(3):
        boxes, expected_boxes = ours.boxes(number), theirs.boxes(number)
        assert [box["name"] for box in boxes] == [box["name"] for box in expected_boxes]
        assert len(boxes) >= 2
        for box, expected in zip(boxes, expected_boxes):
            for name in ("center", "wlh", "rotation"):
                assert np.allclose(box[name], expected[name], rtol=0, atol=1e-4)
            assert np.allclose(box["velocity"], expected["velocity"], rtol=0, atol=1e-3, equal_nan=True)
            assert abs(box["points"] - expected["points"]) <= 1


def test_keyframes_come_twice_a_second_each_with_all_sensors(converted):
    dataset = Dataset(converted)
    assert dataset.keyframe_stamps == [(START + i * 500 * MS) // 1000 for i in range(4)]
    for sample in dataset.samples:
        stamps = {
            channel: dataset.nusc.get("sample_data", token)["timestamp"] for channel, token in sample["data"].items()
        }
        assert stamps == {
            "LIDAR_TOP": sample["timestamp"],
            "CAM_FRONT": sample["timestamp"] - 30_000,
            "CAM_BACK": sample["timestamp"] + 10_000,
        }


def test_readings_between_keyframes_are_linked_in_order_of_time(converted):
    dataset = Dataset(converted)
    for channel in ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP"):
        rows = sorted(
            (r.row for (c, _), r in dataset.readings.items() if c == channel), key=lambda row: row["timestamp"]
        )
        assert len(rows) >= 15
        assert all(a["next"] == b["token"] and b["prev"] == a["token"] for a, b in pairwise(rows))
        assert rows[0]["prev"] == rows[-1]["next"] == ""
    key = {token for sample in dataset.samples for token in sample["data"].values()}
    for reading in dataset.readings.values():
        assert reading.row["is_key_frame"] == (reading.row["token"] in key)
        if not reading.row["is_key_frame"]:
            assert 0 <= reading.sample - reading.row["timestamp"] < 500_000


def test_poses_and_mountings_are_the_robots(converted):
    frames = {"CAM_FRONT": "cam_front", "CAM_BACK": "cam_back", "LIDAR_TOP": "lidar"}
    for (channel, stamp), reading in Dataset(converted).readings.items():
        assert np.allclose(reading.mounting, robot.MOUNTINGS[frames[channel]], rtol=0, atol=1e-8)
        # Between poses 20 ms apart, on a circle.
        assert np.allclose(reading.pose, robot.vehicle(stamp * 1000), rtol=0, atol=5e-5)


def test_sensors_are_in_the_rig_files_order(converted):
    assert [sensor["channel"] for sensor in Dataset(converted).nusc.sensor] == ["CAM_FRONT", "CAM_BACK", "LIDAR_TOP"]


def test_jpegs_pass_through_byte_for_byte(converted):
    dataset = Dataset(converted)
    for index in range(0, 16, 5):
        stamp = (START + index * 100 * MS) // 1000 - 30_000
        reading = dataset.readings["CAM_FRONT", stamp]
        assert reading.path.read_bytes() == robot.jpeg(index)
        assert (reading.row["width"], reading.row["height"]) == (robot.WIDTH, robot.HEIGHT)
        assert np.array_equal(reading.K, robot.K)


def test_points_are_brought_to_the_stamp(converted):
    dataset = Dataset(converted)
    moved = 0.0
    for (channel, stamp), reading in dataset.readings.items():
        if channel == "LIDAR_TOP":
            points = reading.points
            assert np.allclose(points[:, :3], robot.at_rest(stamp * 1000), rtol=0, atol=1e-3)
            moved = max(moved, np.abs(robot.measured(stamp * 1000)[0] - points[:, :3]).max())
            assert np.array_equal(points[:, 3:], np.column_stack(robot.measured(stamp * 1000)[1:]).astype(np.float32))
    assert moved > 0.2  # without compensation it would be wrong by this


def test_boxes_are_the_cars_at_every_keyframe_as_one_track(converted):
    dataset = Dataset(converted)
    instances = set()
    for number, stamp in enumerate(dataset.keyframe_stamps):
        (box,) = dataset.boxes(number)
        truth = robot.car(stamp * 1000)
        assert box["name"] == "car"
        assert np.allclose(box["center"], truth[:3, 3], rtol=0, atol=1e-4)
        assert np.allclose(box["rotation"], truth[:3, :3], rtol=0, atol=1e-4)
        assert box["wlh"].tolist() == robot.SIZE[[1, 0, 2]].tolist()
        assert np.allclose(box["velocity"][:2], (-3.0, 0.0), rtol=0, atol=1e-3)
        local = (robot.LANDMARKS - truth[:3, 3]) @ truth[:3, :3]
        assert box["points"] == int((np.abs(local) <= robot.SIZE / 2).all(1).sum())
        instances.add(box["instance"])
    assert len(instances) == 1


def test_boxes_between_messages_are_interpolated_the_shorter_way_round(tmp_path, rig):
    def between(events, make):
        """Every 150 ms, and never at the time of a sweep."""
        kept = [event for event in events if event.topic != "/annotations"]
        return kept + [robot.annotation(make, START + at * MS) for at in range(-130, 1600, 150)]

    convert(robot.record(tmp_path / "drive", change=between), rig(), tmp_path / "dataset")
    dataset = Dataset(tmp_path / "dataset")
    assert len(dataset.samples) == 4
    for number, stamp in enumerate(dataset.keyframe_stamps):
        (box,) = dataset.boxes(number)
        truth = robot.car(stamp * 1000)
        assert np.allclose(box["center"], truth[:3, 3], rtol=0, atol=1e-4)
        assert np.allclose(box["rotation"], truth[:3, :3], rtol=0, atol=1e-4)


def compressed(folder: Path, mode: str) -> Path:
    """The bag again, through rosbags' own writer, compressed."""
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    source = robot.record(folder / "plain" / "drive")
    writer = Writer(folder / "drive", version=8, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with AnyReader([source]) as reader, writer:
        connections = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore) for c in reader.connections
        }
        for connection, time, data in reader.messages():
            writer.write(connections[connection.topic], time, data)
    return folder / "drive"


def split(folder: Path) -> Path:
    """The bag in two files with one metadata.yaml."""
    import yaml

    middle = START + 720 * MS
    early = robot.record(folder / "early", change=lambda events, _: [e for e in events if e.log < middle])
    late = robot.record(folder / "late", change=lambda events, _: [e for e in events if e.log >= middle])
    metadata = yaml.safe_load((early / "metadata.yaml").read_text())
    other = yaml.safe_load((late / "metadata.yaml").read_text())
    ours, theirs = metadata["rosbag2_bagfile_information"], other["rosbag2_bagfile_information"]
    ours["relative_file_paths"] += theirs["relative_file_paths"]
    ours["files"] += theirs["files"]
    ours["message_count"] += theirs["message_count"]
    start = theirs["starting_time"]["nanoseconds_since_epoch"] + theirs["duration"]["nanoseconds"]
    ours["duration"]["nanoseconds"] = start - ours["starting_time"]["nanoseconds_since_epoch"]
    by_topic = {t["topic_metadata"]["name"]: t for t in theirs["topics_with_message_count"]}
    for topic in ours["topics_with_message_count"]:
        topic["message_count"] += by_topic.get(topic["topic_metadata"]["name"], {"message_count": 0})["message_count"]
    shutil.move(late / "late.mcap", early / "late.mcap")
    (early / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return early.rename(folder / "drive")


@pytest.mark.parametrize("form", ["sqlite3", "file", "MESSAGE", "FILE", "split"])
def test_any_storage_gives_the_same_dataset(tmp_path, rig, converted, form):
    if form == "sqlite3":
        path = robot.record(tmp_path / "drive", storage="sqlite3")
    elif form == "file":
        path = robot.record(tmp_path / "drive") / "drive.mcap"
    else:
        path = split(tmp_path) if form == "split" else compressed(tmp_path, form)
    convert(path, rig(), tmp_path / "dataset", "--sweeps", "all")
    ours, theirs = Dataset(tmp_path / "dataset"), Dataset(converted)
    assert ours.readings.keys() == theirs.readings.keys()
    for key, reading in ours.readings.items():
        assert reading.path.read_bytes() == theirs.readings[key].path.read_bytes()
        assert np.array_equal(reading.pose, theirs.readings[key].pose)
    assert [ours.boxes(i)[0]["center"].tolist() for i in range(4)] == [
        theirs.boxes(i)[0]["center"].tolist() for i in range(4)
    ]


def test_odometry_stands_in_for_tf(tmp_path, rig):
    def odometry(events, make):
        covariance = np.zeros(36)
        kept = []
        for event in events:
            kept.append(event)
            if event.topic != "/tf":
                continue
            # /tf says something else, and its word comes first.
            event.message.transforms[0].transform.translation.y += 7.0
            T = robot.vehicle(event.log)
            xyzw = robot.quaternion_from_rotation(T[:3, :3])
            pose = make.make(
                "geometry_msgs/msg/PoseWithCovariance", pose=make.pose(T[:3, 3], xyzw), covariance=covariance
            )
            zero = make.vector((0, 0, 0))
            twist = make.make(
                "geometry_msgs/msg/TwistWithCovariance",
                twist=make.make("geometry_msgs/msg/Twist", linear=zero, angular=zero),
                covariance=covariance,
            )
            message = make.make(
                "nav_msgs/msg/Odometry", header=make.header(event.log, "odom"), child_frame_id="base_link", pose=pose,
                twist=twist,
            )  # fmt: skip
            kept.append(robot.Event(event.log, "/odom", "nav_msgs/msg/Odometry", message))
        return kept

    path = robot.record(tmp_path / "drive", change=odometry)
    with_odometry = rig(extra="global_frame: odom\nposes: {odometry: /odom}\n")
    convert(path, with_odometry, tmp_path / "dataset")
    for (_, stamp), reading in Dataset(tmp_path / "dataset").readings.items():
        assert np.allclose(reading.pose, robot.vehicle(stamp * 1000), rtol=0, atol=5e-5)


def test_a_distorted_camera_becomes_an_ideal_one(tmp_path, rig):
    """Raw images with padded rows, and their CameraInfo; test_pictures.py has the other encodings."""
    camera = robot.distorted_camera()
    seen = robot.picture(camera)

    def change(events, make):
        changed = []
        for event in events:
            if event.topic == "/cam_front/camera_info":
                event.message.d = np.array(camera.D)
            elif event.topic == "/cam_front/image_raw/compressed":
                event = robot.raw(make, event.log, "cam_front", "rgb8", seen[..., ::-1], pad=5)
            changed.append(event)
        return changed

    path = robot.record(tmp_path / "drive", sweeps=6, change=change)
    file = rig(("/cam_front/image_raw/compressed", "/cam_front/image_raw"))
    convert(path, file, tmp_path / "dataset", "--quality", "98")
    (front, *_) = [r for r in pictures(Dataset(tmp_path / "dataset")) if r.row["channel"] == "CAM_FRONT"]
    assert np.array_equal(front.K, robot.K)
    ideal = robot.picture(Camera(robot.K, robot.WIDTH, robot.HEIGHT)).astype(int)
    inside = (slice(3, -3), slice(3, -3))
    assert np.abs(cv2.imread(str(front.path)) - ideal)[inside].mean() < 4
    assert np.abs(seen - ideal)[inside].mean() > 8  # what it would be untouched


def drop(events, topic: str, indices: set[int]):
    count = -1
    kept = []
    for event in events:
        if event.topic == topic:
            count += 1
            if count in indices:
                continue
        kept.append(event)
    return kept


def test_a_keyframe_that_lacks_an_image_is_left_out_and_counted(tmp_path, rig):
    path = robot.record(tmp_path / "drive", change=lambda e, _: drop(e, "/cam_back/image_raw/compressed", {5}))
    summary = convert(path, rig(), tmp_path / "dataset")
    assert Dataset(tmp_path / "dataset").keyframe_stamps == [(START + i * 100 * MS) // 1000 for i in (0, 10, 15)]
    (row,) = summary["dropped"]
    assert (row["where"], row["what"], row["count"]) == ("/cam_back/image_raw/compressed", "keyframe", 1)
    assert "CAM_BACK has no reading near its time" in row["reason"]
    assert row["first_stamp_ns"] == START + 500 * MS
    report = json.loads((tmp_path / "dataset" / "bags" / "drive.json").read_text())
    assert report["dropped"] == summary["dropped"]


def test_a_corrupt_image_in_the_middle_costs_its_keyframe_and_no_other(tmp_path, rig):
    def change(events, _):
        image = [e for e in events if e.topic == "/cam_front/image_raw/compressed"][10]
        data = bytes(image.message.data)
        image.message.data = np.frombuffer(data[: len(data) // 2], np.uint8)
        return events

    summary = convert(robot.record(tmp_path / "drive", change=change), rig(), tmp_path / "dataset")
    assert Dataset(tmp_path / "dataset").keyframe_stamps == [(START + i * 100 * MS) // 1000 for i in (0, 5, 15)]
    (row,) = summary["dropped"]
    assert row["what"] == "keyframe" and "cut off" in row["reason"]
    # Nothing of that keyframe is left over.
    named = {row["filename"] for row in Dataset(tmp_path / "dataset").nusc.sample_data}
    assert {str(p.relative_to(tmp_path / "dataset")) for p in (tmp_path / "dataset" / "samples").rglob("*.*")} == named


def test_a_message_that_is_none_costs_its_keyframe_and_no_other(tmp_path, rig):
    """One without even a header, and one whose array is longer than the message."""

    def change(events, make):
        images = [e for e in events if e.topic == "/cam_front/image_raw/compressed"]
        images[5].message = b"\x00\x01\x00\x00short"
        header = (images[10].log // 10**9).to_bytes(4, "little") + (images[10].log % 10**9).to_bytes(4, "little")
        images[10].message = b"\x00\x01\x00\x00" + header + b"\x0a\x00\x00\x00cam_front\x00" + b"\xff\xff\xff\x7f" * 3
        return events

    summary = convert(robot.record(tmp_path / "drive", change=change), rig(), tmp_path / "dataset")
    assert Dataset(tmp_path / "dataset").keyframe_stamps == [(START + i * 100 * MS) // 1000 for i in (0, 15)]
    reasons = [row["reason"] for row in summary["dropped"]]
    assert len(reasons) == 3 and "zero header.stamp" in reasons
    assert any("a message is no sensor_msgs/msg/CompressedImage" in reason for reason in reasons)


def test_calibration_that_changes_is_the_images_own(tmp_path, rig):
    other = robot.K.copy()
    other[0, 0] = 55.0

    def change(events, _):
        for event in events:
            if event.topic == "/cam_front/camera_info" and event.log > START + 700 * MS:
                event.message.k = other.reshape(-1)
        return events

    convert(robot.record(tmp_path / "drive", change=change), rig(), tmp_path / "dataset")
    focal = {stamp: r.K[0][0] for (c, stamp), r in Dataset(tmp_path / "dataset").readings.items() if c == "CAM_FRONT"}
    assert [focal[stamp] for stamp in sorted(focal)] == [50.0, 50.0, 55.0, 55.0]


def test_bags_without_annotations_convert_too(tmp_path, rig):
    path = robot.record(tmp_path / "drive", change=lambda events, _: [e for e in events if e.topic != "/annotations"])
    summary = convert(path, rig(), tmp_path / "dataset")
    dataset = Dataset(tmp_path / "dataset")
    assert len(dataset.samples) == 4 and dataset.nusc.sample_annotation == [] and summary["dropped"] == []


def test_cameras_alone_convert_too(tmp_path, rig):
    text = "cameras: {CAM_FRONT: {image: /cam_front/image_raw/compressed}}\n"
    (tmp_path / "rig.yaml").write_text(text)
    convert(robot.record(tmp_path / "drive"), tmp_path / "rig.yaml", tmp_path / "dataset")
    dataset = Dataset(tmp_path / "dataset")
    assert dataset.keyframe_stamps == [(START + i * 500 * MS) // 1000 - 30_000 for i in range(4)]
    assert all(set(sample["data"]) == {"CAM_FRONT"} for sample in dataset.samples)


def test_bags_without_definitions_are_read_with_an_installations(tmp_path, rig, converted):
    """As Humble's sqlite3 bags are."""
    path = robot.record(tmp_path / "drive", storage="sqlite3")
    with sqlite3.connect(next(path.glob("*.db3"))) as database:
        assert database.execute("DELETE FROM message_definitions").rowcount > 3
    convert(path, rig(), tmp_path / "dataset", "--sweeps", "all")
    assert Dataset(tmp_path / "dataset").readings.keys() == Dataset(converted).readings.keys()


def test_boxes_in_a_frame_that_is_not_there(tmp_path, rig, bag):
    error = fails(bag, rig(("topic: /annotations", "topic: /annotations, frame: nowhere")), tmp_path)
    assert "/annotations: the boxes cannot be placed" in error and "'nowhere'" in error


def test_times_that_are_no_times_are_reported(tmp_path, rig):
    def change(events, make):
        for event in events:
            if event.topic == "/points":
                points = np.frombuffer(bytes(event.message.data), "<f4").reshape(-1, 6).copy()
                points[:, 5] += 5.0
                event.message.data = np.frombuffer(points.tobytes(), np.uint8)
        return events

    summary = convert(robot.record(tmp_path / "drive", sweeps=6, change=change), rig(), tmp_path / "dataset")
    assert summary["bags"][0]["keyframes"] == 2
    assert [(row["what"], row["count"]) for row in summary["dropped"]] == [("compensation", 2)]


def test_transforms_that_come_late_are_no_jump_of_a_clock(tmp_path, rig):
    """Each pose once more, two seconds after its time."""

    def change(events, _):
        again = [robot.Event(e.log + 2000 * MS, e.topic, e.msgtype, e.message) for e in events if e.topic == "/tf"]
        return events + again

    summary = convert(robot.record(tmp_path / "drive", sweeps=31, change=change), rig(), tmp_path / "dataset")
    assert summary["bags"][0]["scenes"] == ["drive-0000"] and summary["bags"][0]["keyframes"] == 7
    assert summary["dropped"] == []


def test_unknown_labels_are_counted_by_name(tmp_path, rig):
    def change(events, _):
        for event in events:
            if event.msgtype == DETECTIONS:
                event.message.detections[0].results[0].hypothesis.class_id = "kangaroo"
        return events

    summary = convert(robot.record(tmp_path / "drive", change=change), rig(), tmp_path / "dataset")
    (row,) = summary["dropped"]
    assert "'kangaroo'" in row["reason"] and row["count"] == 4
    assert Dataset(tmp_path / "dataset").nusc.sample_annotation == []


def test_labels_are_mapped_by_the_rig_file(tmp_path, rig):
    def change(events, _):
        for event in events:
            if event.msgtype == DETECTIONS:
                event.message.detections[0].results[0].hypothesis.class_id = "PKW"
        return events

    mapped = rig(("annotations: {topic: /annotations}", "annotations: {topic: /annotations, classes: {PKW: truck}}"))
    convert(robot.record(tmp_path / "drive", change=change), mapped, tmp_path / "dataset")
    assert {box["name"] for i in range(4) for box in Dataset(tmp_path / "dataset").boxes(i)} == {"truck"}


def test_a_clock_that_jumps_back_splits_the_recording(tmp_path, rig):
    """Nothing of either half is lost."""

    def change(events, make):
        second = robot._events(make, 11, START)
        for index, event in enumerate(e for e in second if e.topic == "/cam_front/image_raw/compressed"):
            event.message.data = np.frombuffer(robot.jpeg(100 + index), np.uint8)
        gap = 3000 * MS  # of the recording; the stamps begin again
        return events + [robot.Event(e.log + gap, e.topic, e.msgtype, e.message) for e in second]

    summary = convert(robot.record(tmp_path / "drive", change=change), rig(), tmp_path / "dataset")
    assert summary["bags"][0]["scenes"] == ["drive-0000", "drive-0001"]
    assert summary["bags"][0]["keyframes"] == 4 + 3
    assert any("jumps back" in row["reason"] for row in summary["dropped"])
    # Equal stamps, other pictures.
    for scene, first in (("drive-0000", 0), ("drive-0001", 100)):
        files = sorted((tmp_path / "dataset" / "samples" / "CAM_FRONT").glob(f"{scene}__*"))
        assert [file.read_bytes() for file in files] == [robot.jpeg(first + 5 * i) for i in range(len(files))]


def test_long_recordings_become_several_scenes_that_resume(tmp_path, rig, bag, monkeypatch):
    """Killed while it works on the second scene; the first is kept, and the result is as if nothing had happened."""
    short = rig(extra="keyframes: {max_scene_s: 0.5}\n")
    convert(bag, short, tmp_path / "whole")
    assert len(Dataset(tmp_path / "whole").nusc.scene) == 2
    code = (
        "import os, signal, sys\n"
        "from bevdistill_ros.training.convert import recording, rig_file, scene_writer\n"
        "original, done = scene_writer.SceneWriter.complete, []\n"
        "def complete(self, *args):\n"
        "    if done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(original(self, *args))\n"
        "scene_writer.SceneWriter.complete = complete\n"
        "from pathlib import Path\n"
        "bag, rig, root = map(Path, sys.argv[1:])\n"
        "recording.convert_bag(bag, root, rig_file.load_rig(rig), recording.Options(), 1, lambda share: None)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(bag), str(short), str(tmp_path / "again")], check=False)
    assert killed.returncode == -signal.SIGKILL
    first = tmp_path / "again" / "scenes" / "drive-0000.json"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "again" / "scenes" / "drive-0001.json").exists()
    convert(bag, short, tmp_path / "again")
    assert first.stat().st_mtime_ns == before
    assert hashes(tmp_path / "again") == hashes(tmp_path / "whole")


def test_a_bag_that_is_there_is_kept_and_other_settings_are_an_error(tmp_path, rig, bag):
    root = tmp_path / "dataset"
    convert(bag, rig(), root)
    before = hashes(root)
    assert convert(bag, rig(), root)["kept"] == ["drive"]
    assert hashes(root) == before
    other = convert(bag, rig(("offset_ms: 10", "offset_ms: 11")), root)
    assert "with another rig" in other["failed"][0]["error"]
    other = convert(robot.record(tmp_path / "b" / "drive", sweeps=6), rig(), root)
    assert "of another bag of this name" in other["failed"][0]["error"]
    assert hashes(root) == before


def test_bags_are_added_and_one_that_fails_costs_no_other(tmp_path, rig, bag):
    broken = robot.record(tmp_path / "broken", change=lambda e, _: [x for x in e if x.topic != "/points"])
    second = robot.record(tmp_path / "second", sweeps=11)
    summary = convert([bag, broken, second], rig(), tmp_path / "dataset", "--split", "mine")
    assert summary["made"] == ["drive", "second"]
    assert summary["failed"][0]["bag"] == str(broken)
    splits = json.loads((tmp_path / "dataset" / "v1.0-bags" / "splits.json").read_text())
    assert splits == {"mine": ["drive-0000", "second-0000"]}
    with pytest.raises(UserError, match=r"broken: has no topic /points"):
        ensure_converted([bag, broken, second], rig(), tmp_path / "dataset", Options("mine"))
    assert ensure_converted([tmp_path / "second"], rig(), tmp_path / "dataset", Options("mine")) == tmp_path / "dataset"


def test_the_number_of_workers_changes_nothing(tmp_path, rig, bag):
    other = robot.record(tmp_path / "other", sweeps=6)
    for name, workers in (("one", "1"), ("four", "4")):
        convert([bag, other], rig(), tmp_path / name, "--workers", workers)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "four")


def fails(path: Path, rig: Path, tmp_path: Path) -> str:
    """The one error of a conversion that gives nothing."""
    summary = convert(path, rig, tmp_path / "nothing")
    assert summary["made"] == [] and not (tmp_path / "nothing" / "v1.0-bags").exists()
    (failure,) = summary["failed"]
    assert "\n" not in failure["error"] and str(path) in failure["error"]
    return failure["error"]


def zero_stamps(events, make):
    for event in events:
        if event.topic == "/cam_front/image_raw/compressed":
            event.message.header = make.header(0, "cam_front")
    return events


def zero_infos(events, _):
    for event in events:
        if event.msgtype == CAMERA_INFO:
            event.message.k = np.zeros(9)
    return events


def wrong_frame(events, make):
    for event in events:
        if event.topic == "/points":
            event.message.header = make.header(event.log, "velodyne")
    return events


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e, _: [x for x in e if x.topic != "/cam_back/camera_info"], r"no topic /cam_back/camera_info \(cameras"),
        (lambda e, _: [x for x in e if x.topic != "/tf"], "has no topic /tf.*odometry"),
        (lambda e, _: [x for x in e if x.topic != "/tf_static"], "no transforms join 'lidar' and 'base_link'|mounting of"),
        (wrong_frame, "/points: the mounting of LIDAR_TOP is not known: no transforms join 'velodyne'"),
        (zero_stamps, "/cam_front/image_raw/compressed: every header.stamp is zero"),
        (zero_infos, "camera_info: no CameraInfo is of use: field k is all zero"),
        (
            lambda e, _: [x for x in e if x.topic != "/tf" or x.log < START - 100 * MS],
            "no keyframe is complete.*after the last transform",
        ),
    ],
    ids=["topic", "tf", "tf_static", "frame", "stamps", "info", "tf_ends"],
)  # fmt: skip
def test_what_cannot_be_converted_is_one_clear_error(tmp_path, rig, change, text):
    import re

    path = robot.record(tmp_path / "drive", change=change)
    assert re.search(text, fails(path, rig(), tmp_path))


def test_a_frame_that_the_rig_file_makes_up(tmp_path, rig, bag):
    error = fails(bag, rig(extra="base_frame: hovercraft\n"), tmp_path)
    assert "base_frame" in error and "'hovercraft'" in error and "base_link" in error


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_is_cut_off(tmp_path, rig, storage):
    path = robot.record(tmp_path / "drive", storage=storage)
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert "damaged or cut off" in fails(path, rig(), tmp_path)


def test_no_bag_at_all(tmp_path, rig):
    with pytest.raises(UserError, match="there is no such bag"):
        convert(tmp_path / "nowhere", rig(), tmp_path / "dataset")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is no bag"):
        convert(tmp_path / "folder", rig(), tmp_path / "dataset")


def test_two_bags_of_one_name(tmp_path, rig, bag):
    other = robot.record(tmp_path / "other" / "drive", sweeps=6)
    with pytest.raises(UserError, match="has the same name as"):
        convert([bag, other], rig(), tmp_path / "dataset")


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, rig, bag, monkeypatch):
    """In this process: what a worker would report."""
    root = tmp_path / "dataset"
    convert(robot.record(tmp_path / "first", sweeps=6), rig(), root)
    before = hashes(root)
    from bevdistill_ros.training.convert import from_bags

    original = Path.write_bytes

    def write_bytes(self, data):
        if "LIDAR" in self.name:
            raise OSError(28, os.strerror(28))
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(UserError, match=r"LIDAR_TOP.*No space left on device.*is not converted"):
        from_bags._work(bag, lambda report: None, root, load_rig(rig()), Options(), 2)
    monkeypatch.undo()
    assert {name: hashes(root)[name] for name in before} == before
    result = convert_bags([bag], root, load_rig(rig()), Options(), 1)
    assert [report["bag"] for report in result.made] == ["drive"] and len(Dataset(root).nusc.scene) == 2


def test_real_points_go_to_a_bag_and_back_unchanged(keyframe_root, tmp_path):
    """And so do poses, calibration, pictures and boxes of the nuScenes keyframe."""
    version = next(p.parent.name for p in Path(keyframe_root).glob("*/sample.json"))
    assert main(["--from-nuscenes", str(keyframe_root), "--version", version, "--output", str(tmp_path / "bag")]) == 0
    assert main(["--guess", str(tmp_path / "bag"), "--rig", str(tmp_path / "rig.yaml")]) == 0
    convert(tmp_path / "bag", tmp_path / "rig.yaml", tmp_path / "dataset")
    ours, theirs = Dataset(tmp_path / "dataset"), Dataset(Path(keyframe_root), version)
    assert len(ours.samples) == 1
    keyed = {key: reading for key, reading in theirs.readings.items() if key[0].startswith(("CAM", "LIDAR"))}
    assert ours.readings.keys() == {key for key, reading in keyed.items() if reading.row["is_key_frame"]}
    for key, reading in ours.readings.items():
        assert reading.path.read_bytes() == keyed[key].path.read_bytes()
        assert np.allclose(reading.pose, keyed[key].pose, rtol=0, atol=1e-6)
        assert np.allclose(reading.mounting, keyed[key].mounting, rtol=0, atol=1e-6)
    boxes, expected = ours.boxes(0), theirs.boxes(0)
    assert len(boxes) == len(expected) > 10
    for box, other in zip(boxes, expected):
        assert np.allclose(box["center"], other["center"], rtol=0, atol=1e-4) and box["name"] == other["name"]
        assert np.allclose(box["rotation"], other["rotation"], rtol=0, atol=1e-4)


def test_the_heading_of_the_robots_car_does_jump():
    """Or the test of the shorter way would show nothing."""
    yaws = [np.arctan2(*robot.car(START + i * 100 * MS)[[1, 0], [0, 0]]) for i in range(16)]
    assert max(abs(b - a) for a, b in pairwise(yaws)) > 6
    assert np.allclose(robot.car(START)[:3, :3], rotation_z(np.pi - 0.2))


@pytest.mark.parametrize(
    "options",
    [
        ["--bags", "x", "--output", "y"],
        ["--bags", "x", "--rig", "y"],
        ["--guess", "x"],
        ["--bags", "x", "--rig", "r", "--output", "y", "--quality", "0"],
        ["--bags", "x", "--rig", "r", "--output", "y", "--sweeps", "some"],
        [],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(options):
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bags", "x", "--scenes", "a", "--raw"], "--scenes, --raw: not with --bags, which does not use them"),
        (["--bags", "x", "--repeat", "1"], "--repeat: not with --bags, which does not use it"),  # as by default
        (["--bags", "x", "--period", "0.5", "--version", "v"], "--version, --period: not with --bags"),
        (["--bags", "x", "--storage", "mcap"], "--storage: not with --bags"),
        (["--bags", "x", "--cameras", "a", "--keyframes-only"], "--cameras, --keyframes-only: not with --bags"),
        (["--bags", "x", "--force", "--skip-existing"], "--force, --skip-existing: not with --bags"),
        (["--guess", "x", "--output", "y"], "--output: not with --guess, which does not use it"),
        (["--guess", "x", "-o", "y", "--json", "j"], "--output, --json: not with --guess"),
        (["--guess", "x", "--split", "bags", "--workers", "1"], "--split, --workers: not with --guess"),
        (["--guess", "x", "--ray", ""], "--ray: not with --guess"),
        (["--from-nuscenes", "x", "--rig", "r"], "--rig: not with --from-nuscenes, which does not use it"),
        (
            ["--from-nuscenes", "x", "--sweeps", "none", "--quality", "95"],
            "--sweeps, --quality: not with --from-nuscenes",
        ),
        (
            ["--bags", "x", "--rig", "r", "--output", "y", "--split", "val"],
            "--split val: means scenes of nuScenes itself",
        ),
        (["--bags", "x", "--rig", "r", "--output", "y", "--split", "a b"], "--split 'a b': must be of letters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_the_direction_does_not_use_are_refused(options, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2 and says in capsys.readouterr().err
