"""LiDAR points of keyframes: against the devkit's own aggregation, against annotated counts, and damaged files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from nuscenes.utils.data_classes import LidarPointCloud

from bevdistill_ros.config import CLASS_NAMES, PointsConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import invert, transform_points
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.lidar import read_points
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes, open_samples, turn_rig
from bevdistill_ros.training.data.records import ego_pose, mounting

EVERYTHING = (0.0, 0.0, 0.0, 0.0)
"""No vehicle to leave out."""


def load(root, seconds: float = 0.0, ego=EVERYTHING, **options) -> NuScenesSamples:
    nusc = open_nuscenes(root, "v1.0-mini")
    points = PointsConfig(seconds, ego)
    return NuScenesSamples(nusc, choose_samples(nusc), CLASS_NAMES, None, points=points, **options)


@pytest.mark.parametrize(("seconds", "readings"), [(0.0, 1), (0.49, 1), (0.5, 2), (1.2, 3), (9.0, 4)])
def test_points_are_those_of_the_devkit(tiny_nuscenes, seconds: float, readings: int) -> None:
    """Ours are in the base frame at the reference time, theirs in the LiDAR's at its own: one rigid motion apart."""
    dataset = load(tiny_nuscenes, seconds)
    nusc, sample = dataset.nusc, dataset[3]
    record = nusc.get("sample", sample.token)
    theirs, lags = LidarPointCloud.from_file_multisweep(
        nusc, record, "LIDAR_TOP", "LIDAR_TOP", nsweeps=readings, min_distance=0.0
    )
    assert sample.points.shape == (500 * readings, 5) and sample.points.dtype == np.float32
    lidar = nusc.get("sample_data", record["data"]["LIDAR_TOP"])
    global_T_lidar = ego_pose(nusc, lidar) @ mounting(nusc, lidar)
    expected = transform_points(invert(sample.global_T_ego) @ global_T_lidar, theirs.points[:3].T)
    np.testing.assert_allclose(sample.points[:, :3], expected, atol=2e-3)  # theirs are float32 in the global frame
    np.testing.assert_array_equal(sample.points[:, 3], theirs.points[3])
    # CAM_FRONT, whose stamp is the reference, is 35 ms earlier than the LiDAR.
    np.testing.assert_allclose(sample.points[:, 4], lags[0] - 0.035, atol=1e-6)


def test_what_stands_still_is_in_one_place(tiny_nuscenes, tmp_path) -> None:
    """A pole, measured from a moving car in every reading."""
    root = copy_with(tiny_nuscenes, tmp_path)
    nusc = open_nuscenes(root, "v1.0-mini")
    pole = np.array([610.0, 1605.0, 1.0])
    scene = nusc.get("sample", load(root)[3].token)["scene_token"]
    for record in nusc.sample_data:
        if record["fileformat"] == "pcd" and nusc.get("sample", record["sample_token"])["scene_token"] == scene:
            own = transform_points(invert(ego_pose(nusc, record) @ mounting(nusc, record)), pole)
            np.array([*own, 7.0, 0.0], np.float32).tofile(root / record["filename"])
    dataset = load(root, 9.0)
    sample = dataset[3]
    assert sample.points.shape == (4, 5) and set(np.round(sample.points[:, 4] + 0.035, 3)) == {0.0, 0.5, 1.0, 1.5}
    np.testing.assert_allclose(transform_points(sample.global_T_ego, sample.points[:, :3]), [pole] * 4, atol=1e-4)


def test_the_vehicle_is_left_out_where_it_was(tiny_nuscenes) -> None:
    """Of every reading in its own base frame; the car has driven on since."""
    everything = load(tiny_nuscenes, 0.6)[1]
    without = load(tiny_nuscenes, 0.6, (-10.0, 12.0, -8.0, 8.0))[1]
    nusc = load(tiny_nuscenes).nusc
    record = nusc.get("sample_data", nusc.get("sample", everything.token)["data"]["LIDAR_TOP"])
    kept = []
    for age in (0, 1):
        then_T_ref = invert(ego_pose(nusc, record)) @ everything.global_T_ego
        x, y, _ = transform_points(then_T_ref, everything.points[500 * age : 500 * age + 500, :3]).T
        kept.append(~((x >= -10) & (x < 12) & (y >= -8) & (y < 8)))
        record = nusc.get("sample_data", record["prev"]) if age == 0 else record
    assert 0 < len(without.points) < 1000
    np.testing.assert_array_equal(without.points, everything.points[np.concatenate(kept)])


