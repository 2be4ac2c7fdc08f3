"""The benchmark `oracles`: each mends one kind of error and no other."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("nuscenes")

from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox

from bevdistill_ros.training.evaluation import ComparedBoxes, evaluate_boxes


@pytest.fixture(scope="module")
def oracles(load_benchmark):
    return load_benchmark("oracles")


def box(x: float, name: str = "car", score: float = 0.9, turned: bool = False) -> DetectionBox:
    return DetectionBox(
        sample_token="sample",
        translation=(x, 0.0, 0.0),
        size=(2.0, 4.0, 1.5),
        rotation=(0.0, 0.0, 0.0, 1.0) if turned else (1.0, 0.0, 0.0, 0.0),
        velocity=(0.0, 0.0),
        ego_translation=(x, 0.0, 0.0),
        num_pts=5,
        detection_name=name,
        detection_score=score,
        attribute_name="vehicle.parked",
    )


def compared(truth: list[DetectionBox], predicted: list[DetectionBox]) -> ComparedBoxes:
    sides = []
    for boxes in (truth, predicted):
        side = EvalBoxes()
        side.add_boxes("sample", boxes)
        sides.append(side)
    return ComparedBoxes(*sides)


def car_ap(boxes: ComparedBoxes) -> float:
    return evaluate_boxes(boxes).classes["car"].mean_ap


TRUTH = [box(10.0, score=-1.0), box(30.0, score=-1.0)]
ERRORS = {
    "places": [box(13.0), box(32.5)],
    "ranks": [box(10.0, score=0.2), box(30.0, score=0.3), box(60.0, score=0.9)],
    "classes": [box(10.0, "truck"), box(30.0)],
    "alarms far from everything": [box(10.0, score=0.4), box(30.0, score=0.3), box(60.0, score=0.9)],
    "misses": [box(10.0)],
    "headings, velocities, attributes": [box(10.0, turned=True), box(30.0, score=0.8)],
}


@pytest.mark.parametrize("kind", ERRORS)
def test_each_mends_its_kind_of_error(oracles, kind):
    before = compared(copy.deepcopy(TRUTH), ERRORS[kind])
    kept = copy.deepcopy(ERRORS[kind])
    after = oracles.MENDED[kind](before)
    assert before.predicted["sample"] == kept  # what was found stays as it was
    if kind == "headings, velocities, attributes":
        assert evaluate_boxes(before).classes["car"].errors["AOE"] > 1
        assert evaluate_boxes(after).classes["car"].errors["AOE"] == pytest.approx(0)
    else:
        assert car_ap(before) < 0.95 < car_ap(after) == pytest.approx(1, abs=0.01)


def test_nothing_wrong_gains_nothing(oracles):
    right = compared(TRUTH, [box(10.0), box(30.0)])
    whole = evaluate_boxes(right).NDS
    for mend in oracles.MENDED.values():
        mended = evaluate_boxes(mend(right)).NDS
        assert mended == pytest.approx(whole)


def test_a_teacher_lends_places_and_scores(oracles):
    teacher = compared(TRUTH, [box(10.2), box(30.2), box(60.0, score=0.01)])
    own = compared(TRUTH, [box(13.0), box(32.5)])
    lent = oracles.places_of(own, teacher)
    assert [found.translation[0] for found in lent.predicted["sample"]] == [10.2, 30.2] and lent.truth is own.truth
    own = compared(TRUTH, [box(10.0, score=0.2), box(30.0, score=0.3), box(60.0, score=0.9)])
    assert car_ap(own) < 0.95 < car_ap(oracles.scores_of(own, teacher)) == pytest.approx(1, abs=0.01)


def test_nothing_found_is_no_error(oracles):
    nothing = compared(TRUTH, [])
    for mend in oracles.MENDED.values():
        mend(nothing)
    for lend in oracles.BY_TEACHER.values():
        lend(nothing, nothing)
