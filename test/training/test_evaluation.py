"""Detection metrics: equal to the devkit's own evaluation, and right in cases worked out by hand."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import detection_name_to_rel_attributes

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_z
from bevdistill_ros.training.data.nuscenes import choose_samples
from bevdistill_ros.training.evaluation import (
    ERRORS,
    attribute_of,
    evaluate_detections,
    load_ground_truth,
    to_detection_boxes,
    to_global,
)


@pytest.fixture(scope="module")
def tiny(tiny_nuscenes) -> NuScenes:
    return NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False)


@pytest.fixture(scope="module")
def keyframe(keyframe_root) -> NuScenes:
    return NuScenes("v1.0-mini", str(keyframe_root), verbose=False)


def truth_as_boxes(nusc: NuScenes, token: str) -> Boxes:
    """The annotations of a sample that count, as predictions of the global frame with score 1."""
    found = [box for box in load_ground_truth(nusc, [token])[token] if box.num_pts > 0]
    rotations = np.array([box.rotation for box in found])
    return Boxes(
        centers=[box.translation for box in found],
        sizes=[(box.size[1], box.size[0], box.size[2]) for box in found],
        yaws=2 * np.arctan2(rotations[:, 3], rotations[:, 0]),  # good for rotations about z alone
        velocities=np.array([box.velocity for box in found]),
        scores=np.ones(len(found)),
        labels=[DETECTION_NAMES.index(box.detection_name) for box in found],
        class_names=DETECTION_NAMES,
    )


def noisy(boxes: Boxes, seed: int) -> Boxes:
    """Some boxes lost, the others shaken, some of another class, and as many false ones; distinct scores."""
    rng = np.random.default_rng(seed)
    keep = np.flatnonzero(rng.random(len(boxes)) < 0.8)
    n = len(keep)
    index = np.concatenate([keep, rng.integers(0, len(boxes), n)])
    far = np.concatenate([np.full(n, 0.7), np.full(n, 15.0)])
    return Boxes(
        centers=boxes.centers[index] + rng.normal(size=(2 * n, 3)) * far[:, None],
        sizes=boxes.sizes[index] * np.exp(rng.normal(size=(2 * n, 3)) * 0.2),
        yaws=boxes.yaws[index] + rng.normal(size=2 * n) * 0.4,
        velocities=rng.normal(size=(2 * n, 2)),
        scores=rng.permutation(2 * n) / (2.0 * n) * 0.9 + 0.05,
        labels=np.where(rng.random(2 * n) < 0.9, boxes.labels[index], rng.integers(0, 10, 2 * n)),
        class_names=boxes.class_names,
    )


def devkit_figures(nusc: NuScenes, predictions: dict[str, Boxes], split: str, folder) -> dict:
    """What the devkit's own program says of the same predictions."""
    results = {
        token: [box.serialize() for box in to_detection_boxes(token, boxes, 500)]
        for token, boxes in predictions.items()
    }
    path = folder / "results.json"
    path.write_text(json.dumps({"results": results, "meta": {}}))
    config = config_factory("detection_cvpr_2019")
    metrics, _ = DetectionEval(nusc, config, str(path), split, output_dir=str(folder / "out"), verbose=False).evaluate()
    return metrics.serialize()


