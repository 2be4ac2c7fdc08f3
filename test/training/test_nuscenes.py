"""The nuScenes-schema loader: t_ref, calibration and boxes against the tables, and against the real pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from bevdistill_ros.config import CLASS_NAMES, ImageConfig
from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.geometry import Camera, invert, transform_points, wrap_angle
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data.nuscenes import (
    NuScenesSamples,
    choose_samples,
    find_version,
    missing_scenes,
    note_missing_scenes,
    open_nuscenes,
    scenes_of_split,
    turn_rig,
)


def load(root, **options) -> NuScenesSamples:
    nusc = open_nuscenes(root, "v1.0-mini")
    return NuScenesSamples(nusc, choose_samples(nusc), CLASS_NAMES, Preprocessor(ImageConfig(96, 256)), **options)


def test_boxes_project_where_the_devkit_puts_them(keyframe_root) -> None:
    """Our chain (global -> ego(t_ref) -> camera at its own time -> new K) against the devkit's own, for every camera."""
    dataset = load(keyframe_root, hide_unseen=False)
    nusc, sample = dataset.nusc, dataset[0]
    compared = 0
    for i, channel in enumerate(dataset.cameras):
        token = nusc.get("sample", sample.token)["data"][channel]
        _, devkit_boxes, K = nusc.get_sample_data(token)
        centers = np.array([box.center for box in devkit_boxes])
        theirs = Camera(K, 1600, 900).project(centers)[0]
        # Their pixels in our image: scaled by 0.16 about pixel edges; the principal point goes to 0.3 of 96 rows, if it can.
        top = min((K[1, 2] + 0.5) * 0.16 - 0.3 * 96, 144 - 96)
        theirs = (theirs + 0.5) * 0.16 - 0.5 - [0, top]
        ours = Camera(sample.K[i], 256, 96).project(
            transform_points(invert(sample.ego_T_cam[i]), sample.boxes.centers)
        )[0]
        distance = np.linalg.norm(theirs[:, None] - ours[None], axis=-1)
        assert (np.nanmin(distance, axis=1) < 1e-3).all()
        compared += len(theirs)
    assert compared > 50


def test_reference_time_and_ego_motion(tiny_nuscenes) -> None:
    dataset = load(tiny_nuscenes)
    nusc, sample = dataset.nusc, dataset[1]
    record = nusc.get("sample_data", nusc.get("sample", sample.token)["data"]["CAM_FRONT"])
    assert sample.t_ref == record["timestamp"] * 1000 != sample.timestamp
    for i, channel in enumerate(dataset.cameras):
        own = nusc.get("sample_data", nusc.get("sample", sample.token)["data"][channel])
        pose, mounting = (
            nusc.get("ego_pose", own["ego_pose_token"]),
            nusc.get("calibrated_sensor", own["calibrated_sensor_token"]),
        )
        p = np.array([0.3, -0.2, 8.0])
        expected = Quaternion(pose["rotation"]).rotate(
            Quaternion(mounting["rotation"]).rotate(p) + mounting["translation"]
        )
        assert np.allclose(
            transform_points(sample.global_T_ego @ sample.ego_T_cam[i], p), expected + pose["translation"], atol=1e-9
        )


