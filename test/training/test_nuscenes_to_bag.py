"""A bag made of nuScenes holds the dataset's own bytes, times and places."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

Quaternion = pytest.importorskip("pyquaternion").Quaternion
pytest.importorskip("rosbags")
pytest.importorskip("nuscenes")

from bevdistill_ros.errors import UserError  # noqa: E402
from bevdistill_ros.training.convert import main  # noqa: E402
from bevdistill_ros.training.data.bags import typestore  # noqa: E402

SCENE = "scene-0061"  # in both roots
DETECTION_NAMES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}


def convert(root: Path, output: Path, *options: str, scenes: tuple[str, ...] = (SCENE,)) -> int:
    return main(
        ["--from-nuscenes", str(root), "--version", "v1.0-mini", "--scenes", *scenes, "--output", str(output), *options]
    )


def read(bag: Path) -> dict[str, list]:
    """Messages by topic, each with log time, place in the bag and header stamp beside the data."""
    from rosbags.highlevel import AnyReader

    topics = defaultdict(list)
    with AnyReader([bag]) as reader:  # without a default type store: the bag itself must define its types
        for place, (connection, log, data) in enumerate(reader.messages()):
            message = reader.deserialize(data, connection.msgtype)
            header = message.transforms[0].header if connection.topic.startswith("/tf") else message.header
            stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
            topics[connection.topic].append(SimpleNamespace(log=log, place=place, stamp=stamp, data=message))
    return topics


class Tables:
    """The JSON tables of one scene, joined by hand."""

    def __init__(self, root: Path) -> None:
        def load(name: str) -> list[dict]:
            return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())

        def by_token(name: str) -> dict[str, dict]:
            return {row["token"]: row for row in load(name)}

        self.root = root
        scene = next(row for row in load("scene") if row["name"] == SCENE)
        self.samples = {row["token"]: row for row in load("sample") if row["scene_token"] == scene["token"]}
        self.poses, self.calibrations, sensors = by_token("ego_pose"), by_token("calibrated_sensor"), by_token("sensor")
        instances, categories = by_token("instance"), by_token("category")
        self.readings = [row for row in load("sample_data") if row["sample_token"] in self.samples]
        for row in self.readings:
            row["calibration"] = self.calibrations[row["calibrated_sensor_token"]]
            row["pose"] = self.poses[row["ego_pose_token"]]
            sensor = sensors[row["calibration"]["sensor_token"]]
            row["channel"], row["modality"] = sensor["channel"], sensor["modality"]
        self.cameras = [row for row in self.readings if row["modality"] == "camera"]
        self.annotations = [row for row in load("sample_annotation") if row["sample_token"] in self.samples]
        for row in self.annotations:
            row["category"] = categories[instances[row["instance_token"]]["category_token"]]["name"]


def matrix(record: dict) -> np.ndarray:
    T = Quaternion(record["rotation"]).transformation_matrix
    T[:3, 3] = record["translation"]
    return T


def tf_matrix(transform) -> np.ndarray:
    q, t = transform.rotation, transform.translation
    assert np.hypot(np.hypot(q.x, q.y), np.hypot(q.z, q.w)) == pytest.approx(1.0, abs=1e-12)
    T = Quaternion(q.w, q.x, q.y, q.z).transformation_matrix
    T[:3, 3] = t.x, t.y, t.z
    return T


@pytest.fixture(scope="module", params=["tiny_nuscenes", "keyframe_root"])
def converted(request, tmp_path_factory) -> SimpleNamespace:
    """A bag of a whole scene, its tables and the command's summary."""
    root = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("converted")
    assert convert(root, folder / "bag", "--json", str(folder / "summary.json")) == 0
    summary = json.loads((folder / "summary.json").read_text())["bags"][0]
    return SimpleNamespace(topics=read(folder / "bag"), tables=Tables(root), summary=summary, path=folder / "bag")


