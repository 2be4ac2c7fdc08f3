"""Average precision by the distance of the objects from the ego vehicle.

Boxes are matched among all of them first, whatever their distance: a prediction at 20.1 m of an object at 19.9 m is
right. Then an annotation belongs to the bin of its own distance, a prediction that found one to the bin of what it
found, and a false one to the bin of its own distance. nuscenes-devkit computes the average precision of the boxes of a
bin as of any others. It finds the same pairs among them: an annotation comes with the prediction that took it, so to
the others of the bin it is as taken, or as free, as among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.algo import accumulate, calc_ap
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox

from bevdistill_ros.training.evaluation import BENCHMARK, ComparedBoxes, nanmean, number_or_none
from bevdistill_ros.training.evaluation_matching import match_class


@dataclass(frozen=True)
class RangeFigures:
    """Figures of the objects from ``near`` up to, but without, ``far`` (m, on the ground, from the ego vehicle).

    Attributes:
        ap: average precision by centre-distance threshold (m), of the classes of which there is ground truth here.
        ground_truth: number of annotations here, by class.
    """

    near: float
    far: float
    ap: dict[str, dict[float, float]]
    ground_truth: dict[str, int]

    @property
    def mean_ap(self) -> float:
        """Mean over thresholds and the classes present here; NaN if none is."""
        return nanmean([nanmean(list(ap.values())) for ap in self.ap.values()])

    @property
    def ap_2m(self) -> float:
        """Mean over the classes present here of the average precision at 2 m; NaN if none is."""
        return nanmean([ap[2.0] for ap in self.ap.values()])

    def to_json(self) -> dict:
        """Plain values; null is what has no object here. docs/evaluate.md describes the keys."""
        return {
            "from": self.near,
            "to": self.far,
            "AP": number_or_none(self.mean_ap),
            "ap_2m": number_or_none(self.ap_2m),
            "ground_truth": sum(self.ground_truth.values()),
            "classes": {
                name: {
                    "AP": nanmean(list(self.ap[name].values())) if count else None,
                    "ap_2m": self.ap[name][2.0] if count else None,
                    "ground_truth": count,
                }
                for name, count in self.ground_truth.items()
            },
        }


def range_figures(boxes: ComparedBoxes, edges: Sequence[float]) -> list[RangeFigures]:
    """Figures of every bin between neighbouring ``edges`` (m, rising)."""
    config = config_factory(BENCHMARK)
    ap: list[dict[str, dict[float, float]]] = [{} for _ in pairwise(edges)]
    ground_truth: list[dict[str, int]] = [{} for _ in pairwise(edges)]
    for name in DETECTION_NAMES:
        truth = _split(
            {
                token: [(box, box.ego_dist) for box in boxes.truth[token] if box.detection_name == name]
                for token in boxes.truth.sample_tokens
            },
            edges,
        )
        for number, inside in enumerate(truth):
            ground_truth[number][name] = len(inside.all)
        for threshold in config.dist_ths:
            predicted = _split(
                {
                    token: [(box, (box if match is None else match).ego_dist) for box, match in pairs]
                    for token, pairs in match_class(boxes, name, threshold).items()
                },
                edges,
            )
            for number, inside in enumerate(truth):
                if ground_truth[number][name]:
                    data = accumulate(inside, predicted[number], name, config.dist_fcn_callable, threshold)
                    value = calc_ap(data, config.min_recall, config.min_precision)
                    ap[number].setdefault(name, {})[threshold] = value
    return [
        RangeFigures(near, far, ap[number], ground_truth[number]) for number, (near, far) in enumerate(pairwise(edges))
    ]


def _split(boxes: Mapping[str, Sequence[tuple[DetectionBox, float]]], edges: Sequence[float]) -> list[EvalBoxes]:
    """Boxes of every bin, by sample, of boxes with the distance that counts for each."""
    bins = [EvalBoxes() for _ in pairwise(edges)]
    for token, of_sample in boxes.items():
        numbers = np.digitize([distance for _, distance in of_sample], edges)  # 0 and len(edges) lie outside
        for number, inside in enumerate(bins, start=1):
            inside.add_boxes(token, [box for (box, _), own in zip(of_sample, numbers, strict=True) if own == number])
    return bins
