"""Calibration: whether a score says how often a box of that score is right.

A box is right if it finds an annotation of its class within 2 m, by the benchmark's rule. Boxes are sorted into bins of
equal width by their score; in each, the share of right boxes (precision) is held against the mean score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES

from bevdistill_ros.training.evaluation import RIGHT_WITHIN, ComparedBoxes, number_or_none
from bevdistill_ros.training.evaluation_matching import match_class

BINS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores against precision, in ``BINS`` bins from score 0 to 1.

    Attributes:
        boxes: (BINS,) number of predictions.
        score: (BINS,) their mean score; NaN in an empty bin.
        precision: (BINS,) the share of them that is right; NaN in an empty bin.
    """

    boxes: np.ndarray
    score: np.ndarray
    precision: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over all boxes of their bin's |precision - score|; NaN without boxes."""
        if not self.boxes.any():
            return float("nan")
        filled = self.boxes > 0
        gaps = np.abs(self.precision - self.score)[filled]
        return float(np.average(gaps, weights=self.boxes[filled]))

    def to_json(self) -> dict:
        """Plain values; null is what an empty bin does not know."""
        return {
            "ece": number_or_none(self.ece),
            "boxes": self.boxes.tolist(),
            "score": [number_or_none(value) for value in self.score],
            "precision": [number_or_none(value) for value in self.precision],
        }


def calibration(scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> Calibration:
    """Of predictions with these scores (0 to 1), of which these are right."""
    scores, right = np.asarray(scores, float), np.asarray(right, float)
    number = np.minimum((scores * BINS).astype(int), BINS - 1)  # a score of 1 belongs to the last bin
    boxes = np.bincount(number, minlength=BINS)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return Calibration(
            boxes=boxes,
            score=np.bincount(number, scores, BINS) / boxes,
            precision=np.bincount(number, right, BINS) / boxes,
        )


def class_calibrations(boxes: ComparedBoxes) -> dict[str, Calibration]:
    """Calibration of each class; ``pooled`` makes that of all of them together."""
    found = {}
    for name in DETECTION_NAMES:
        pairs = [pair for of_sample in match_class(boxes, name, RIGHT_WITHIN).values() for pair in of_sample]
        found[name] = calibration([box.detection_score for box, _ in pairs], [match is not None for _, match in pairs])
    return found


def pooled(calibrations: Iterable[Calibration]) -> Calibration:
    """Calibration of all the boxes of several."""
    parts = list(calibrations)
    boxes = np.sum([part.boxes for part in parts], axis=0)
    with np.errstate(invalid="ignore"):
        return Calibration(
            boxes=boxes,
            score=np.nansum([part.boxes * part.score for part in parts], axis=0) / boxes,
            precision=np.nansum([part.boxes * part.precision for part in parts], axis=0) / boxes,
        )