def test_images_are_the_files_bytes_at_their_exact_times(converted):
    assert len(converted.tables.cameras) >= 6
    for row in converted.tables.cameras:
        frame = row["channel"].lower()
        (image,) = [m for m in converted.topics[f"/{frame}/image_raw/compressed"] if m.stamp == 1000 * row["timestamp"]]
        assert image.log == image.stamp
        assert image.data.header.frame_id == frame
        assert image.data.format == "jpeg"
        assert image.data.data.tobytes() == (converted.tables.root / row["filename"]).read_bytes()
    images = sum(len(messages) for topic, messages in converted.topics.items() if "image_raw" in topic)
    assert images == len(converted.tables.cameras)


def test_camera_info_comes_with_each_image_and_equals_the_table(converted):
    for row in converted.tables.cameras:
        frame = row["channel"].lower()
        (info,) = [m for m in converted.topics[f"/{frame}/camera_info"] if m.stamp == 1000 * row["timestamp"]]
        K = np.array(row["calibration"]["camera_intrinsic"])
        assert (info.data.width, info.data.height) == (row["width"], row["height"])
        assert np.array_equal(info.data.k.reshape(3, 3), K)
        assert np.array_equal(info.data.p.reshape(3, 4), np.hstack([K, np.zeros((3, 1))]))
        assert np.array_equal(info.data.r.reshape(3, 3), np.eye(3))
        assert info.data.distortion_model == "plumb_bob"
        assert info.data.d.tolist() == [0.0] * 5
        assert info.data.header.frame_id == frame


def test_tf_gives_every_sensor_pose_of_the_dataset(converted):
    (static,) = converted.topics["/tf_static"]
    mountings = {t.child_frame_id: t for t in static.data.transforms}
    assert {t.header.frame_id for t in static.data.transforms} == {"base_link"}
    poses = {m.stamp: m for m in converted.topics["/tf"]}
    assert len(poses) == len(converted.topics["/tf"]), "two poses at one time"
    for row in converted.tables.readings:
        (pose,) = poses[1000 * row["timestamp"]].data.transforms
        assert (pose.header.frame_id, pose.child_frame_id) == ("map", "base_link")
        map_T_sensor = tf_matrix(pose.transform) @ tf_matrix(mountings[row["channel"].lower()].transform)
        assert np.allclose(map_T_sensor, matrix(row["pose"]) @ matrix(row["calibration"]), rtol=0, atol=1e-9)


def test_messages_are_in_order_of_time_and_transforms_come_first(converted):
    ordered = sorted((m for messages in converted.topics.values() for m in messages), key=lambda m: m.place)
    assert all(a.log <= b.log for a, b in pairwise(ordered))
    assert all(m.log == m.stamp for m in ordered)
    assert ordered[0] is converted.topics["/tf_static"][0]
    poses = {m.stamp: m.place for m in converted.topics["/tf"]}
    for topic, messages in converted.topics.items():
        if "image_raw" in topic:
            infos = {m.stamp: m.place for m in converted.topics[topic.split("/image_raw")[0] + "/camera_info"]}
            assert all(poses[m.stamp] < infos[m.stamp] < m.place for m in messages)


def test_annotations_are_the_tables_boxes_seen_from_the_base_frame(converted):
    arrays = {m.stamp: m.data for m in converted.topics["/annotations"]}
    assert set(arrays) == {1000 * sample["timestamp"] for sample in converted.tables.samples.values()}
    poses = {row["timestamp"]: row["pose"] for row in converted.tables.readings}
    expected = [row for row in converted.tables.annotations if row["category"] in DETECTION_NAMES]
    assert expected and sum(len(array.detections) for array in arrays.values()) == len(expected)
    for row in expected:
        timestamp = converted.tables.samples[row["sample_token"]]["timestamp"]
        array = arrays[1000 * timestamp]
        (found,) = [d for d in array.detections if d.id == row["instance_token"]]
        base = poses[timestamp]
        turn = Quaternion(base["rotation"]).inverse
        center = turn.rotate(np.array(row["translation"]) - base["translation"])
        rotation = turn * Quaternion(row["rotation"])
        p, q, size = found.bbox.center.position, found.bbox.center.orientation, found.bbox.size
        assert np.allclose((p.x, p.y, p.z), center, rtol=0, atol=1e-9)
        assert Quaternion.absolute_distance(Quaternion(q.w, q.x, q.y, q.z), rotation.normalised) < 1e-9
        assert [size.y, size.x, size.z] == row["size"], "nuScenes gives width, length, height"
        (result,) = found.results
        assert result.hypothesis.class_id == DETECTION_NAMES[row["category"]]
        assert result.hypothesis.score == 1.0
        assert result.pose.pose == found.bbox.center
        assert array.header.frame_id == found.header.frame_id == "base_link"
        assert found.header.stamp == array.header.stamp
    left_out = [row["category"] for row in converted.tables.annotations if row["category"] not in DETECTION_NAMES]
    assert converted.summary["unmapped_annotations"] == {name: left_out.count(name) for name in left_out}


