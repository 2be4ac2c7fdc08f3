"""Scores from which on a teacher's boxes count, by class: given, read from a file, or chosen on labelled samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.matching import match_nearest

MATCH_DISTANCE = 2.0
"""m. A box that is so close to a true one of its class has found it; the distance of nuScenes' true-positive errors."""


@dataclass(frozen=True)
class Choice:
    """The threshold of a class, and what boxes above it were worth.

    Attributes:
        score: the threshold.
        precision, recall: at it; None where the class has no true box to tell.
        truth: number of true boxes.
    """

    score: float
    precision: float | None
    recall: float | None
    truth: int


def read_scores(path: Path, class_names: Sequence[str]) -> dict[str, float]:
    """Thresholds of a JSON or YAML file, {"scores": {"car": 0.4}}.

    Raises:
        UserError: it cannot be read, or is not as it should be.
    """
    content = read_yaml(path)
    scores = content.get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, dict):
        raise UserError(f"{path}: must hold an object 'scores' of thresholds by class, as --calibrate writes it")
    return check_scores(scores, class_names, f"{path}: scores")


def check_scores(scores: Mapping[str, object], class_names: Sequence[str], source: str) -> dict[str, float]:
    """Thresholds by class.

    Args:
        source: where they are from, for messages.

    Raises:
        UserError: a class is unknown, or one is no score.
    """
    for name, score in scores.items():
        if name not in class_names:
            raise UserError(f"{source}: '{name}' is not one of the teacher's classes {', '.join(class_names)}")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 < score <= 1:
            raise UserError(f"{source}: {name}: {score} is no score, which is above 0 and at most 1")
    return {name: float(score) for name, score in scores.items()}


def choose_scores(
    pairs: Iterable[tuple[Boxes, Boxes]], grid: BevGrid, default: float, precision: float | None = None
) -> dict[str, Choice]:
    """For every class the threshold with the best F1, or the lowest one with at least a given precision.

    Args:
        pairs: of boxes found and true boxes, by sample; both in the base frame.
        grid: that the teacher sees; nothing beyond it counts.
        default: threshold of a class without true boxes.
        precision: that is wanted; None: best F1. Where no threshold reaches it, that of the highest precision is taken.
    """
    scores: dict[str, list[np.ndarray]] = {}
    hits: dict[str, list[np.ndarray]] = {}
    truths: dict[str, int] = {}
    for found, true in pairs:
        found, true = (boxes[grid.contains(boxes.centers[:, :2])] for boxes in (found, true))
        for label, name in enumerate(found.class_names):
            own = found[found.labels == label]
            own = own[np.argsort(-own.scores, kind="stable")]
            targets = true[true.labels == true.class_names.index(name)]
            scores.setdefault(name, []).append(own.scores)
            hits.setdefault(name, []).append(match(own, targets) >= 0)
            truths[name] = truths.get(name, 0) + len(targets)
    return {
        name: _choose(np.concatenate(scores[name]), np.concatenate(hits[name]), truths[name], default, precision)
        for name in scores
    }


def match(found: Boxes, true: Boxes) -> np.ndarray:
    """(len(found),) index of the true box that each box of a class, the best first, has found and no better box has; -1: none."""
    distances = np.linalg.norm(found.centers[:, None, :2] - true.centers[None, :, :2], axis=-1)
    return match_nearest(distances, range(len(found)), MATCH_DISTANCE)


def _choose(scores: np.ndarray, hits: np.ndarray, truths: int, default: float, precision: float | None) -> Choice:
    if not truths or not len(scores):
        return Choice(default, None, None, truths)
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(hits[order])
    precisions, recalls = found / np.arange(1, len(found) + 1), found / truths
    if precision is None:
        best = int(np.argmax(2 * found / (np.arange(1, len(found) + 1) + truths)))
    else:
        enough = np.flatnonzero(precisions >= precision)
        best = int(enough[-1]) if len(enough) else int(np.argmax(precisions))
    return Choice(float(scores[best]), float(precisions[best]), float(recalls[best]), truths)
