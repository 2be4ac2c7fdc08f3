"""The figures of a demo, of made-up sets over a small dataset whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bevdistill_ros.config import CLASS_NAMES, ImageConfig
from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_from_quaternion
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.demo import figures
from bevdistill_ros.training.demo.records import DetectedSet, SetStatus
from bevdistill_ros.training.demo.summary import summarise, table


@pytest.fixture(scope="module")
def samples(tiny_nuscenes) -> NuScenesSamples:
    nusc = open_nuscenes(tiny_nuscenes)
    tokens = choose_samples(nusc, scenes=["scene-0061"])
    return NuScenesSamples(nusc, tokens, CLASS_NAMES, Preprocessor(ImageConfig(32, 64)))


def truth_as_found(samples: NuScenesSamples, index: int, camera: str = "CAM_FRONT") -> DetectedSet:
    """A detector that is always right, whose boxes have the time of one camera."""
    sample = samples.geometry(index)
    record = samples.records(index)[camera]
    pose = samples.nusc.get("ego_pose", record["ego_pose_token"])
    w, x, y, z = pose["rotation"]
    global_T_then = make_transform(rotation_from_quaternion((x, y, z, w)), pose["translation"])
    stamp = record["timestamp"] * 1000
    boxes = sample.boxes.transformed(sample.global_T_ego).propagated((stamp - sample.t_ref) * 1e-9)
    return DetectedSet(stamp, boxes.transformed(invert(global_T_then)), camera != "CAM_FRONT")


def status(**changes) -> SetStatus:
    values = {"published": True, "stages_ms": {}, "latency_ms": 0.0}
    return SetStatus(**{**values, "superseded_sets": 0, "failed_sets": 0, "dropped_images": 0, **changes})


def scored(scores: list[float]) -> Boxes:
    n = len(scores)
    return Boxes(
        np.zeros((n, 3)), np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), scores, np.zeros(n, int), CLASS_NAMES
    )


def test_a_detector_that_is_always_right_has_the_best_figures(samples):
    sets = [truth_as_found(samples, index) for index in range(len(samples))]
    keyframes = figures.at_keyframes(samples, sets)
    result = figures.score(samples, keyframes)
    known = {name: ap for name, ap in figures.average_precisions(result).items() if ap is not None}
    assert len(known) > 5 and set(known.values()) == {1.0}


def test_a_keyframe_without_a_set_counts_as_nothing_found(samples):
    sets = [truth_as_found(samples, index) for index in range(len(samples))]
    keyframes = figures.at_keyframes(samples, sets[: len(sets) // 2])
    assert [keyframe.boxes is not None for keyframe in keyframes] == [True, True, False, False]
    ap = figures.average_precisions(figures.score(samples, keyframes))
    # Half of what is there is found, each without a mistake; the benchmark leaves out the first tenth of the recall.
    assert ap["car"] == pytest.approx((0.5 - 0.1) / 0.9, abs=0.02)
    nothing = figures.average_precisions(figures.score(samples, figures.at_keyframes(samples, [])))
    assert {value for value in nothing.values() if value is not None} == {0.0}


def test_boxes_of_another_camera_s_time_are_brought_to_the_keyframe(samples):
    found = truth_as_found(samples, 1, "CAM_BACK")
    keyframe = figures.at_keyframes(samples, [found])[1]
    assert found.stamp != keyframe.sample.t_ref
    here, truth = keyframe.in_base(), keyframe.sample.boxes
    np.testing.assert_allclose(here.centers, truth.centers, atol=1e-4)
    np.testing.assert_allclose(np.cos(here.yaws - truth.yaws), 1.0, atol=1e-6)
    shift = np.abs(found.boxes.centers - truth.centers).max()
    assert shift > 0.01  # else the above would hold by itself


def test_counts_are_of_what_was_received():
    sets = [DetectedSet(1, scored([0.9, 0.3, 0.2]), False), DetectedSet(2, scored([]), True)]
    statuses = [status(), status(superseded_sets=3, failed_sets=1, dropped_images=2)]
    assert figures.counts(sets, statuses, 0.3) == {
        "sets": 2, "partial_sets": 1, "superseded_sets": 3, "failed_sets": 1, "dropped_images": 2, "detections": 2,
    }  # fmt: skip
    assert set(figures.counts([], [], 0.3).values()) == {0}


def test_latencies_are_percentiles_over_the_sets_with_boxes():
    statuses = [status(stages_ms={"network": float(i)}, latency_ms=2.0 * i) for i in range(101)]
    statuses.append(status(published=False, stages_ms={"network": 1e6}, latency_ms=1e6))
    found = figures.latencies(statuses)
    assert found == {"network": {"p50": 50.0, "p99": 99.0}, "end_to_end": {"p50": 100.0, "p99": 198.0}}
    assert figures.latencies([]) == {}


def test_summary_and_table_of_nothing(samples):
    keyframes = figures.at_keyframes(samples, [])
    summary = summarise(48, [], [], keyframes, figures.score(samples, keyframes), 0.3)
    assert (summary["frames"], summary["sets"], summary["keyframes"], summary["keyframes_with_set"]) == (48, 0, 4, 0)
    assert summary["latency_ms"] == {} and summary["ap_2m"]["car"] == 0.0
    assert "0 sets of 48 frames" in table(summary)


def test_the_table_says_so_where_the_detector_was_too_slow(samples):
    sets = [truth_as_found(samples, index) for index in range(len(samples))]

    def shown(received: list[DetectedSet], superseded: int) -> str:
        keyframes = figures.at_keyframes(samples, received)
        result = figures.score(samples, keyframes)
        return table(summarise(4, received, [status(superseded_sets=superseded)], keyframes, result, 0.3))

    assert "note" not in shown(sets, 0)
    assert "no boxes came of 1 of the 4 keyframes" in shown(sets[1:], 0) and "--rate" not in shown(sets[1:], 0)
    assert "a smaller --rate" in shown(sets[1:], 1)