def test_points_are_the_files_floats(converted):
    rows = [row for row in converted.tables.readings if row["modality"] == "lidar"]
    assert len(rows) == len(converted.topics["/lidar_top/points"])
    for row, message in zip(sorted(rows, key=lambda row: row["timestamp"]), converted.topics["/lidar_top/points"]):
        cloud = message.data
        points = np.fromfile(converted.tables.root / row["filename"], np.float32).reshape(-1, 5)
        assert message.stamp == 1000 * row["timestamp"]
        assert cloud.header.frame_id == "lidar_top"
        assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
            (name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "intensity", "ring"))
        ]
        assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (len(points), 1, 20, 20 * len(points))
        assert np.array_equal(cloud.data.view(np.float32).reshape(-1, 5), points)


def test_summary_counts_what_is_in_the_bag(converted):
    assert converted.summary["messages"] == {topic: len(messages) for topic, messages in converted.topics.items()}
    stamps = [m.log for messages in converted.topics.values() for m in messages]
    assert (converted.summary["start_ns"], converted.summary["end_ns"]) == (min(stamps), max(stamps))
    assert converted.summary["duration_s"] == pytest.approx((max(stamps) - min(stamps)) / 1e9, abs=1e-9)


def test_sqlite3_holds_the_same_messages_as_mcap(converted, tmp_path):
    from rosbags.rosbag2 import Reader

    assert convert(converted.tables.root, tmp_path / "bag", "--storage", "sqlite3") == 0
    assert list((tmp_path / "bag").glob("*.db3"))
    contents = []
    for path in (converted.path, tmp_path / "bag"):
        with Reader(path) as reader:
            contents.append(sorted((log, c.topic, c.msgtype, bytes(data)) for c, log, data in reader.messages()))
    assert contents[0] == contents[1]


def test_qos_is_recorded_for_players(converted):
    from rosbags.interfaces import QosDurability, QosReliability
    from rosbags.rosbag2 import Reader

    with Reader(converted.path) as reader:
        for connection in reader.connections:
            (qos,) = connection.ext.offered_qos_profiles
            assert qos.reliability == QosReliability.RELIABLE
            assert (qos.durability == QosDurability.TRANSIENT_LOCAL) == (connection.topic == "/tf_static")


def test_raw_images_are_the_decoded_pixels(tiny_nuscenes, tmp_path):
    assert convert(tiny_nuscenes, tmp_path / "bag", "--raw", "--cameras", "cam_front", "CAM_BACK") == 0
    topics = read(tmp_path / "bag")
    assert {topic for topic in topics if "cam" in topic} == {
        f"/{frame}/{topic}" for frame in ("cam_front", "cam_back") for topic in ("image_raw", "camera_info")
    }
    assert {t.child_frame_id for t in topics["/tf_static"][0].data.transforms} == {"cam_front", "cam_back", "lidar_top"}
    tables = Tables(tiny_nuscenes)
    assert len(topics["/tf"]) == len(tables.readings), "poses at the times of cameras left out stay"
    for row in (row for row in tables.cameras if row["channel"] == "CAM_BACK"):
        (image,) = [m.data for m in topics["/cam_back/image_raw"] if m.stamp == 1000 * row["timestamp"]]
        assert (image.width, image.height, image.step, image.encoding) == (160, 90, 480, "bgr8")
        assert np.array_equal(image.data.reshape(90, 160, 3), cv2.imread(str(tiny_nuscenes / row["filename"])))