def test_boxes_are_at_the_reference_time(tiny_nuscenes) -> None:
    dataset = load(tiny_nuscenes)
    nusc, sample = dataset.nusc, dataset[1]
    annotations = [nusc.get("sample_annotation", t) for t in nusc.get("sample", sample.token)["anns"]]
    car = next(
        a
        for a in annotations
        if a["category_name"] == "vehicle.car" and np.linalg.norm(nusc.box_velocity(a["token"])) > 1
    )
    velocity = nusc.box_velocity(car["token"])
    moved = np.array(car["translation"]) + velocity * (sample.t_ref - sample.timestamp) * 1e-9
    box = Box(moved, car["size"], Quaternion(car["rotation"]), velocity=tuple(velocity))
    pose = invert(sample.global_T_ego)
    in_ego = transform_points(pose, box.center)
    i = np.argmin(np.linalg.norm(sample.boxes.centers - in_ego, axis=1))
    assert np.allclose(sample.boxes.centers[i], in_ego, atol=1e-6) and sample.boxes.names[i] == "car"
    assert np.allclose(sample.boxes.sizes[i], [car["size"][1], car["size"][0], car["size"][2]])
    assert np.linalg.norm(sample.boxes.velocities[i]) == pytest.approx(np.linalg.norm(velocity[:2]))
    # The devkit's corners of the same box, as a set, in the base frame.
    theirs = transform_points(pose, box.corners().T)
    ours = sample.boxes.corners()[i]
    assert np.allclose(np.sort(np.linalg.norm(theirs[:, None] - ours[None], axis=-1).min(axis=1)), 0, atol=1e-3)


def test_a_missing_camera_is_masked_and_the_reference_moves_on(tiny_nuscenes) -> None:
    dataset = load(tiny_nuscenes)
    data = dataset.nusc.get("sample", dataset.tokens[0])["data"]
    removed = data.pop("CAM_FRONT")
    try:
        sample = dataset[0]
    finally:
        data["CAM_FRONT"] = removed
    assert sample.mask.tolist() == [c != "CAM_FRONT" for c in dataset.cameras]
    assert sample.t_ref in {
        dataset.nusc.get("sample_data", t)["timestamp"] * 1000 for c, t in data.items() if c.startswith("CAM")
    }


def test_unseen_boxes_are_hidden(tiny_nuscenes) -> None:
    hidden, shown = load(tiny_nuscenes)[0], load(tiny_nuscenes, hide_unseen=False)[0]
    assert len(hidden.boxes) < len(shown.boxes)


def test_turning_the_rig_turns_its_world(tiny_nuscenes) -> None:
    sample = load(tiny_nuscenes)[0]
    turned = turn_rig(sample, 0.7)
    # In the cameras nothing changes, in the world neither.
    for a, b in zip(sample.ego_T_cam, turned.ego_T_cam, strict=True):
        old, new = (transform_points(invert(T), s.boxes.corners()) for T, s in ((a, sample), (b, turned)))
        assert np.allclose(old, new, atol=1e-9)
    back = turned.boxes.transformed(turned.global_T_ego)
    assert np.allclose(back.centers, sample.boxes.transformed(sample.global_T_ego).centers)
    assert np.allclose(wrap_angle(turned.boxes.yaws - sample.boxes.yaws - 0.7), 0)


def test_choosing_samples(tiny_nuscenes) -> None:
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    assert len(choose_samples(nusc)) == 8 and len(choose_samples(nusc, split="mini_val")) == 4
    assert choose_samples(nusc, scenes=["scene-0103"]) == choose_samples(nusc, split="mini_val")
    with pytest.raises(UserError, match="--split nope: not one of"):
        choose_samples(nusc, split="nope")
    with pytest.raises(UserError, match="no scene 'scene-9'; it has scene-0061"):
        choose_samples(nusc, scenes=["scene-9"])


def test_a_dataset_may_have_splits_of_its_own(tiny_nuscenes, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes, root)
    own = root / "v1.0-mini" / "splits.json"
    own.write_text(json.dumps({"held_out": ["scene-0103", "scene-9999"], "mini_val": ["scene-0061"]}))
    nusc = open_nuscenes(root)
    assert choose_samples(nusc, "held_out") == choose_samples(nusc, scenes=["scene-0103"])
    assert choose_samples(nusc, "held_out") == choose_samples(nusc, "mini_val")  # an official name stays what it is
    assert missing_scenes(nusc, "held_out") == ["scene-9999"] and missing_scenes(nusc, None) == []
    note_missing_scenes(nusc, "held_out")
    assert capsys.readouterr().out == "note: 1 of the 2 scenes of held_out are not in this dataset\n"
    note_missing_scenes(nusc, None)
    assert capsys.readouterr().out == ""
    with pytest.raises(
        UserError, match=r"--split nope: not one of nuScenes' splits .*mini_train.*splits\.json, held_out"
    ):
        choose_samples(nusc, "nope")
    # What the devkit itself reads as a custom split is what is read here.
    assert get_scenes_of_split("held_out", nusc) == scenes_of_split(nusc, "held_out")
    for content, says in (
        ("[", "cannot be read as JSON"),
        ('{"a": "scene-1"}', "must be an object of lists"),
        ("[]", "object"),
    ):
        own.write_text(content)
        with pytest.raises(UserError, match=rf"splits\.json: .*{says}"):
            choose_samples(nusc, "held_out")
    own.unlink()
    with pytest.raises(UserError, match=r"held_out: .*none of its own in .*splits\.json"):
        choose_samples(nusc, "held_out")


