"""Precision over recall: cases worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bevdistill_ros.training.evaluation import evaluate_boxes
from bevdistill_ros.training.evaluation_curves import precision_recall

CARS = [("car", float(x), 0.0) for x in range(-45, 45, 5)][:10]


def test_perfect_predictions_have_precision_one_at_every_recall(compare):
    curves = precision_recall(compare(CARS, [(*car, 0.5 + 0.01 * i) for i, car in enumerate(CARS)]))
    assert list(curves) == ["car"]
    curve = curves["car"]
    assert (curve.precision == 1).all() and curve.max_recall == 1.0 and curve.ap == pytest.approx(1.0)
    assert curve.score[0] == pytest.approx(0.59) and curve.score[-1] == pytest.approx(0.5)
    json.dumps(curve.to_json(), allow_nan=False)


def test_half_of_the_objects_found(compare):
    curve = precision_recall(compare(CARS, [(*car, 0.9) for car in CARS[:5]]))["car"]
    assert curve.max_recall == pytest.approx(0.5)
    np.testing.assert_array_equal(curve.precision, (curve.recall <= 0.5).astype(float))
    assert curve.ap == pytest.approx(40 / 90)  # recalls 0.11 to 0.50 of 0.11 to 1.00


def test_false_boxes_between_two_halves(compare):
    """Half of the objects found first, then as many false boxes, then the other half: 1 up to recall 0.5, 10 of 15 at 1."""
    false = [("car", car[1], 20.0, 0.5) for car in CARS[:5]]
    curve = precision_recall(
        compare(CARS, [*((*car, 0.9) for car in CARS[:5]), *false, *((*car, 0.1) for car in CARS[5:])])
    )["car"]
    np.testing.assert_array_equal(curve.precision[:50], 1.0)
    assert curve.precision[100] == pytest.approx(10 / 15) and curve.max_recall == 1.0
    assert curve.score[20] == pytest.approx(0.9) and curve.score[100] == pytest.approx(0.1)


def test_nothing_found(compare):
    curve = precision_recall(compare(CARS, [("car", 0, 40, 0.9), ("bus", 10, 0, 0.9)]))["car"]
    assert curve.max_recall == curve.ap == 0.0 and not curve.precision.any()


def test_average_precision_is_the_official_one(scattered):
    boxes = scattered(5)
    official = evaluate_boxes(boxes)
    curves = precision_recall(boxes)
    assert {name: curve.ap for name, curve in curves.items()} == {
        name: official.classes[name].ap[2.0] for name in ("car", "pedestrian")
    }