def test_repetitions_shift_everything_by_the_period(tiny_nuscenes, tmp_path):
    assert convert(tiny_nuscenes, tmp_path / "once") == 0
    assert convert(tiny_nuscenes, tmp_path / "thrice", "--repeat", "3", "--period", "2.000000001") == 0
    once, thrice = read(tmp_path / "once"), read(tmp_path / "thrice")
    assert len(thrice["/tf_static"]) == 1
    for topic in set(once) - {"/tf_static"}:
        expected = [m.stamp + i * 2_000_000_001 for i in range(3) for m in once[topic]]
        assert [m.stamp for m in thrice[topic]] == [m.log for m in thrice[topic]] == expected
    for first, last in zip(once["/annotations"], thrice["/annotations"][-4:]):
        boxes = [[(d.id, d.bbox.center.position.x, d.bbox.size.y) for d in m.data.detections] for m in (first, last)]
        assert boxes[0] == boxes[1]


def test_a_period_shorter_than_the_scene_is_refused(tiny_nuscenes, tmp_path):
    with pytest.raises(UserError, match=r"scene-0061.*--period"):
        convert(tiny_nuscenes, tmp_path / "bag", "--repeat", "2", "--period", "1")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def editable(tiny_nuscenes, tmp_path) -> Path:
    """A copy of the tiny dataset that a test may change."""
    return Path(shutil.copytree(tiny_nuscenes, tmp_path / "editable"))


def edit(root: Path, table: str, change) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_keyframes_only_leaves_out_sweeps_but_not_their_poses(editable, tmp_path):
    def make_sweeps(
        rows: list[dict],
    ) -> None:  # everything of each scene's second sample becomes a reading between keyframes
        for row in rows:
            row["is_key_frame"] = not row["filename"].endswith(("500000.pcd.bin", "480000.jpg", "465000.jpg"))

    edit(editable, "sample_data", make_sweeps)
    tables = Tables(editable)
    keys = [row for row in tables.cameras if row["is_key_frame"]]
    assert 0 < len(keys) < len(tables.cameras)
    assert convert(editable, tmp_path / "all") == 0
    assert convert(editable, tmp_path / "keys", "--keyframes-only") == 0
    everything, keyframes = read(tmp_path / "all"), read(tmp_path / "keys")

    def images(topics: dict) -> int:
        return sum(len(messages) for topic, messages in topics.items() if topic.endswith("compressed"))

    assert images(everything) == len(tables.cameras)
    assert images(keyframes) == len(keys)
    assert len(keyframes["/lidar_top/points"]) < len(everything["/lidar_top/points"])
    assert [m.stamp for m in keyframes["/tf"]] == [m.stamp for m in everything["/tf"]]


def test_annotations_between_two_poses_use_the_pose_between_them(editable, tmp_path):
    def shift(rows: list[dict]) -> None:  # keyframe times that no sensor reading has
        for row in rows:
            row["timestamp"] -= 250  # half way between CAM_BACK_LEFT and LIDAR_TOP

    assert convert(editable, tmp_path / "exact") == 0
    edit(editable, "sample", shift)
    assert convert(editable, tmp_path / "between") == 0
    exact, between = (read(tmp_path / name)["/annotations"] for name in ("exact", "between"))
    for a, b in zip(exact, between):
        assert a.stamp - b.stamp == 250_000
        # 250 us at 5 m/s: what stands still appears 1.25 mm farther ahead, apart from the turn
        for before, after in zip(a.data.detections, b.data.detections):
            p, q = before.bbox.center.position, after.bbox.center.position
            turned = 0.15 * 250e-6
            assert q.x - p.x == pytest.approx(1.25e-3 - turned * p.y, abs=1e-6)
            assert q.y - p.y == pytest.approx(turned * p.x, abs=1e-6)


