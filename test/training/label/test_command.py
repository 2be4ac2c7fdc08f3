"""`label` whole: what a teacher finds becomes a version of the dataset that nuscenes-devkit opens and students learn from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, rotated_iou_bev, wrap_angle
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.doubtful import read_doubtful
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, Sample, choose_samples, open_nuscenes
from bevdistill_ros.training.evaluation import to_global
from bevdistill_ros.training.teacher import Teacher

pytest.importorskip("stonesoup")

from bevdistill_ros.cli import main
from bevdistill_ros.training.label import run

UNLABELLED = "v1.0-bags"


class Oracle(Teacher):
    """Knows the true boxes of a dataset; sees them with noise, back to front now and then, and one too many.

    Args:
        root: dataset with the true boxes in its version v1.0-mini.
    """

    def __init__(self, root: Path, noise: float = 0.1) -> None:
        self.config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model
        self.class_names, self.cameras, self.device = self.config.classes, (), "cpu"
        nusc = open_nuscenes(root, "v1.0-mini")
        tokens = choose_samples(nusc)
        samples = NuScenesSamples(nusc, tokens, self.class_names, None)
        self.truth = {token: samples.geometry(index).boxes for index, token in enumerate(tokens)}
        self.noise, self.calls = noise, 0

    def __call__(self, sample: Sample, score_threshold: float = 0.0) -> Boxes:
        self.calls += 1
        assert len(sample.points) > 400  # a teacher is shown the points
        rng = np.random.default_rng(int(sample.token[:8], 16))
        true = self.truth[sample.token]
        n = len(true)
        ghost = [[*rng.uniform(-50, -30, 2), 0.8]]
        found = Boxes(
            np.concatenate([true.centers + rng.normal(0, self.noise, (n, 3)), ghost]),
            np.concatenate([true.sizes * rng.uniform(0.95, 1.05, (n, 3)), [[4.0, 2.0, 1.5]]]),
            np.append(true.yaws + np.where(rng.random(n) < 0.2, math.pi, 0.0), 0.0),
            np.zeros((n + 1, 2)),  # a single reading tells nothing of velocities
            np.append(rng.uniform(0.6, 0.9, n), 0.35),
            np.append(true.labels, 0),
            self.class_names,
        )
        return found[found.scores >= score_threshold]


@pytest.fixture
def root(tiny_nuscenes, tmp_path) -> Path:
    """The tiny dataset with a second version that has no annotations."""
    root = tmp_path / "data"
    root.mkdir()
    for folder in ("samples", "maps"):
        (root / folder).symlink_to(tiny_nuscenes / folder)
    for version in ("v1.0-mini", UNLABELLED):
        shutil.copytree(tiny_nuscenes / "v1.0-mini", root / version)
    for table in ("sample_annotation", "instance", "category"):
        (root / UNLABELLED / f"{table}.json").write_text("[]")
    (root / UNLABELLED / "splits.json").write_text(json.dumps({"bags": ["scene-0061", "scene-0103"]}))
    return root


@pytest.fixture
def oracle(root, monkeypatch) -> Oracle:
    oracle = Oracle(root)
    monkeypatch.setattr(run, "make_detector", lambda *_: oracle)
    return oracle


def label(root: Path, checkpoint: Path, *more: str, version: str = UNLABELLED, output: str = "v1.0-labels") -> int:
    return main(
        ["label", str(checkpoint), "--data", str(root), "--version", version, "--device", "cpu"]
        + (["--output", output] if output else [])
        + list(more)
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_labels_are_the_true_boxes_with_velocities(root, oracle, tiny_checkpoint, tmp_path, capsys):
    before = snapshot(root / UNLABELLED)
    report_file = tmp_path / "report.json"
    assert label(root, tiny_checkpoint, "--split", "bags", "--json", str(report_file)) == 0
    assert snapshot(root / UNLABELLED) == before
    assert not list(root.glob(".*")) and sorted(p.name for p in root.iterdir() if "v1.0" in p.name) == [
        UNLABELLED,
        "v1.0-labels",
        "v1.0-mini",
    ]
    nusc = NuScenes("v1.0-labels", str(root), verbose=False)
    tokens = choose_samples(nusc, "bags")
    labels = NuScenesSamples(nusc, tokens, oracle.class_names, None)
    truth = NuScenesSamples(open_nuscenes(root, "v1.0-mini"), tokens, oracle.class_names, None)
    moving = 0
    for index in range(len(tokens)):
        found, true = (s.geometry(index) for s in (labels, truth))
        found, true = (to_global(s.boxes, s.global_T_ego, (s.timestamp - s.t_ref) * 1e-9) for s in (found, true))
        distance = np.linalg.norm(found.centers[:, None] - true.centers[None], axis=-1)
        distance[found.labels[:, None] != true.labels[None]] = np.inf
        nearest = distance.argmin(axis=0)
        assert (distance.min(axis=0) < 0.5).all()  # every true box
        assert len(found) == len(true)  # and no ghost
        found = found[nearest]
        np.testing.assert_allclose(found.sizes, true.sizes, rtol=0.05)
        known = np.isfinite(true.velocities).all(axis=1) & (true.labels < 8)
        assert (np.linalg.norm(found.velocities - true.velocities, axis=1)[known] < 0.8).all()
        fast = known & (np.linalg.norm(true.velocities, axis=1) > 1)
        assert np.abs(wrap_angle(found.yaws - true.yaws))[fast].max() < 0.3
        still = known & ~true.velocities.any(axis=1)
        assert not found.velocities[still].any()
        moving += int(fast.sum())
    assert moving >= 4 * len(tokens)

    report = json.loads(report_file.read_text())
    assert report["scenes"] == 2 and report["scenes_left"] == 0 and report["samples"] == 8
    # Three cars and the far one; that without points is not known to the oracle. The child is in one sample only.
    assert report["classes"]["car"] | {"dropped": 0} == {
        "objects": 6, "boxes": 24, "filled": 0, "without_points": 0, "still": 4, "doubtful": 8, "dropped": 0
    }  # fmt: skip
    assert report["classes"]["pedestrian"]["boxes"] == 10
    assert report["classes"]["car"]["dropped"] == {"seen briefly and weakly": 8}
    for index in range(len(tokens)):  # each ghost is remembered where it was seen
        sample = labels.geometry(index)
        (ghost,) = sample.doubtful.centers
        assert -50 < ghost[:2].min() <= ghost[:2].max() < -30 and sample.doubtful.names == ["car"]
        np.testing.assert_allclose(sample.doubtful.sizes, [[4.0, 2.0, 1.5]])
    assert not any(len(truth.geometry(index).doubtful) for index in range(len(tokens)))
    assert "labels of 8 samples in 2 scenes" in capsys.readouterr().out


def test_rows_are_as_the_devkit_wants_them(root, oracle, tiny_checkpoint):
    assert label(root, tiny_checkpoint) == 0
    nusc = NuScenes("v1.0-labels", str(root), verbose=False)
    for instance in nusc.instance:
        chain, token = [], instance["first_annotation_token"]
        while token:
            chain.append(nusc.get("sample_annotation", token))
            token = chain[-1]["next"]
        assert len(chain) == instance["nbr_annotations"] and chain[-1]["token"] == instance["last_annotation_token"]
        assert {row["instance_token"] for row in chain} == {instance["token"]}
        times = [nusc.get("sample", row["sample_token"])["timestamp"] for row in chain]
        assert times == sorted(set(times)) and len({tuple(row["size"]) for row in chain}) == 1
        assert 0.6 <= instance["score"] <= 0.9
    names = {
        nusc.get("attribute", row["attribute_tokens"][0])["name"]
        for row in nusc.sample_annotation
        if row["attribute_tokens"]
    }
    assert {"vehicle.moving", "vehicle.parked", "pedestrian.moving", "cycle.with_rider"} <= names
    (child,) = [i for i in nusc.instance if i["nbr_annotations"] == 1][:1]
    assert not nusc.get("sample_annotation", child["first_annotation_token"])["attribute_tokens"]
    sample = nusc.get("sample", nusc.sample[0]["token"])
    _, drawn, _ = nusc.get_sample_data(sample["data"]["CAM_FRONT"])
    assert drawn and all(row["num_lidar_pts"] >= 1 for row in nusc.sample_annotation if row["score"] is not None)


def test_students_and_teachers_train_on_them(root, oracle, tiny_checkpoint, tmp_path):
    assert label(root, tiny_checkpoint) == 0
    common = ["--data", str(root), "--version", "v1.0-labels", "--split", "bags", "--device", "cpu"]
    sets = ["training.steps=1", "training.batch_size=1", "model.grid.cell=3.2", "model.head.channels=16"]
    student = [*sets, "model.backbone.width=8", "model.image.height=64", "model.image.width=96"]
    teacher = [*sets, "model.pillars={cell: 1.6, channels: [8]}",
               "model.second={strides: [2], layers: [1], channels: [16], channels_out: 16}"]  # fmt: skip
    for name, overrides in (("nano", student), ("teacher_nano", teacher)):
        options = [f"--set={value}" for value in overrides]
        assert main(["train", "--config", name, "--output", str(tmp_path / name), *common, *options]) == 0


def test_it_goes_on_where_it_was_interrupted(root, oracle, tiny_checkpoint, monkeypatch):
    assert label(root, tiny_checkpoint, output="v1.0-whole") == 0
    assert oracle.calls == 8
    seen = Oracle.__call__

    def fails(self, sample, score_threshold=0.0):
        if self.calls == 8 + 5:  # in the middle of the second scene
            raise KeyboardInterrupt
        return seen(self, sample, score_threshold)

    monkeypatch.setattr(Oracle, "__call__", fails)
    assert label(root, tiny_checkpoint) == 1
    assert not (root / "v1.0-labels").exists()
    monkeypatch.setattr(Oracle, "__call__", seen)
    oracle.calls = 0
    assert label(root, tiny_checkpoint) == 0
    assert oracle.calls == 4
    whole, parts = snapshot(root / "v1.0-whole"), snapshot(root / "v1.0-labels")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if whole[name] != parts[name]] == ["label.json"]  # its name and seconds

    oracle.calls = 0
    assert (
        label(root, tiny_checkpoint, "--score", "0.5", output="v1.0-other") == 0
    )  # with other settings it is all made anew
    assert oracle.calls == 8


def test_nothing_that_is_there_is_overwritten(root, oracle, tiny_checkpoint, capsys):
    assert label(root, tiny_checkpoint, "--score", "0.4") == 0
    made = snapshot(root / "v1.0-labels")
    calls = oracle.calls
    capsys.readouterr()
    assert label(root, tiny_checkpoint, "--score", "0.4") == 0
    assert "is there already, made with the same settings" in capsys.readouterr().out and oracle.calls == calls
    assert label(root, tiny_checkpoint, "--score", "0.5") == 1
    assert "v1.0-labels is there already" in capsys.readouterr().err
    assert label(root, tiny_checkpoint, output="v1.0-mini") == 1
    assert "v1.0-mini is there already and was not made" in capsys.readouterr().err
    for name in ("../elsewhere", ".hidden", "a/b"):
        assert label(root, tiny_checkpoint, output=name) == 2
        assert f"--output {name}: a version is the name of a folder" in capsys.readouterr().err
    assert snapshot(root / "v1.0-labels") == made


def test_other_scenes_keep_what_they_have(root, oracle, tiny_checkpoint, capsys):
    assert label(root, tiny_checkpoint, "--scenes", "scene-0103", version="v1.0-mini") == 0
    assert "1 other scenes keep the annotations" in capsys.readouterr().out
    truth, nusc = (NuScenes(version, str(root), verbose=False) for version in ("v1.0-mini", "v1.0-labels"))
    scene = {sample["token"]: nusc.get("scene", sample["scene_token"])["name"] for sample in nusc.sample}
    kept = [row for row in nusc.sample_annotation if scene[row["sample_token"]] == "scene-0061"]
    assert kept == [row for row in truth.sample_annotation if scene[row["sample_token"]] == "scene-0061"]
    assert len(nusc.sample_annotation) > len(kept) and all(
        "score" in row for row in nusc.sample_annotation if scene[row["sample_token"]] == "scene-0103"
    )
    assert {row["token"] for row in nusc.instance} >= {row["instance_token"] for row in nusc.sample_annotation}


def test_doubt_of_scenes_that_are_not_labelled_stays(root, oracle, tiny_checkpoint):
    assert label(root, tiny_checkpoint, "--scenes", "scene-0061") == 0
    first = read_doubtful(root / "v1.0-labels")
    more = ["--scenes", "scene-0103", "--score", "0.4", "--doubt", "1"]  # nothing of the other scene is doubtful then
    assert label(root, tiny_checkpoint, *more, version="v1.0-labels", output="v1.0-both") == 0
    assert len(first) == 4 and read_doubtful(root / "v1.0-both") == first
    for text, says in (("[1]", "cannot be read"), ("{", "cannot be read"), ('[{"sample_token": "a"}]', "translation")):
        (root / "v1.0-both" / "doubtful.json").write_text(text)
        with pytest.raises(UserError, match=f"doubtful.json: .*{says}.*label again"):
            NuScenesSamples(open_nuscenes(root, "v1.0-both"), [], oracle.class_names, None)


def test_thresholds_are_chosen_on_labelled_scenes_and_used(root, oracle, tiny_checkpoint, tmp_path, capsys):
    file = tmp_path / "thresholds.json"
    calibrate = ["--scenes", "scene-0061", "--calibrate", str(file)]
    assert label(root, tiny_checkpoint, *calibrate, version="v1.0-mini", output="") == 0
    written = json.loads(file.read_text())
    assert all(0.6 <= score <= 0.9 for score in written["scores"].values())  # the ghosts of 0.35 are below
    assert written["classes"]["car"]["precision"] == written["classes"]["car"]["recall"] == 1
    assert not (root / "v1.0-labels").exists()
    options = ["--thresholds", str(file), "--scores", "bus=0.95"]
    assert label(root, tiny_checkpoint, *options, "--json", str(tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["thresholds"] == {**written["scores"], "bus": 0.95}
    assert report["classes"]["bus"]["boxes"] == 0 and report["classes"]["car"]["boxes"] == 24
    capsys.readouterr()
    assert label(root, tiny_checkpoint, *calibrate, output="") == 1
    assert "have no true boxes, which --calibrate needs" in capsys.readouterr().err


def test_wrong_usage(root, tiny_checkpoint, capsys):
    for options, words in (
        (["--output", "v", "--precision", "0.9"], "--precision belongs to --calibrate"),
        (["--calibrate", "f", "--scores", "car=0.4"], "--calibrate chooses the thresholds"),
        (["--output", "v", "--score", "1.5"], "not above 0 and at most 1"),
        (["--output", "v", "--scores", "car"], "car: write CLASS=SCORE"),
        (["--output", "v", "--scores", "car=much"], "car=much: write CLASS=SCORE"),
        (["--output", "v", "--scores", "car=0"], "above 0 and at most 1"),
        (["--output", "v", "--scores", "car=nan"], "above 0 and at most 1"),
        ([], "required"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["label", str(tiny_checkpoint), "--data", str(root), *options])
        assert error.value.code == 2 and words in capsys.readouterr().err


def test_a_camera_student_may_be_the_teacher(root, tiny_checkpoint):
    """Of random weights: its boxes are anywhere, but they are rows like any."""
    assert label(root, tiny_checkpoint, "--score", "0.05", "--scenes", "scene-0103") == 0
    nusc = NuScenes("v1.0-labels", str(root), verbose=False)
    samples = NuScenesSamples(nusc, choose_samples(nusc, None, ["scene-0103"]), Oracle(root).class_names, None)
    for index in range(len(samples)):
        boxes = samples.geometry(index).boxes
        overlaps = rotated_iou_bev(boxes, boxes)
        np.fill_diagonal(overlaps, 0)
        assert not len(boxes) or overlaps.max() < 0.25
