"""Average precision by distance: by hand, and consistent with the official one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate

from bevdistill_ros.training import evaluation_ranges
from bevdistill_ros.training.evaluation import evaluate_boxes
from bevdistill_ros.training.evaluation_matching import match_class
from bevdistill_ros.training.evaluation_ranges import range_figures

EDGES = (0, 20, 35, 50)


def test_who_finds_only_near_objects_has_one_near_and_zero_far(compare):
    near, far = [("car", 5, 3), ("car", -12, 0), ("bus", 0, 19)], [("car", 30, 0), ("bus", 0, -30)]
    boxes = compare(near + far, [(*box, 0.8) for box in near])
    first, second, third = range_figures(boxes, EDGES)
    assert first.ap["car"] == first.ap["bus"] == pytest.approx(dict.fromkeys((0.5, 1.0, 2.0, 4.0), 1.0))
    assert first.mean_ap == first.ap_2m == pytest.approx(1.0)
    assert second.mean_ap == second.ap_2m == 0.0
    assert (first.ground_truth["car"], second.ground_truth["car"], third.ground_truth["car"]) == (2, 1, 0)
    assert 0 < evaluate_boxes(boxes).ap_2m < 1


def test_a_bin_without_objects_is_null(compare):
    """False boxes are there, but no precision is known where there is nothing to find."""
    *_, far = range_figures(compare([("car", 5, 0)], [("car", 5, 0, 0.9), ("car", 40, 0, 0.9)]), EDGES)
    assert math.isnan(far.mean_ap) and math.isnan(far.ap_2m) and far.ap == {}
    found = far.to_json()
    assert (found["from"], found["to"], found["ground_truth"]) == (35, 50, 0)
    assert found["AP"] is found["ap_2m"] is None
    assert found["classes"]["car"] == {"AP": None, "ap_2m": None, "ground_truth": 0}
    json.dumps(found, allow_nan=False)


def test_a_match_counts_where_the_object_is(compare):
    """Of an object at 19.5 m found at 20.5 m: right in the near bin, and nothing false in the far one."""
    boxes = compare([("car", 19.5, 0), ("car", 30, 0)], [("car", 20.5, 0, 0.9), ("car", 30, 0, 0.5)])
    near, far, _ = range_figures(boxes, EDGES)
    assert near.ap["car"] == pytest.approx({0.5: 0.0, 1.0: 0.0, 2.0: 1.0, 4.0: 1.0})
    assert far.ap["car"][2.0] == pytest.approx(1.0)
    assert far.ap["car"][1.0] < 0.6  # within 1 m it found nothing, and is false where it is


def test_a_false_box_counts_where_it_is(compare):
    """One true and one false box, the false one better, in its own bin alone.

    The devkit draws precision straight from 0 at recall 0 to 1/2 at recall 1, and counts what is above 0.1.
    """
    truth = [("car", 10, 0), ("car", 30, 0)]
    right = [("car", 10, 0, 0.5), ("car", 30, 0, 0.5)]
    near, far, _ = range_figures(compare(truth, [*right, ("car", 25, 5, 0.9)]), EDGES)
    assert near.ap["car"][2.0] == pytest.approx(1.0)
    assert far.ap["car"][2.0] == pytest.approx(np.mean([max(r / 200 - 0.1, 0) for r in range(11, 101)]) / 0.9)


def test_bins_hold_their_lower_edge_alone(compare):
    near, far, _ = range_figures(compare([("car", 20, 0), ("car", 3, 4)], []), EDGES)
    assert (near.ground_truth["car"], far.ground_truth["car"]) == (1, 1)
    beyond, inside = range_figures(compare([("car", 3, 4)], []), (0, 5, 10))
    assert (beyond.ground_truth["car"], inside.ground_truth["car"]) == (0, 1)


def test_one_bin_over_everything_gives_the_official_figures(scattered):
    boxes = scattered(3)
    (everything,) = range_figures(boxes, (0, 1000))
    official = evaluate_boxes(boxes)
    for name in ("car", "pedestrian"):
        assert everything.ap[name] == pytest.approx(official.classes[name].ap, abs=1e-12)
        assert 0.1 < official.classes[name].ap[2.0] < 0.9
    assert everything.ap_2m == pytest.approx(official.ap_2m) and everything.mean_ap == pytest.approx(
        official.mAP_present
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_devkit_finds_the_same_pairs_in_a_bin_as_among_all(scattered, monkeypatch, seed):
    """In a crowd over the edges: what it accumulates in a bin has the right boxes that were right among all."""
    boxes, seen = scattered(seed), []

    def watched(truth, predicted, name, distance_of, threshold):
        data = accumulate(truth, predicted, name, distance_of, threshold)
        seen.append((truth, predicted, name, threshold, data))
        return data

    monkeypatch.setattr(evaluation_ranges, "accumulate", watched)
    range_figures(boxes, EDGES)
    assert len(seen) == 2 * 4 * 3  # classes, distances, bins
    for truth, predicted, name, threshold, data in seen:
        found = {
            id(box)
            for pairs in match_class(boxes, name, threshold).values()
            for box, match in pairs
            if match is not None
        }
        inside = predicted.all
        order = sorted(range(len(inside)), key=lambda i: (inside[i].detection_score, i), reverse=True)
        right = np.array([id(inside[i]) in found for i in order])
        recall = right.cumsum() / len(truth.all)
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        np.testing.assert_allclose(np.interp(data.recall, recall, precision, right=0), data.precision)
    both = accumulate(boxes.truth, boxes.predicted, "car", center_distance, 2.0)
    assert not np.allclose(both.precision, seen[2 * 3][-1].precision)  # the bins differ from the whole
