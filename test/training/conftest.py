"""Fixtures of the tests of evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest


@pytest.fixture
def compare() -> Callable:
    """Makes ``ComparedBoxes`` of one sample or more: ``compare(truth, predicted)``.

    Boxes are (class, x, y), predictions (class, x, y, score) or (class, x, y, score, yaw), in metres from an ego vehicle that
    stands at (100, 200), and radians; a dictionary gives them by sample.
    """
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    from bevdistill_ros.training.evaluation import ComparedBoxes

    def boxes_of(rows: Sequence[tuple] | dict[str, Sequence[tuple]], tokens: Sequence[str]) -> EvalBoxes:
        boxes = EvalBoxes()
        by_sample = rows if isinstance(rows, dict) else {"sample": rows}
        for token in tokens:
            boxes.add_boxes(
                token,
                [
                    DetectionBox(
                        sample_token=token,
                        translation=(100.0 + x, 200.0 + y, 0.0),
                        size=(2.0, 4.0, 1.5),
                        ego_translation=(x, y, 0.0),
                        rotation=(math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)),
                        detection_name=name,
                        detection_score=score,
                        attribute_name="",
                    )
                    for name, x, y, score, yaw in (
                        row + (-1.0, 0.0)[len(row) - 3 :] for row in by_sample.get(token, [])
                    )
                ],
            )
        return boxes

    def make(truth: Sequence[tuple] | dict, predicted: Sequence[tuple] | dict) -> ComparedBoxes:
        tokens = list(truth) if isinstance(truth, dict) else ["sample"]
        return ComparedBoxes(boxes_of(truth, tokens), boxes_of(predicted, tokens))

    return make


@pytest.fixture
def scattered(compare: Callable) -> Callable:
    """``scattered(seed)``: cars and pedestrians of five samples, crowded up to 50 m; found, shaken, lost and false ones."""
    import numpy as np

    def make(seed: int):
        rng = np.random.default_rng(seed)
        truth: dict[str, list[tuple]] = {}
        predicted: dict[str, list[tuple]] = {}
        for token in "abcde":
            places = rng.uniform(-35, 35, (40, 2))
            names = rng.choice(["car", "pedestrian"], 40)
            truth[token] = [(str(name), *map(float, place)) for name, place in zip(names, places)]
            shaken = np.repeat(places, 2, axis=0) + rng.normal(0, 1.5, (80, 2))
            guesses = np.where(rng.random(80) < 0.9, np.repeat(names, 2), "car")
            scores = rng.choice([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 80)  # few values, many ties
            rows = zip(guesses, shaken, scores, rng.random(80) < 0.8)
            predicted[token] = [(str(name), *map(float, at), float(score)) for name, at, score, kept in rows if kept]
        return compare(truth, predicted)

    return make