def test_the_only_version_is_found(tiny_nuscenes, tmp_path) -> None:
    assert open_nuscenes(tiny_nuscenes).version == "v1.0-mini"
    with pytest.raises(UserError, match="has no nuScenes version"):
        open_nuscenes(tmp_path)
    for name in ("v1.0-mini", "v1.0-own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sample.json").write_text("[]")
    with pytest.raises(UserError, match=r"several versions, v1\.0-mini, v1\.0-own: name one with --version"):
        open_nuscenes(tmp_path)


def test_versions_that_are_being_written_are_none(tiny_nuscenes, tmp_path) -> None:
    for name in ("v1.0-mini", ".v1.0-world.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sample.json").write_text("[]")
    assert find_version(tmp_path) == find_version(tmp_path, "v1.0-mini") == "v1.0-mini"
    with pytest.raises(UsageError, match=r"--version \.v1\.0-world\.new: begins with a dot"):
        find_version(tmp_path, ".v1.0-world.new")
    with pytest.raises(UserError, match="has no other/sample.json; it has v1.0-mini$"):
        find_version(tmp_path, "other")
    (tmp_path / "v1.0-mini" / "sample.json").unlink()
    with pytest.raises(UserError, match="has no nuScenes version"):
        find_version(tmp_path)


def test_other_folders_than_the_datasets_are_explained(tiny_nuscenes, tmp_path, monkeypatch) -> None:
    for version in (None, "v1.0-mini"):
        with pytest.raises(UserError, match=r"/nope: there is no such folder$"):
            open_nuscenes(tmp_path / "nope", version)
        with pytest.raises(
            UserError, match=rf"is a version's own folder; name the dataset's, which holds it: {tiny_nuscenes}$"
        ):
            open_nuscenes(tiny_nuscenes / "v1.0-mini", version)
    monkeypatch.chdir(tiny_nuscenes)
    with pytest.raises(UserError, match=rf"^v1.0-mini: is a version's own folder; .*: {tiny_nuscenes}$"):
        open_nuscenes("v1.0-mini")


def test_bad_datasets_are_named(tiny_nuscenes, tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no v1\.0-trainval/sample\.json; it has v1\.0-mini"):
        open_nuscenes(tiny_nuscenes, "v1.0-trainval")
    with pytest.raises(UserError, match="nor any other"):
        open_nuscenes(tmp_path, "v1.0-mini")
    with pytest.raises(UserError, match="no camera 'CAM_TOP'"):
        load(tiny_nuscenes, cameras=["CAM_TOP"])
    copy = tmp_path / "copy"
    shutil.copytree(tiny_nuscenes, copy)
    dataset = load(copy)
    record = dataset.nusc.get("sample_data", dataset.nusc.get("sample", dataset.tokens[0])["data"]["CAM_BACK"])
    (copy / record["filename"]).write_bytes(b"\xff\xd8 cut short")
    with pytest.raises(UserError, match=rf"{record['filename']}.*decoded"):
        dataset[0]
    (copy / record["filename"]).unlink()
    with pytest.raises(UserError, match=rf"{record['filename']}: cannot be read"):
        dataset[0]