def test_as_many_points_lie_in_the_real_boxes_as_were_annotated(keyframe_root) -> None:
    dataset = load(keyframe_root, hide_unseen=False)
    sample = dataset[0]
    assert len(sample.points) > 30_000
    annotations = [
        dataset.nusc.get("sample_annotation", token) for token in dataset.nusc.get("sample", sample.token)["anns"]
    ]
    to_base = invert(sample.global_T_ego)
    counts = []
    for annotation in annotations:
        center = transform_points(to_base, np.array(annotation["translation"]))
        distance = np.linalg.norm(sample.boxes.centers - center, axis=1)
        if len(distance) and distance.min() < 1e-6:
            box = sample.boxes[[int(distance.argmin())]]
            counts.append((points_inside(sample.points, box), annotation["num_lidar_pts"]))
    inside, annotated = np.array(counts).T
    # Our boxes stand upright in the base frame, which leans a little: single points at the edges may differ.
    assert annotated.sum() > 900 and abs(inside.sum() - annotated.sum()) < 0.03 * annotated.sum()
    assert (np.abs(inside - annotated) <= 3 + 0.06 * annotated).all()


def points_inside(points: np.ndarray, box) -> int:
    c, s = np.cos(box.yaws[0]), np.sin(box.yaws[0])
    local = (points[:, :3] - box.centers[0]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return int((np.abs(local) <= box.sizes[0] / 2).all(axis=1).sum())


def test_a_student_is_given_no_points_and_a_teacher_no_pixels(tiny_nuscenes) -> None:
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    models = share_directory() / "config" / "models"
    student, teacher = (
        open_samples(nusc, choose_samples(nusc), load_config(models / f"{name}.yaml").model)
        for name in ("nano", "teacher_nano")
    )
    seen, felt = student[2], teacher[2]
    assert seen.images.shape == (6, 96, 256, 3) and seen.points.shape == (0, 5)
    assert felt.images.shape == (6, 0, 0, 3) and len(felt.points) > 400
    # One frame and one truth for both.
    for name in ("ego_T_cam", "global_T_ego", "t_ref", "mask"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(felt, name))
    np.testing.assert_array_equal(seen.boxes.centers, felt.boxes.centers)


def test_a_turned_rig_turns_its_points(tiny_nuscenes) -> None:
    sample = load(tiny_nuscenes)[0]
    turned = turn_rig(sample, 0.7)
    np.testing.assert_allclose(
        transform_points(turned.global_T_ego, turned.points[:, :3]),
        transform_points(sample.global_T_ego, sample.points[:, :3]),
        atol=1e-3,
    )
    np.testing.assert_array_equal(turned.points[:, 3:], sample.points[:, 3:])


def copy_with(root, tmp_path, **tables):
    """A copy of a dataset whose tables can be replaced."""
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    for name, change in tables.items():
        path = copy / "v1.0-mini" / f"{name}.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return copy


def test_bad_files_are_one_line_that_names_them(tiny_nuscenes, tmp_path) -> None:
    root = copy_with(tiny_nuscenes, tmp_path)
    dataset = load(root)
    nusc = dataset.nusc
    path = root / nusc.get("sample_data", nusc.get("sample", dataset.tokens[0])["data"]["LIDAR_TOP"])["filename"]
    whole = path.read_bytes()
    for content, says in ((whole[:-3], "9997 bytes"), (b"", "0 bytes")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}: is damaged or no .pcd.bin file: {says}"):
            dataset[0]
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: cannot be read .No such file"):
        dataset[0]
    path.write_bytes(whole)
    assert len(dataset[0].points) == 500 and read_points(path).shape == (500, 5)


def test_a_dataset_without_lidar_and_a_keyframe_without_reading(tiny_nuscenes, tmp_path) -> None:
    def without_first(rows):
        first = min(row["timestamp"] for row in rows if "LIDAR_TOP" in row["filename"])
        return [row for row in rows if not ("LIDAR_TOP" in row["filename"] and row["timestamp"] == first)]

    dataset = load(copy_with(tiny_nuscenes, tmp_path / "a", sample_data=without_first))
    assert dataset[0].points.shape == (0, 5) and len(dataset[1].points) == 500

    def cameras_only(rows):
        return [row for row in rows if row.get("modality", "camera") == "camera"]

    def of_cameras(rows):
        return [row for row in rows if "LIDAR_TOP" not in row["filename"]]

    root = copy_with(tiny_nuscenes, tmp_path / "b", sample_data=of_cameras)
    sensors = root / "v1.0-mini" / "sensor.json"
    lidar = [row["token"] for row in json.loads(sensors.read_text()) if row["modality"] == "lidar"]
    sensors.write_text(json.dumps(cameras_only(json.loads(sensors.read_text()))))
    calibrations = root / "v1.0-mini" / "calibrated_sensor.json"
    rows = [row for row in json.loads(calibrations.read_text()) if row["sensor_token"] not in lidar]
    calibrations.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="has no LiDAR"):
        load(root)
