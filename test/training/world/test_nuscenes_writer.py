"""A dataset that was written is the drive again, as nuscenes-devkit sees it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes")

import fake_drive
from fake_drive import OBJECTS, FakeDrive
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.world import taxonomy
from bevdistill_ros.training.world.drive import Image, Keyframe, Sweep
from bevdistill_ros.training.world.nuscenes_writer import (
    TABLES,
    VERSION,
    DatasetWriter,
    instance_token,
    merge,
    shard_path,
)
from bevdistill_ros.training.world.options import DriveOptions

OPTIONS = DriveOptions(duration_s=1.0, sweeps="all")


def drive(name: str, seed: int = 0) -> FakeDrive:
    return fake_drive.simulate(name, (seed,), OPTIONS)


def write(root: Path, name: str, split: str = "world_train", seed: int = 0) -> None:
    source = drive(name, seed)
    with DatasetWriter(root, split, source, {"seed": seed}) as writer:
        for reading in source.readings():
            writer.add(reading)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write(root, "b", "world_val", seed=1)
    write(root, "a")
    assert merge(root) == 2
    return root


@pytest.fixture(scope="module")
def nusc(root) -> NuScenes:
    return NuScenes(VERSION, str(root), verbose=False)


@pytest.fixture(scope="module")
def readings() -> list:
    return list(drive("a").readings())


def samples_of(nusc: NuScenes, name: str) -> list[dict]:
    scene = next(scene for scene in nusc.scene if scene["name"] == name)
    token, samples = scene["first_sample_token"], []
    while token:
        samples.append(nusc.get("sample", token))
        token = samples[-1]["next"]
    assert samples[-1]["token"] == scene["last_sample_token"]
    assert scene["nbr_samples"] == len(samples)
    return samples


def matrix(record: dict) -> np.ndarray:
    T = Quaternion(record["rotation"]).transformation_matrix
    T[:3, 3] = record["translation"]
    return T


def test_there_is_a_sample_for_every_keyframe(nusc, readings):
    samples = samples_of(nusc, "a")
    assert [1000 * s["timestamp"] for s in samples] == [r.stamp for r in readings if isinstance(r, Keyframe)]
    assert [s["prev"] for s in samples] == ["", *[s["token"] for s in samples[:-1]]]
    assert nusc.scene[0]["description"] == "A straight road, seed (0,)"


def test_readings_of_a_channel_are_chained_in_order_of_time(nusc, readings):
    first = samples_of(nusc, "a")[0]
    for channel, in_key in first["data"].items():
        row = nusc.get("sample_data", in_key)
        while row["prev"]:
            row = nusc.get("sample_data", row["prev"])
        rows = [row]
        while rows[-1]["next"]:
            rows.append(nusc.get("sample_data", rows[-1]["next"]))
        if channel == "LIDAR_TOP":
            expected = [r for r in readings if isinstance(r, Sweep)]
        else:
            expected = [r for r in readings if isinstance(r, Image) and r.channel == channel]
        assert [1000 * row["timestamp"] for row in rows] == [r.stamp for r in expected]
        assert [row["is_key_frame"] for row in rows] == [r.keyframe for r in expected]
        assert all(b["prev"] == a["token"] for a, b in pairwise(rows))
        assert {row["filename"].split("/")[0] for row in rows if row["is_key_frame"]} == {"samples"}
        assert {row["filename"].split("/")[0] for row in rows if not row["is_key_frame"]} == {"sweeps"}


def test_readings_between_keyframes_belong_to_the_one_that_follows(nusc):
    for row in nusc.sample_data:
        sample = nusc.get("sample", row["sample_token"])
        assert 0 <= sample["timestamp"] - row["timestamp"] < 500_000


def test_a_reading_after_the_last_keyframe_belongs_to_that(tmp_path):
    source = drive("late")
    with DatasetWriter(tmp_path, "s", source, {}) as writer:
        for reading in source.readings():
            writer.add(reading)
        late = Image("CAM_FRONT", reading.stamp + 1000, b"jpeg", False)
        writer.add(late)
    tables = json.loads(shard_path(tmp_path, "late").read_text())["tables"]
    assert tables["sample_data"][-1]["sample_token"] == tables["sample"][-1]["token"]


def test_images_are_the_bytes_that_were_rendered(nusc, root, readings):
    images = {(r.channel, r.stamp // 1000): r.jpeg for r in readings if isinstance(r, Image)}
    rows = [row for row in nusc.sample_data if row["fileformat"] == "jpg" and "/a__" in row["filename"]]
    assert len(rows) == len(images) == 36
    for row in rows:
        assert (root / row["filename"]).read_bytes() == images[row["channel"], row["timestamp"]]
        assert (row["width"], row["height"]) == (64, 36)


def test_sweeps_hold_the_deskewed_points(nusc, root, readings):
    for sweep in (r for r in readings if isinstance(r, Sweep)):
        (row,) = [
            row for row in nusc.sample_data
            if row["channel"] == "LIDAR_TOP" and "/a__" in row["filename"] and 1000 * row["timestamp"] == sweep.stamp
        ]  # fmt: skip
        points = np.fromfile(root / row["filename"], "<f4").reshape(-1, 5)
        assert np.array_equal(points[:, :3], sweep.deskewed)
        assert np.array_equal(points[:, 3:], sweep.points[:, 3:])
        assert row["fileformat"] == "pcd"


def test_calibration_and_poses_are_those_of_the_drive(nusc):
    source = drive("a")
    rows = [row for row in nusc.sample_data if "/a__" in row["filename"]]
    assert len({row["ego_pose_token"] for row in rows}) == len(rows)
    for row in rows:
        mounting = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
        if row["channel"] == "LIDAR_TOP":
            ego_T_sensor = source.ego_T_lidar
            assert mounting["camera_intrinsic"] == []
        else:
            camera, ego_T_sensor = source.cameras[row["channel"]]
            assert np.array_equal(mounting["camera_intrinsic"], camera.K)
        assert np.allclose(matrix(mounting), ego_T_sensor, rtol=0, atol=1e-8)
        pose = nusc.get("ego_pose", row["ego_pose_token"])
        assert pose["timestamp"] == row["timestamp"]
        assert np.allclose(matrix(pose), source.pose(1000 * row["timestamp"]), rtol=0, atol=1e-8)


def test_annotations_are_the_drives_objects(nusc, readings):
    keyframes = [r for r in readings if isinstance(r, Keyframe)]
    for sample, keyframe in zip(samples_of(nusc, "a"), keyframes):
        assert len(sample["anns"]) == len(keyframe.annotations)
        for expected in keyframe.annotations:
            instance = instance_token("a", expected.instance)
            (row,) = [
                row
                for row in (nusc.get("sample_annotation", token) for token in sample["anns"])
                if row["instance_token"] == instance
            ]
            box = nusc.get_box(row["token"])
            assert box.name == expected.category
            assert np.allclose(box.center, expected.center, rtol=0, atol=1e-8)
            assert box.wlh.tolist() == expected.size[[1, 0, 2]].tolist()
            heading = box.orientation.rotation_matrix[:, 0]
            assert np.allclose(heading, [np.cos(expected.yaw), np.sin(expected.yaw), 0], rtol=0, atol=1e-8)
            names = [nusc.get("attribute", token)["name"] for token in row["attribute_tokens"]]
            assert names == ([expected.attribute] if expected.attribute else [])
            assert (row["num_lidar_pts"], row["num_radar_pts"]) == (expected.lidar_points, 0)


def test_velocities_follow_from_the_tracks(nusc, readings):
    keyframes = [r for r in readings if isinstance(r, Keyframe)]
    truth = {(instance_token("a", a.instance), k.stamp): a.velocity for k in keyframes for a in k.annotations}
    seen = 0
    for row in nusc.sample_annotation:
        stamp = 1000 * nusc.get("sample", row["sample_token"])["timestamp"]
        velocity = nusc.box_velocity(row["token"])
        if (row["instance_token"], stamp) not in truth:
            continue  # the other drive
        if row["category_name"] == "movable_object.barrier":
            assert np.isnan(velocity).all()  # annotated once
        else:
            assert np.allclose(velocity[:2], truth[row["instance_token"], stamp], rtol=0, atol=1e-6)
            seen += 1
    assert seen == 3 + 3 + 2 + 3


def test_instances_chain_their_annotations(nusc):
    assert len(nusc.instance) == 2 * len(OBJECTS)
    for number, row in enumerate(OBJECTS):
        instance = nusc.get("instance", instance_token("a", number))
        assert nusc.get("category", instance["category_token"])["name"] == row[0]
        tokens = [instance["first_annotation_token"]]
        while following := nusc.get("sample_annotation", tokens[-1])["next"]:
            assert nusc.get("sample_annotation", following)["prev"] == tokens[-1]
            tokens.append(following)
        assert tokens[-1] == instance["last_annotation_token"]
        samples = [s["token"] for s in samples_of(nusc, "a")]
        at = [samples.index(nusc.get("sample_annotation", token)["sample_token"]) for token in tokens]
        assert tuple(at) == row[-1]
        assert instance["nbr_annotations"] == len(row[-1])


def test_points_of_the_keyframe_lie_in_the_boxes(nusc):
    for sample in samples_of(nusc, "a"):
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            annotation = nusc.get("sample_annotation", box.token)
            assert points_in_box(box, points).sum() == annotation["num_lidar_pts"]


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.0, "v0-40"), (0.4, "v0-40"), (0.41, "v40-60"), (0.75, "v60-80"), (0.81, "v80-100"), (1.0, "v80-100")],
)
def test_visibility_has_the_devkits_levels(nusc, share, level):
    assert nusc.get("visibility", taxonomy.visibility_token(share))["level"] == level


def test_visibility_of_an_annotation_is_the_drives(nusc):
    levels = {row["instance_token"]: row["visibility_token"] for row in nusc.sample_annotation}
    assert [levels[instance_token("a", n)] for n in range(len(OBJECTS))] == ["4", "1", "2", "3", "4"]


def test_the_map_shows_the_road(nusc):
    (record,) = [m for m in nusc.map if m["filename"] == "maps/a.png"]
    mask = record["mask"]
    assert mask.is_on_mask(30.0, 20.0).all()
    assert mask.is_on_mask([30.0, 30.0], [15.5, 24.5]).all()
    assert not mask.is_on_mask([30.0, 30.0], [14.5, 25.5]).any()
    log = nusc.get("log", record["log_tokens"][0])
    assert log["logfile"] == "a"


def test_categories_are_detected_as_the_devkit_says(nusc):
    assert {name: category_to_detection_name(name) for name in taxonomy.CATEGORIES} == taxonomy.CATEGORIES
    assert len(nusc.category) == 23


def test_splits_are_known_to_the_devkit(nusc):
    assert get_scenes_of_split("world_train", nusc) == ["a"]
    assert get_scenes_of_split("world_val", nusc) == ["b"]


def test_the_devkit_renders_it(nusc, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    sample = samples_of(nusc, "a")[0]
    for channel in ("CAM_FRONT", "LIDAR_TOP"):
        path = tmp_path / f"{channel}.png"
        # The devkit cannot draw the map below the points with NumPy 2.4 and later, whatever the dataset.
        nusc.render_sample_data(sample["data"][channel], out_path=str(path), verbose=False, underlay_map=False)
        assert path.stat().st_size > 10_000


def hashes(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_drives_in_another_order_give_the_same_bytes(root, tmp_path):
    write(tmp_path, "a")
    merge(tmp_path)
    write(tmp_path, "b", "world_val", seed=1)
    merge(tmp_path)
    assert hashes(tmp_path) == hashes(root)
    assert {f"{VERSION}/{name}.json" for name in (*TABLES, "splits")} <= set(hashes(root))


def test_tables_are_in_the_order_of_the_drives_names(tmp_path):
    for name in "fbhdagce":
        write(tmp_path, name)
    assert merge(tmp_path) == 8
    scenes = json.loads((tmp_path / VERSION / "scene.json").read_text())
    assert [scene["name"] for scene in scenes] == list("abcdefgh")


def test_no_token_is_used_twice(root):
    for table in TABLES:
        tokens = [row["token"] for row in json.loads((root / VERSION / f"{table}.json").read_text())]
        assert len(set(tokens)) == len(tokens) > 0


class Fault(Exception):
    pass


def test_an_interrupted_drive_is_no_part_of_the_dataset_and_leaves_nothing_behind(tmp_path):
    write(tmp_path / "whole", "a")
    broken = fake_drive.simulate("a", (9,), DriveOptions(duration_s=3.0, sweeps="lidar"))
    with pytest.raises(Fault), DatasetWriter(tmp_path / "again", "world_train", broken, {}) as writer:
        for count, reading in enumerate(broken.readings()):
            writer.add(reading)
            if count == 40:
                raise Fault
    assert merge(tmp_path / "again") == 0
    assert not (tmp_path / "again" / VERSION).exists()
    write(tmp_path / "again", "a")
    assert hashes(tmp_path / "again") == hashes(tmp_path / "whole")


def test_tables_survive_a_merge_that_was_killed(tmp_path, root):
    shutil.copytree(root, tmp_path / "world")
    table_folder = tmp_path / "world" / VERSION
    expected = hashes(table_folder)
    table_folder.rename(table_folder.with_name(f".{VERSION}.old"))  # killed between the two renames
    table_folder.with_name(f".{VERSION}.new").mkdir()
    assert merge(tmp_path / "world") == 2
    assert hashes(tmp_path / "world") == hashes(root)
    assert hashes(table_folder) == expected


def test_a_drive_that_ends_early_is_not_complete(tmp_path):
    source = drive("short")
    with (
        pytest.raises(ValueError, match="short: has 1 keyframes, not 3"),
        DatasetWriter(tmp_path, "s", source, {}) as writer,
    ):
        for reading in source.readings():
            writer.add(reading)
            if isinstance(reading, Keyframe):
                break
    assert not shard_path(tmp_path, "short").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"name": "a"', '{"name": "a", "split": "s", "settings": {}, "tables": {}}']
)
def test_a_damaged_drive_is_named(tmp_path, content):
    path = shard_path(tmp_path, "a")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match=r"drives/a\.json: damaged .*remove it"):
        merge(tmp_path)


def test_what_nuscenes_has_no_name_for_is_refused(tmp_path):
    source = drive("a")
    keyframe = next(r for r in source.readings() if isinstance(r, Keyframe))
    for field, value in (("category", "vehicle.tram"), ("attribute", "vehicle.flying")):
        annotation = replace(keyframe.annotations[0], **{field: value})
        with pytest.raises(ValueError, match=value), DatasetWriter(tmp_path, "s", source, {}) as writer:
            writer.add(Keyframe(keyframe.stamp, (annotation,)))


def test_stamps_must_be_whole_microseconds(tmp_path):
    with (
        pytest.raises(ValueError, match="whole number of microseconds"),
        DatasetWriter(tmp_path, "s", drive("a"), {}) as writer,
    ):
        writer.add(Image("CAM_FRONT", fake_drive.START + 1, b"", True))
