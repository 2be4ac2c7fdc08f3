"""The benchmark's rule of who has found whom: greedy, by distance on the ground."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def match_nearest(distances: np.ndarray, order: Iterable[int], limit: float) -> np.ndarray:
    """(N,) index of the target that each of N predictions finds, -1 for none.

    One after another in ``order`` takes the nearest target that is left, if it is closer than ``limit``.

    Args:
        distances: (N, M) of N predictions to M targets, m.
    """
    found = np.full(len(distances), -1)
    if distances.size:
        left = distances.copy()
        for index in order:
            nearest = int(left[index].argmin())
            if left[index, nearest] < limit:
                found[index] = nearest
                left[:, nearest] = np.inf  # taken
    return found
