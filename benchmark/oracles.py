"""Where a checkpoint's errors are, and what a teacher could take away of them at most.

One kind of error after the other is mended by the ground truth, and the rest scored as it is: what mAP and NDS gain is what that
kind costs. With --teacher the teacher's boxes do the same: the student's boxes at the teacher's places, or with the teacher's
scores, are what a student would give that had learnt all that the teacher knows of what the student finds.

    python benchmark/oracles.py CHECKPOINT --data DATA --split tune --teacher TEACHER --json FILE
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox
from results_file import write_result

from bevdistill_ros.runtime.open_model import open_model
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.evaluate import evaluate
from bevdistill_ros.training.evaluation import (
    RIGHT_WITHIN,
    ComparedBoxes,
    DetectionResult,
    evaluate_boxes,
)
from bevdistill_ros.training.evaluation_matching import match_class
from bevdistill_ros.training.teacher import make_detector

FAR = 4.0
"""Metres: the largest of the benchmark's distances within which a prediction is right."""

FOUND_FROM = 0.05
"""An object counts as found where a box of its class and at least this score is within ``FAR``."""

SURE_FROM = 0.2
"""Boxes of the teacher that lend others their place have at least this score."""

UNKNOWN = 0.1
"""Share of its score that a box keeps where the teacher sees nothing."""

Boxes = list[DetectionBox]


def by_sample(boxes: ComparedBoxes, mend: Callable[[Boxes, Boxes], tuple[Boxes, Boxes]]) -> ComparedBoxes:
    """Boxes as ``mend(truth, predicted)`` makes them of each sample; it may change the predictions that it is given."""
    truth, predicted = EvalBoxes(), EvalBoxes()
    for token in boxes.truth.sample_tokens:
        of_truth, of_predicted = mend(list(boxes.truth[token]), [copy.copy(box) for box in boxes.predicted[token]])
        truth.add_boxes(token, of_truth)
        predicted.add_boxes(token, of_predicted)
    return ComparedBoxes(truth, predicted)


def by_pair(boxes: ComparedBoxes, distance: float, mend: Callable[[DetectionBox, DetectionBox], None]) -> ComparedBoxes:
    """``mend(prediction, truth)`` changes each prediction that is matched to an annotation of its class."""
    boxes = by_sample(boxes, lambda truth, predicted: (truth, predicted))
    for name in {box.detection_name for box in boxes.truth.all}:
        for pairs in match_class(boxes, name, distance).values():
            for prediction, truth in pairs:
                if truth is not None:
                    mend(prediction, truth)
    return boxes


def distances(boxes: Boxes, others: Boxes) -> np.ndarray:
    """(boxes, others) on the ground, in metres."""
    at, to = (np.array([box.translation[:2] for box in some]).reshape(-1, 2) for some in (boxes, others))
    return np.linalg.norm(at[:, None] - to, axis=-1)


def right_places(boxes: ComparedBoxes) -> ComparedBoxes:
    """Boxes within ``FAR`` of an object of their class are where it is."""

    def mend(prediction: DetectionBox, truth: DetectionBox) -> None:
        prediction.translation = truth.translation

    return by_pair(boxes, FAR, mend)


def right_ranks(boxes: ComparedBoxes) -> ComparedBoxes:
    """Boxes within ``FAR`` of an object of their class come before all others."""

    def mend(prediction: DetectionBox, _: DetectionBox) -> None:
        prediction.detection_score += 1

    return by_pair(boxes, FAR, mend)


def right_motion(boxes: ComparedBoxes) -> ComparedBoxes:
    """Boxes within ``RIGHT_WITHIN`` of an object of their class have its heading, velocity and attribute."""

    def mend(prediction: DetectionBox, truth: DetectionBox) -> None:
        prediction.rotation, prediction.velocity = truth.rotation, truth.velocity
        prediction.attribute_name = truth.attribute_name or prediction.attribute_name

    return by_pair(boxes, RIGHT_WITHIN, mend)


def right_classes(boxes: ComparedBoxes) -> ComparedBoxes:
    """Boxes within ``RIGHT_WITHIN`` of objects, none of which is of their class, are of the nearest one's."""

    def mend(truth: Boxes, predicted: Boxes) -> tuple[Boxes, Boxes]:
        for box, row in zip(predicted, distances(predicted, truth), strict=True):
            near = np.flatnonzero(row < RIGHT_WITHIN)
            if len(near) and all(truth[i].detection_name != box.detection_name for i in near):
                box.detection_name = truth[row.argmin()].detection_name
        return truth, predicted

    return by_sample(boxes, mend)


