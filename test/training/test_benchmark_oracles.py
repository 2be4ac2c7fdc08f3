"""The benchmark `oracles`: each mends one kind of error and no other."""

from __future__ import annotations

import copy
import math

import pytest

pytest.importorskip("nuscenes")

from bevdistill_ros.training.evaluation import ComparedBoxes, evaluate_boxes


@pytest.fixture(scope="module")
def oracles(load_benchmark):
    return load_benchmark("oracles")


def car_ap(boxes: ComparedBoxes) -> float:
    return evaluate_boxes(boxes).classes["car"].mean_ap


TRUTH = [("car", 10, 0), ("car", 30, 0)]
ERRORS = {
    "places": [("car", 13, 0, 0.9), ("car", 32.5, 0, 0.9)],
    "ranks": [("car", 10, 0, 0.2), ("car", 30, 0, 0.3), ("car", 60, 0, 0.9)],
    "classes": [("truck", 10, 0, 0.9), ("car", 30, 0, 0.9)],
    "alarms far from everything": [("car", 10, 0, 0.4), ("car", 30, 0, 0.3), ("car", 60, 0, 0.9)],
    "misses": [("car", 10, 0, 0.9)],
    "headings, velocities, attributes": [("car", 10, 0, 0.9, math.pi), ("car", 30, 0, 0.8)],
}


@pytest.mark.parametrize("kind", ERRORS)
def test_each_mends_its_kind_of_error(oracles, compare, kind):
    before = compare(TRUTH, ERRORS[kind])
    kept = copy.deepcopy(before.predicted["sample"])
    after = oracles.MENDED[kind](before)
    assert before.predicted["sample"] == kept  # what was found stays as it was
    if kind == "headings, velocities, attributes":
        assert evaluate_boxes(before).classes["car"].errors["AOE"] > 1
        assert evaluate_boxes(after).classes["car"].errors["AOE"] == pytest.approx(0)
    else:
        assert car_ap(before) < 0.95 < car_ap(after) == pytest.approx(1, abs=0.01)


def test_nothing_wrong_gains_nothing(oracles, compare):
    right = compare(TRUTH, [("car", 10, 0, 0.9), ("car", 30, 0, 0.9)])
    whole = evaluate_boxes(right).NDS
    for mend in oracles.MENDED.values():
        mended = evaluate_boxes(mend(right)).NDS
        assert mended == pytest.approx(whole)


def test_a_teacher_lends_places_and_scores(oracles, compare):
    teacher = compare(TRUTH, [("car", 10.2, 0, 0.9), ("car", 30.2, 0, 0.9), ("car", 60, 0, 0.01)])
    own = compare(TRUTH, ERRORS["places"])
    lent = oracles.places_of(own, teacher)
    assert [found.translation[0] for found in lent.predicted["sample"]] == [110.2, 130.2] and lent.truth is own.truth
    own = compare(TRUTH, ERRORS["ranks"])
    assert car_ap(own) < 0.95 < car_ap(oracles.scores_of(own, teacher)) == pytest.approx(1, abs=0.01)


def test_nothing_found_is_no_error(oracles, compare):
    nothing = compare(TRUTH, [])
    for mend in oracles.MENDED.values():
        mend(nothing)
    for lend in oracles.BY_TEACHER.values():
        lend(nothing, nothing)
