"""Pairs of predictions and annotations: by hand, and the same as nuscenes-devkit's."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate

from bevdistill_ros.training.evaluation_matching import match_class


def found_at(boxes, distance: float = 2.0, name: str = "car") -> list[float | None]:
    """Of each prediction the x of the annotation that it found."""
    pairs = match_class(boxes, name, distance)["sample"]
    return [None if match is None else match.ego_translation[0] for _, match in pairs]


def test_the_better_score_chooses_first_and_the_nearest(compare):
    truth = [("car", 10, 0), ("car", 11.5, 0), ("pedestrian", 10.1, 0)]
    assert found_at(compare(truth, [("car", 10.8, 0, 0.5), ("car", 10.6, 0, 0.9)])) == [11.5, 10]
    # The second prefers what the first has taken, and takes what is left, until nothing is left within reach.
    predicted = [("car", 10, 0, 0.9), ("car", 10, 0.1, 0.8), ("car", 10, 0.2, 0.7)]
    assert found_at(compare(truth, predicted)) == [10, 11.5, None]
    assert found_at(compare(truth, predicted), distance=1.0) == [10, None, None]


def test_a_match_is_closer_than_the_distance_and_heights_do_not_count(compare):
    assert found_at(compare([("car", 10, 0)], [("car", 12, 0, 0.5)])) == [None]
    assert found_at(compare([("car", 10, 0)], [("car", 11.99, 0, 0.5)])) == [10]


def test_samples_and_classes_are_apart(compare):
    boxes = compare({"a": [("car", 10, 0)], "b": []}, {"a": [("bus", 10, 0, 0.9)], "b": [("car", 10, 0, 0.9)]})
    assert [match for _, match in match_class(boxes, "car", 2.0)["b"]] == [None]
    assert match_class(boxes, "car", 2.0)["a"] == []
    assert [match for _, match in match_class(boxes, "bus", 2.0)["a"]] == [None]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
def test_pairs_are_those_of_the_devkit(scattered, seed, distance):
    """Precision and recall of these pairs are those that the devkit accumulates, among crowds and equal scores too."""
    boxes = scattered(seed)
    for name in ("car", "pedestrian"):
        pairs = [pair for of_sample in match_class(boxes, name, distance).values() for pair in of_sample]
        order = sorted(range(len(pairs)), key=lambda i: (pairs[i][0].detection_score, i), reverse=True)
        right = np.array([pairs[i][1] is not None for i in order])
        matches = [id(match) for _, match in pairs if match is not None]
        assert 0 < len(matches) < len(pairs) and len(set(matches)) == len(matches)
        total = sum(box.detection_name == name for box in boxes.truth.all)
        recall, precision = right.cumsum() / total, right.cumsum() / np.arange(1, len(right) + 1)
        data = accumulate(boxes.truth, boxes.predicted, name, center_distance, distance)
        np.testing.assert_allclose(np.interp(data.recall, recall, precision, right=0), data.precision)