def files(root: Path, channel: str) -> list[Path]:
    return sorted((root / "samples" / channel).glob(f"{SCENE}*"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut off"),
        (lambda path: path.write_bytes(b""), "neither a JPEG nor a PNG"),
        (lambda path: cv2.imwrite(str(path), np.zeros((45, 80, 3), np.uint8)), "80x45.*160x90"),
    ],
    ids=["missing", "truncated", "empty", "other size"],
)
def test_a_bad_image_is_named_and_leaves_nothing_behind(editable, tmp_path, damage, reason):
    path = files(editable, "CAM_BACK")[2]
    damage(path)
    with pytest.raises(UserError, match=f"{path.name}.*{reason}"):
        convert(editable, tmp_path / "bag")
    assert [p.name for p in tmp_path.iterdir()] == ["editable"]


def test_a_bad_point_cloud_is_named(editable, tmp_path):
    path = files(editable, "LIDAR_TOP")[1]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{path.name}.*whole points"):
        convert(editable, tmp_path / "bag")


def test_png_images_pass_unchanged(editable, tmp_path):
    path = files(editable, "CAM_FRONT")[0]
    path.write_bytes(cv2.imencode(".png", np.full((90, 160, 3), 7, np.uint8))[1].tobytes())
    assert convert(editable, tmp_path / "bag") == 0
    first = read(tmp_path / "bag")["/cam_front/image_raw/compressed"][0].data
    assert first.format == "png"
    assert first.data.tobytes() == path.read_bytes()


def test_tables_that_contradict_themselves_are_refused(editable, tmp_path):
    saved = (editable / "v1.0-mini" / "calibrated_sensor.json").read_text()
    edit(editable, "calibrated_sensor", lambda rows: rows[0].update(camera_intrinsic=[]))
    with pytest.raises(UserError, match=r"calibrated_sensor.json.*CAM_FRONT.*camera_intrinsic"):
        convert(editable, tmp_path / "bag")
    (editable / "v1.0-mini" / "calibrated_sensor.json").write_text(saved)

    edit(editable, "calibrated_sensor", lambda rows: rows[0].update(rotation=[0, 0, 0, 0]))
    with pytest.raises(UserError, match="no quaternion"):
        convert(editable, tmp_path / "bag")
    (editable / "v1.0-mini" / "calibrated_sensor.json").write_text(saved)

    edit(editable, "sample", lambda rows: rows[0].update(timestamp=rows[0]["timestamp"] - 10**6))
    with pytest.raises(UserError, match=r"sample.json.*no ego poses"):
        convert(editable, tmp_path / "bag")


def test_what_is_not_there_is_named_with_what_is(tiny_nuscenes, tmp_path):
    with pytest.raises(UserError, match=r"scene-9999.*scene-0061"):
        convert(tiny_nuscenes, tmp_path / "bag", scenes=("scene-9999",))
    with pytest.raises(UserError, match=r"cam_top|CAM_TOP.*CAM_BACK"):
        convert(tiny_nuscenes, tmp_path / "bag", "--cameras", "cam_top")
    with pytest.raises(UserError, match=r"v1.0-trainval.*v1.0-mini"):
        convert(tiny_nuscenes, tmp_path / "bag", "--version", "v1.0-trainval")
    with pytest.raises(UserError):
        convert(tmp_path / "nowhere", tmp_path / "bag")
    assert not list(tmp_path.iterdir())


def test_an_existing_bag_is_kept_unless_forced(tiny_nuscenes, tmp_path):
    bag = tmp_path / "bag"
    assert convert(tiny_nuscenes, bag, "--cameras", "cam_front") == 0
    before = sorted((p.name, p.read_bytes()) for p in bag.iterdir())
    with pytest.raises(UserError, match=r"exists already.*--force"):
        convert(tiny_nuscenes, bag)
    assert convert(tiny_nuscenes, bag, "--skip-existing") == 0
    assert sorted((p.name, p.read_bytes()) for p in bag.iterdir()) == before
    (tmp_path / "bag.partial").mkdir()  # what a killed run leaves
    (tmp_path / "bag.partial" / "half").write_text("x")
    assert convert(tiny_nuscenes, bag, "--force") == 0
    assert "/cam_back/camera_info" in read(bag)
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_force_never_removes_what_is_no_bag(tiny_nuscenes, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a bag"):
        convert(tiny_nuscenes, tmp_path / "home", "--force")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(tiny_nuscenes, tmp_path, monkeypatch):
    from rosbags.rosbag2 import Writer

    original, count = Writer.write, 0

    def write(self, *args):
        nonlocal count
        count += 1
        if count > 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *args)

    monkeypatch.setattr(Writer, "write", write)
    with pytest.raises(UserError, match="No space left on device"):
        convert(tiny_nuscenes, tmp_path / "bag")
    assert not list(tmp_path.iterdir())