def assert_same_as_devkit(nusc: NuScenes, split: str, seed: int, folder) -> None:
    tokens = choose_samples(nusc, split)
    predictions = {token: noisy(truth_as_boxes(nusc, token), seed + i) for i, token in enumerate(tokens)}
    ours = evaluate_detections(nusc, tokens, predictions)
    theirs = devkit_figures(nusc, predictions, split, folder)
    assert 0 < theirs["mean_ap"] < 1
    assert ours.mAP == pytest.approx(theirs["mean_ap"], abs=1e-6)
    assert pytest.approx(theirs["nd_score"], abs=1e-6) == ours.NDS
    for key, devkit_key in ERRORS.items():
        assert ours.errors[key] == pytest.approx(theirs["tp_errors"][devkit_key], abs=1e-6)
        for name in DETECTION_NAMES:
            expected = theirs["label_tp_errors"][name][devkit_key]
            assert ours.classes[name].errors[key] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    for name in DETECTION_NAMES:
        assert ours.classes[name].ap == pytest.approx(theirs["label_aps"][name], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_equal_the_devkits_on_the_real_keyframe(keyframe, tmp_path, seed):
    assert_same_as_devkit(keyframe, "mini_train", seed, tmp_path)


def test_figures_equal_the_devkits_with_velocities_and_attributes(tiny, tmp_path):
    assert_same_as_devkit(tiny, "mini_val", 7, tmp_path)


def test_perfect_predictions(tiny):
    tokens = choose_samples(tiny, scenes=["scene-0061"])
    result = evaluate_detections(tiny, tokens, {token: truth_as_boxes(tiny, token) for token in tokens})
    assert result.present == DETECTION_NAMES
    assert result.mAP == result.mAP_present == result.ap_2m == pytest.approx(1.0)
    for key in ("ATE", "ASE", "AOE", "AVE"):
        assert result.errors_present[key] == pytest.approx(0.0, abs=1e-5)
    assert result.errors["AAE"] == pytest.approx(0.0)
    assert result.NDS == result.NDS_present == pytest.approx(1.0, abs=1e-5)
    # 14 detection tracks, one of them in a single sample; the far and the point-less car do not count.
    assert result.ground_truth == 11 * 4 + 1
    assert result.classes["car"].ground_truth == 8
    assert result.classes["pedestrian"].ground_truth == 5
    assert result.classes["pedestrian"].with_velocity == 4
    assert result.classes["barrier"].with_attribute == 0


def test_nothing_found(tiny):
    tokens = choose_samples(tiny, scenes=["scene-0061"])
    result = evaluate_detections(tiny, tokens, {token: Boxes.empty(DETECTION_NAMES) for token in tokens})
    assert result.mAP == result.NDS == result.mAP_present == result.NDS_present == 0.0
    assert result.predictions == 0


def test_a_single_class_gives_the_means_over_it_alone(keyframe):
    """Cars found perfectly, nothing else asked: the others of the keyframe pull the official mean down."""
    token = keyframe.sample[0]["token"]
    truth = truth_as_boxes(keyframe, token)
    cars = truth[truth.labels == 0]
    result = evaluate_detections(keyframe, [token], {token: cars})
    assert result.classes["car"].ap == pytest.approx(dict.fromkeys((0.5, 1.0, 2.0, 4.0), 1.0))
    assert result.mAP == pytest.approx(0.1)
    assert result.mAP_present == result.ap_2m == pytest.approx(1.0 / len(result.present))
    # The keyframe has neither tracks nor attributes: those errors are unknown, not one.
    assert math.isnan(result.errors_present["AVE"])
    assert math.isnan(result.errors_present["AAE"])
    assert result.errors["AVE"] == 1.0
    figures = result.to_json()
    assert figures["errors_present"]["AVE"] is None
    json.dumps(figures, allow_nan=False)


def test_translation_and_orientation_errors_are_those_put_in(tiny):
    tokens = choose_samples(tiny, scenes=["scene-0061"])
    predictions = {}
    for token in tokens:
        truth = truth_as_boxes(tiny, token)
        moved = to_global(truth, make_transform(translation=(0.36, 0.48, 5.0)), 0.0)  # heights do not count
        predictions[token] = Boxes(
            moved.centers,
            moved.sizes,
            moved.yaws + 0.2,
            moved.velocities + (0.6, -0.8),
            moved.scores,
            moved.labels,
            moved.class_names,
        )
    result = evaluate_detections(tiny, tokens, predictions)
    assert result.classes["car"].ap == pytest.approx({0.5: 0.0, 1.0: 1.0, 2.0: 1.0, 4.0: 1.0})
    assert result.errors_present["ATE"] == pytest.approx(0.6, abs=1e-6)
    assert result.errors_present["AOE"] == pytest.approx(0.2, abs=1e-5)
    assert result.errors_present["AVE"] == pytest.approx(1.0, abs=1e-6)


def test_only_the_500_best_boxes_of_a_sample_count(tiny):
    token = choose_samples(tiny, scenes=["scene-0061"])[0]
    truth = truth_as_boxes(tiny, token)
    truth = truth[truth.labels == 0]
    n = 600
    clutter = Boxes(
        centers=np.repeat(truth.centers[:1], n, axis=0) + (20.0, 0.0, 0.0),
        sizes=np.ones((n, 3)),
        yaws=np.zeros(n),
        velocities=np.zeros((n, 2)),
        scores=np.full(n, 0.5),
        labels=np.zeros(n),
        class_names=DETECTION_NAMES,
    )
    merged = [
        np.concatenate([getattr(clutter, f), getattr(truth, f)]) for f in ("centers", "sizes", "yaws", "velocities")
    ]
    labels = np.concatenate([clutter.labels, truth.labels])
    for score, expected in ((0.9, 1.0), (0.1, 0.0)):
        scores = np.concatenate([clutter.scores, np.full(len(truth), score)])
        result = evaluate_detections(tiny, [token], {token: Boxes(*merged, scores, labels, DETECTION_NAMES)})
        assert result.classes["car"].ap[2.0] == pytest.approx(expected, abs=0.02)
    assert len(to_detection_boxes(token, Boxes(*merged, scores, labels, DETECTION_NAMES), 500)) == 500


def test_to_global_turns_and_propagates():
    boxes = Boxes([[10.0, 0.0, 1.0]], [[4.0, 2.0, 1.5]], [0.0], [[2.0, 0.0]], [0.5], [0], ("car",))
    moved = to_global(boxes, make_transform(rotation_z(np.pi / 2), (100.0, 200.0, 0.0)), 0.25)
    np.testing.assert_allclose(moved.centers, [[100.0, 210.5, 1.0]], atol=1e-12)
    np.testing.assert_allclose(moved.velocities, [[0.0, 2.0]], atol=1e-12)
    np.testing.assert_allclose(moved.yaws, [np.pi / 2])


def test_attributes_follow_class_and_speed():
    expected = {
        "car": ("vehicle.moving", "vehicle.parked"),
        "bus": ("vehicle.moving", "vehicle.stopped"),
        "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
        "bicycle": ("cycle.with_rider", "cycle.without_rider"),
        "barrier": ("", ""),
    }
    for name, (moving, still) in expected.items():
        assert attribute_of(name, 2.0) == moving
        assert attribute_of(name, 0.0) == attribute_of(name, math.nan) == still
    for name in DETECTION_NAMES:
        allowed = detection_name_to_rel_attributes(name) or [""]
        assert {attribute_of(name, speed) for speed in (0.0, 10.0)} <= set(allowed)


def test_samples_without_lidar_are_measured_from_the_nearest_pose(tiny, tiny_nuscenes, tmp_path):
    """The same figures without LIDAR_TOP, whose pose is half a millisecond from CAM_BACK_LEFT's."""
    (tmp_path / "v1.0-mini").mkdir()
    for table in (tiny_nuscenes / "v1.0-mini").iterdir():
        shutil.copy(table, tmp_path / "v1.0-mini")
    path = tmp_path / "v1.0-mini" / "sample_data.json"
    path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["fileformat"] == "jpg"]))
    shutil.copytree(tiny_nuscenes / "maps", tmp_path / "maps")
    cameras_only = NuScenes("v1.0-mini", str(tmp_path), verbose=False)
    tokens = choose_samples(tiny, scenes=["scene-0103"])
    predictions = {token: noisy(truth_as_boxes(tiny, token), i) for i, token in enumerate(tokens)}
    assert (
        evaluate_detections(cameras_only, tokens, predictions).to_json()
        == evaluate_detections(tiny, tokens, predictions).to_json()
    )


