"""Greedy matching by distance, by hand."""

from __future__ import annotations

import numpy as np

from bevdistill_ros.training.matching import match_nearest


def test_the_first_chooses_first_and_takes_what_it_finds() -> None:
    distances = np.array([[0.5, 1.0], [0.2, 3.0], [0.1, 0.3]])
    assert match_nearest(distances, [0, 1, 2], 2.0).tolist() == [0, -1, 1]
    assert match_nearest(distances, [2, 1, 0], 2.0).tolist() == [1, -1, 0]
    assert distances[0, 0] == 0.5  # left as it was


def test_the_limit_is_not_within_and_nothing_finds_nothing() -> None:
    assert match_nearest(np.array([[2.0]]), [0], 2.0).tolist() == [-1]
    assert match_nearest(np.zeros((2, 0)), [0, 1], 2.0).tolist() == [-1, -1]
    assert match_nearest(np.zeros((0, 2)), [], 2.0).tolist() == []
