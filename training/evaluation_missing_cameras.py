"""What is left of a camera model's figures when cameras are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.evaluation import DetectionResult

CHOICES = 6
"""Choices of cameras, of each number of them, over which figures are averaged."""

FIGURES = ("mAP", "NDS")


def camera_choices(cameras: Sequence[str], gone: int) -> list[tuple[str, ...]]:
    """Up to ``CHOICES`` different choices of ``gone`` of the cameras, drawn alike and the same in every run."""
    every = list(combinations(cameras, gone))
    drawn = np.random.default_rng(gone).choice(len(every), min(CHOICES, len(every)), replace=False)
    return [every[index] for index in sorted(drawn)]


def camera_missing(
    evaluate_without: Callable[[tuple[str, ...]], DetectionResult],
    cameras: Sequence[str],
    complete: DetectionResult,
    most: int,
) -> dict[str, dict[str, float | int]]:
    """Figures by the number of cameras gone, "0" to ``most``: means over ``choices`` choices of them.

    Args:
        evaluate_without: scores without the cameras named.
        cameras: those that may go.
        complete: with all of them.

    Raises:
        UserError: ``most`` leaves no camera.
    """
    check_most(cameras, most)
    rows = {"0": _mean([complete])}
    for gone in range(1, most + 1):
        rows[str(gone)] = _mean([evaluate_without(choice) for choice in camera_choices(cameras, gone)])
    return rows


def check_most(cameras: Sequence[str], most: int) -> None:
    """Raise UserError if ``most`` cameras gone leave none."""
    if most >= len(cameras):
        raise UserError(f"--missing-cameras {most}: of {len(cameras)} cameras, at most {len(cameras) - 1} may be gone")


def _mean(results: Sequence[DetectionResult]) -> dict[str, float | int]:
    return {
        **{name: float(np.mean([getattr(result, name) for result in results])) for name in FIGURES},
        "choices": len(results),
    }
