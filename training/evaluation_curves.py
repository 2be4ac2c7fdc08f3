"""Precision against recall, as nuscenes-devkit computes them for the average precision at 2 m."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.algo import accumulate, calc_ap
from nuscenes.eval.detection.constants import DETECTION_NAMES

from bevdistill_ros.training.evaluation import BENCHMARK, RIGHT_WITHIN, ComparedBoxes


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """The curve of one class.

    Attributes:
        recall: (101,) 0, 0.01 ... 1.
        precision: (101,) at that recall, 0 beyond the largest that is reached.
        score: (101,) the score from which on boxes count there, 0 beyond the largest recall.
        max_recall: the largest recall that is reached, of those in ``recall``.
        ap: average precision at 2 m.
    """

    recall: np.ndarray
    precision: np.ndarray
    score: np.ndarray
    max_recall: float
    ap: float

    def to_json(self) -> dict:
        """Plain values."""
        return {
            "ap": self.ap,
            "max_recall": self.max_recall,
            "recall": np.round(self.recall, 2).tolist(),
            "precision": self.precision.tolist(),
            "score": self.score.tolist(),
        }


def precision_recall(boxes: ComparedBoxes) -> dict[str, PrecisionRecall]:
    """Curves of the classes of which there is ground truth."""
    config = config_factory(BENCHMARK)
    present = {box.detection_name for box in boxes.truth.all}
    curves = {}
    for name in DETECTION_NAMES:
        if name not in present:
            continue
        data = accumulate(boxes.truth, boxes.predicted, name, config.dist_fcn_callable, RIGHT_WITHIN)
        ap = calc_ap(data, config.min_recall, config.min_precision)
        curves[name] = PrecisionRecall(data.recall, data.precision, data.confidence, float(data.max_recall), ap)
    return curves
