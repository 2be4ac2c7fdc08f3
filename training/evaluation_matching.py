"""Which prediction meets which annotation, by the benchmark's rule.

nuscenes-devkit matches while it accumulates and keeps no record of the pairs. What needs them (figures by range,
calibration) gets them here; the tests hold the two against each other.
"""

from __future__ import annotations

import numpy as np
from nuscenes.eval.detection.data_classes import DetectionBox

from bevdistill_ros.training.evaluation import ComparedBoxes
from bevdistill_ros.training.matching import match_nearest

Pair = tuple[DetectionBox, DetectionBox | None]
"""A prediction, and the annotation that it found; None if it found none."""


def match_class(boxes: ComparedBoxes, class_name: str, distance: float) -> dict[str, list[Pair]]:
    """Match the predictions of one class: by sample, a pair a prediction, in the order of the predictions there.

    The best score of a sample chooses first. Each takes the annotation that is nearest on the ground of those that are
    left, if that is closer than ``distance`` (m).
    """
    return {
        token: _match(
            [box for box in boxes.predicted[token] if box.detection_name == class_name],
            [box for box in boxes.truth[token] if box.detection_name == class_name],
            distance,
        )
        for token in boxes.predicted.sample_tokens
    }


def _match(predicted: list[DetectionBox], truth: list[DetectionBox], distance: float) -> list[Pair]:
    if not predicted or not truth:
        return [(box, None) for box in predicted]
    distances = np.linalg.norm(_positions(predicted)[:, None] - _positions(truth), axis=-1)
    # Of equal scores the later prediction chooses first, as in nuscenes-devkit.
    order = sorted(range(len(predicted)), key=lambda i: (predicted[i].detection_score, i), reverse=True)
    found = match_nearest(distances, order, distance)
    return [(box, None if i < 0 else truth[i]) for box, i in zip(predicted, found, strict=True)]


def _positions(boxes: list[DetectionBox]) -> np.ndarray:
    return np.array([box.translation[:2] for box in boxes])
