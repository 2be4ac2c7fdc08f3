"""Thresholds: matched, chosen, given and read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.label.thresholds import check_scores, choose_scores, match, read_scores

NAMES = ("car", "bus")
GRID = BevGrid(-50.0, 50.0, -50.0, 50.0, 1.0)


def boxes(xs: list[float], scores: list[float], label: int = 0) -> Boxes:
    n = len(xs)
    centers = np.column_stack([xs, np.zeros((n, 2))]) if n else np.zeros((0, 3))
    return Boxes(centers, np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), scores, [label] * n, NAMES)


def test_a_true_box_is_found_once_by_the_best():
    assert match(boxes([0.5, 0.1, 9.0], [0.9, 0.8, 0.7]), boxes([7.5, 0.0], [1, 1])).tolist() == [1, -1, 0]
    assert match(boxes([2.5], [0.9]), boxes([0.0], [1])).tolist() == [-1]
    assert match(boxes([0.0], [0.9]), boxes([], [])).tolist() == [-1]


def test_the_best_f1():
    """Sorted by score: hit, hit, miss, hit, miss, miss of 4 true ones. F1 is 2/5, 4/6, 4/7, 6/8, 6/9, 6/10: the fourth."""
    found = boxes([0, 10, 5, 20, 25, 35], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    true = boxes([0, 10, 20, 30], [1] * 4)
    chosen = choose_scores([(found, true)], GRID, default=0.3)["car"]
    assert (chosen.score, chosen.precision, chosen.recall, chosen.truth) == (0.6, 0.75, 0.75, 4)
    exact = choose_scores([(found, true)], GRID, default=0.3, precision=0.9)["car"]
    assert (exact.score, exact.precision, exact.recall) == (0.8, 1.0, 0.5)
    reached = choose_scores([(found, true)], GRID, default=0.3, precision=0.5)["car"]
    assert reached.score == 0.4


def test_samples_are_pooled_and_the_grid_bounds_them():
    near = (boxes([0.0], [0.9]), boxes([0.0], [1]))
    outside = (boxes([0.0, 80.0], [0.5, 0.99]), boxes([60.0], [1]))
    chosen = choose_scores([near, outside], GRID, default=0.3)["car"]
    assert (chosen.score, chosen.precision, chosen.recall, chosen.truth) == (0.9, 1.0, 1.0, 1)


def test_a_class_without_true_boxes_has_the_default():
    chosen = choose_scores([(boxes([0.0], [0.9], label=1), boxes([], []))], GRID, default=0.25)
    assert [(c.score, c.precision, c.truth) for c in chosen.values()] == [(0.25, None, 0), (0.25, None, 0)]


def test_scores_are_of_the_teachers_classes():
    assert check_scores({"car": 0.4, "bus": 1}, NAMES, "--scores") == {"car": 0.4, "bus": 1.0}
    with pytest.raises(UserError, match="--scores: 'tram' is not one of the teacher's classes car, bus"):
        check_scores({"tram": 0.4}, NAMES, "--scores")


def test_scores_are_read_from_json_and_yaml(tmp_path):
    path = tmp_path / "thresholds"
    path.write_text(json.dumps({"scores": {"car": 0.4}, "more": 1}))
    assert read_scores(path, NAMES) == {"car": 0.4}
    path.write_text("scores: {bus: 0.2}\n")
    assert read_scores(path, NAMES) == {"bus": 0.2}
    for text, words in (
        ("scores: [1]", "must hold an object 'scores'"),
        ("{", "is not YAML"),
        ("scores: {car: high}", "car: high is no score"),
        ("scores: {car: true}", "is no score"),
        ("scores: {tram: 0.2}", "'tram' is not one of"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words) as error:
            read_scores(path, NAMES)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(tmp_path / "missing", NAMES)