def test_a_failed_replacement_keeps_the_old_bag(editable, tmp_path):
    assert convert(editable, tmp_path / "bag") == 0
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "bag").iterdir())
    files(editable, "CAM_FRONT")[-1].unlink()
    with pytest.raises(UserError):
        convert(editable, tmp_path / "bag", "--force")
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "bag").iterdir()) == before


def test_several_scenes_become_a_bag_each_and_finished_ones_are_kept(editable, tmp_path):
    output = tmp_path / "bags"
    broken = sorted((editable / "samples" / "CAM_FRONT").glob("scene-0103*"))[-1]
    image = broken.read_bytes()
    broken.unlink()
    with pytest.raises(UserError, match=broken.name):
        main(["--from-nuscenes", str(editable), "--version", "v1.0-mini", "--output", str(output)])
    assert [p.name for p in output.iterdir()] == ["scene-0061"]
    first = (output / "scene-0061" / "scene-0061.mcap").stat().st_mtime_ns
    broken.write_bytes(image)
    with pytest.raises(UserError, match=r"scene-0061.*--skip-existing"):
        main(["--from-nuscenes", str(editable), "--version", "v1.0-mini", "--output", str(output)])
    assert (
        main(["--from-nuscenes", str(editable), "--version", "v1.0-mini", "--output", str(output), "--skip-existing"])
        == 0
    )
    assert sorted(p.name for p in output.iterdir()) == ["scene-0061", "scene-0103"]
    assert (output / "scene-0061" / "scene-0061.mcap").stat().st_mtime_ns == first
    stamps = [{m.stamp for m in read(output / name)["/tf"]} for name in ("scene-0061", "scene-0103")]
    assert not stamps[0] & stamps[1]


@pytest.mark.parametrize(
    "options",
    [["--repeat", "0"], ["--period", "nan"], ["--storage", "rosbag1"], ["--force", "--skip-existing"], ["--cameras"]],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(tiny_nuscenes, tmp_path, options):
    with pytest.raises(SystemExit) as caught:
        convert(tiny_nuscenes, tmp_path / "bag", *options)
    assert caught.value.code == 2


def test_our_vision_msgs_are_the_installed_ones(converted):
    """The definitions in bags.py against the vision_msgs of this ROS installation, and a message read by that."""
    detection_array = pytest.importorskip("vision_msgs.msg").Detection3DArray
    serialization = pytest.importorskip("rclpy.serialization")
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    descriptions = [path for prefix in prefixes for path in prefix.glob("share/vision_msgs/msg/Detection3DArray.json")]
    if descriptions:  # Humble knows no type hashes
        hashes = {
            row["type_name"]: row["hash_string"] for row in json.loads(descriptions[0].read_text())["type_hashes"]
        }
        ours = typestore()
        for name in (
            "Detection3DArray",
            "Detection3D",
            "ObjectHypothesisWithPose",
            "ObjectHypothesis",
            "BoundingBox3D",
        ):
            assert ours.hash_rihs01(f"vision_msgs/msg/{name}") == hashes[f"vision_msgs/msg/{name}"]

    from rosbags.rosbag2 import Reader

    with Reader(converted.path) as reader:
        chosen = [c for c in reader.connections if c.topic == "/annotations"]
        data = next(data for _, _, data in reader.messages(chosen))
    ros = serialization.deserialize_message(bytes(data), detection_array)
    ours = converted.topics["/annotations"][0].data
    assert [d.id for d in ros.detections] == [d.id for d in ours.detections]
    assert [d.bbox.size.x for d in ros.detections] == [d.bbox.size.x for d in ours.detections]
    assert [d.results[0].hypothesis.class_id for d in ros.detections] == [
        d.results[0].hypothesis.class_id for d in ours.detections
    ]