def no_alarms(boxes: ComparedBoxes) -> ComparedBoxes:
    """Boxes farther than ``FAR`` from every object are left out."""

    def mend(truth: Boxes, predicted: Boxes) -> tuple[Boxes, Boxes]:
        near = (distances(predicted, truth) < FAR).any(axis=1)
        return truth, [box for box, of_something in zip(predicted, near, strict=True) if of_something]

    return by_sample(boxes, mend)


def no_misses(boxes: ComparedBoxes) -> ComparedBoxes:
    """Objects without any box of their class within ``FAR`` do not count."""

    def mend(truth: Boxes, predicted: Boxes) -> tuple[Boxes, Boxes]:
        likely = [box for box in predicted if box.detection_score >= FOUND_FROM]
        near = distances(truth, likely) < FAR
        found = [any(likely[i].detection_name == box.detection_name for i in np.flatnonzero(row))
                 for box, row in zip(truth, near, strict=True)]  # fmt: skip
        return [box for box, is_found in zip(truth, found, strict=True) if is_found], predicted

    return by_sample(boxes, mend)


def places_of(boxes: ComparedBoxes, teacher: ComparedBoxes) -> ComparedBoxes:
    """Boxes are at the places of the teacher's sure ones of their class within ``FAR``."""
    sure = by_sample(
        ComparedBoxes(teacher.predicted, boxes.predicted),
        lambda own, predicted: ([box for box in own if box.detection_score >= SURE_FROM], predicted),
    )
    return ComparedBoxes(boxes.truth, right_places(sure).predicted)


def scores_of(boxes: ComparedBoxes, teacher: ComparedBoxes) -> ComparedBoxes:
    """Scores are multiplied by the teacher's best one for the class within ``RIGHT_WITHIN``."""

    def mend(own: Boxes, predicted: Boxes) -> tuple[Boxes, Boxes]:
        near = distances(predicted, own) < RIGHT_WITHIN
        for box, row in zip(predicted, near, strict=True):
            seen = [own[i].detection_score for i in np.flatnonzero(row) if own[i].detection_name == box.detection_name]
            box.detection_score *= max([UNKNOWN, *seen])
        return own, predicted

    judged = by_sample(ComparedBoxes(teacher.predicted, boxes.predicted), mend)
    return ComparedBoxes(boxes.truth, judged.predicted)


MENDED = {
    "places": right_places,
    "ranks": right_ranks,
    "classes": right_classes,
    "alarms far from everything": no_alarms,
    "misses": no_misses,
    "headings, velocities, attributes": right_motion,
}
BY_TEACHER = {"teacher's places": places_of, "teacher's scores": scores_of}


def found_by(checkpoint: Path, nusc: NuScenes, tokens: list[str], device: str) -> DetectionResult:
    """What it finds, beside the ground truth, and its figures."""
    opened = open_model(checkpoint, None, device)
    detector = make_detector(opened.model, device, str(checkpoint), opened.dtype)
    return evaluate(detector, open_samples(nusc, tokens, detector.config, detector.cameras))


def row(name: str, result: DetectionResult) -> dict[str, float]:
    """Print and return the figures."""
    figures = {"mAP": round(result.mAP, 4), "NDS": round(result.NDS, 4), "ap_2m": round(result.ap_2m, 4)}
    print(f"{name:34}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
    return figures


def main() -> None:
    """Print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--version", help="of DATA's tables (default: the only one)")
    parser.add_argument("--split", required=True)
    parser.add_argument("--teacher", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    nusc = open_nuscenes(arguments.data, arguments.version)
    tokens = choose_samples(nusc, arguments.split)
    own = found_by(arguments.checkpoint, nusc, tokens, arguments.device)
    figures = {"as it is": row("as it is", own)}
    for name, mend in MENDED.items():
        figures[name] = row(f"right: {name}", evaluate_boxes(mend(own.boxes)))
    if arguments.teacher is not None:
        teacher = found_by(arguments.teacher, nusc, tokens, arguments.device)
        figures["teacher"] = row("the teacher itself", teacher)
        for name, lend in BY_TEACHER.items():
            figures[name] = row(f"with the {name}", evaluate_boxes(lend(own.boxes, teacher.boxes)))
    if arguments.json is not None:
        write_result(arguments.json, {"split": arguments.split, "samples": len(tokens), "mended": figures})


if __name__ == "__main__":
    main()