def test_a_class_that_the_benchmark_lacks_is_named(tiny):
    token = tiny.sample[0]["token"]
    with pytest.raises(UserError, match="class 'tree' is not one of nuScenes' detection classes car, truck"):
        evaluate_detections(tiny, [token], {token: Boxes.empty(("car", "tree"))})


def test_wrong_predictions_are_refused(tiny):
    first, second = choose_samples(tiny, scenes=["scene-0061"])[:2]
    with pytest.raises(ValueError, match="1 of 2 samples have no predictions"):
        evaluate_detections(tiny, [first, second], {first: Boxes.empty(DETECTION_NAMES)})
    bad = Boxes([[np.nan, 0, 0]], [[1, 1, 1]], [0], [[0, 0]], [0.5], [0], DETECTION_NAMES)
    with pytest.raises(ValueError, match="finite"):
        evaluate_detections(tiny, [first], {first: bad})


def test_turning_the_world_changes_nothing(tiny):
    """``to_global`` of boxes in the base frame and back: the figures of the truth seen from the ego are perfect."""
    tokens = choose_samples(tiny, scenes=["scene-0061"])
    global_T_ego = make_transform(rotation_z(1.0), (600.0, 1600.0, 0.0))
    predictions = {}
    for token in tokens:
        in_ego = truth_as_boxes(tiny, token).transformed(invert(global_T_ego)).propagated(-0.05)
        predictions[token] = to_global(in_ego, global_T_ego, 0.05)
    assert evaluate_detections(tiny, tokens, predictions).errors_present["ATE"] == pytest.approx(0.0, abs=1e-6)
