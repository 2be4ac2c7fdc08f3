"""Calibration: expected errors worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bevdistill_ros.training.evaluation_calibration import BINS, calibration, class_calibrations, pooled


def test_scores_that_say_the_truth_have_no_error():
    found = calibration([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert found.ece == pytest.approx(0.0)
    assert found.boxes.tolist() == [0, 0, 4, 0, 0, 0, 0, 4, 0, 0]
    assert found.precision[[2, 7]].tolist() == [0.25, 0.75]
    assert math.isnan(found.score[0]) and math.isnan(found.precision[0])


def test_error_is_weighed_by_boxes():
    """Six boxes of 0.95, half of them right: off by 0.45. Two of 0.1 (the edge, of the upper bin) and wrong: by 0.1."""
    found = calibration([0.95] * 6 + [0.1] * 2, [1, 1, 1, 0, 0, 0, 0, 0])
    assert found.boxes.tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 0, 6]
    assert found.ece == pytest.approx((6 * 0.45 + 2 * 0.1) / 8)


def test_a_bin_holds_its_mean_score():
    """Errors cancel within a bin: one right of 0.62, one wrong of 0.68; 0.65 against 0.5."""
    found = calibration([0.62, 0.68], [True, False])
    assert found.score[6] == pytest.approx(0.65) and found.ece == pytest.approx(0.15)


def test_certainty_belongs_to_the_last_bin():
    found = calibration([1.0, 0.0], [True, False])
    assert found.boxes.tolist() == [1, *[0] * (BINS - 2), 1] and found.ece == 0.0


def test_nothing_predicted_is_null():
    found = calibration([], []).to_json()
    assert found["ece"] is None and found["boxes"] == [0] * BINS and found["precision"] == [None] * BINS
    json.dumps(found, allow_nan=False)


def test_pooled_is_that_of_all_boxes_together():
    rng = np.random.default_rng(0)
    scores, right = rng.random(300) ** 2, rng.random(300) < 0.4
    together = calibration(scores, right)
    parts = pooled(
        [calibration(scores[:200], right[:200]), calibration(scores[200:], right[200:]), calibration([], [])]
    )
    np.testing.assert_array_equal(parts.boxes, together.boxes)
    np.testing.assert_allclose(parts.score, together.score)
    np.testing.assert_allclose(parts.precision, together.precision)
    assert parts.ece == pytest.approx(together.ece)


def test_boxes_are_right_within_two_metres_and_once(compare):
    predicted = [("car", 11.9, 0, 0.8), ("car", 10, 0, 0.7), ("car", 30, 0, 0.7), ("bus", 10, 0, 0.4)]
    found = class_calibrations(compare([("car", 10, 0), ("truck", 0, 9)], predicted))
    assert found["car"].boxes[[7, 8]].tolist() == [2, 1] and found["car"].precision[[7, 8]].tolist() == [0.0, 1.0]
    assert found["bus"].precision[4] == 0.0  # a class that is not there: false
    assert found["truck"].boxes.sum() == 0 and math.isnan(found["truck"].ece)
