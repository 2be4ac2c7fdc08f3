"""Detection metrics by nuscenes-devkit's own code, on any list of samples of any dataset in the nuScenes schema.

The devkit's ``DetectionEval`` reads predictions from a file and knows only its own split and version names. Here the
same steps (its filters, matching, average precision and true-positive errors, configuration ``detection_cvpr_2019``)
run on boxes in memory and on the samples that the caller names; where ``DetectionEval`` can be run, its figures are the
same.

Besides the official figures, which average over ten classes whether they occur or not, those over the classes PRESENT
in the ground truth are given: on a few scenes the official mAP is bounded by the share of classes that occur.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics
from nuscenes.eval.detection.utils import category_to_detection_name

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.training.data.nuscenes import check_class_names

BENCHMARK = "detection_cvpr_2019"
"""The devkit's name of the benchmark's configuration: distances, ranges, limits."""

RIGHT_WITHIN = 2.0
"""Metres on the ground from its object, within which a prediction is right, where a single such distance is asked for."""

ERRORS = {"ATE": "trans_err", "ASE": "scale_err", "AOE": "orient_err", "AVE": "vel_err", "AAE": "attr_err"}
"""Our key of each true-positive error, and the devkit's name: translation (m), scale (1 - IoU), orientation (rad),
velocity (m/s) and attribute (1 - accuracy)."""

UNDEFINED_ERRORS = {"traffic_cone": ("AOE", "AVE", "AAE"), "barrier": ("AVE", "AAE")}
"""Errors that the benchmark does not define for a class."""

MOVING_SPEED = 0.2
"""Speed (m/s) above which an object is said to move when its attribute is guessed."""

_ATTRIBUTES = {
    # class: (attribute when moving, attribute when still), the most frequent one in nuScenes of each case
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


def attribute_of(class_name: str, speed: float) -> str:
    """nuScenes attribute guessed from a detection class and the speed over ground in m/s; '' for a class without any.

    An unknown speed (NaN) counts as still.
    """
    moving, still = _ATTRIBUTES[class_name]
    return moving if speed > MOVING_SPEED else still


def to_global(boxes: Boxes, global_T_ego_ref: np.ndarray, dt_seconds: float) -> Boxes:
    """Boxes of the base frame at t_ref, in the global frame ``dt_seconds`` later: sample time - t_ref.

    Each moves along its velocity for that time, as the ground truth (annotated at the sample's time) did.
    """
    return boxes.transformed(global_T_ego_ref).propagated(dt_seconds)


# ------------------------------------------------------------------------------------------------- the devkit's formats


def load_ground_truth(nusc: NuScenes, sample_tokens: Sequence[str]) -> EvalBoxes:
    """All annotations of the samples that belong to a detection class, unfiltered, in the devkit's format.

    Velocities come from the annotation's neighbours in its track, NaN without any; attributes may be missing.

    Raises:
        UserError: an annotation has several attributes.
    """
    boxes = EvalBoxes()
    for sample_token in sample_tokens:
        found = []
        for token in nusc.get("sample", sample_token)["anns"]:
            annotation = nusc.get("sample_annotation", token)
            name = category_to_detection_name(annotation["category_name"])
            if name is None:
                continue
            attributes = annotation["attribute_tokens"]
            if len(attributes) > 1:
                raise UserError(
                    f"{nusc.table_root}/sample_annotation.json: annotation {token} has {len(attributes)} attributes, "
                    "at most one is allowed"
                )
            found.append(
                DetectionBox(
                    sample_token=sample_token,
                    translation=tuple(annotation["translation"]),
                    size=tuple(annotation["size"]),
                    rotation=tuple(annotation["rotation"]),
                    velocity=tuple(nusc.box_velocity(token)[:2]),
                    num_pts=annotation["num_lidar_pts"] + annotation["num_radar_pts"],
                    detection_name=name,
                    detection_score=-1.0,
                    attribute_name=nusc.get("attribute", attributes[0])["name"] if attributes else "",
                )
            )
        boxes.add_boxes(sample_token, found)
    return boxes


def to_detection_boxes(sample_token: str, boxes: Boxes, max_boxes: int) -> list[DetectionBox]:
    """Predicted boxes of the global frame in the devkit's format: the ``max_boxes`` of highest score, the best first.

    An unknown (NaN) velocity is handed on as zero: the devkit would otherwise leave the box out of the velocity error.

    Raises:
        ValueError: a box holds a number that is not finite, or a size that is not positive.
    """
    order = np.argsort(-boxes.scores, kind="stable")[:max_boxes]
    boxes = boxes[order]
    geometry = np.concatenate([boxes.centers, boxes.sizes, boxes.yaws[:, None], boxes.scores[:, None]], axis=1)
    if not (np.isfinite(geometry).all() and (boxes.sizes > 0).all()):
        raise ValueError(f"sample {sample_token}: predicted boxes must be finite and of positive size")
    velocities = np.nan_to_num(boxes.velocities)
    return [
        DetectionBox(
            sample_token=sample_token,
            translation=tuple(center.tolist()),
            size=(float(size[1]), float(size[0]), float(size[2])),  # the devkit's order is width, length, height
            rotation=(math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)),  # and its quaternions are w, x, y, z
            velocity=tuple(velocity.tolist()),
            detection_name=name,
            detection_score=float(score),
            attribute_name=attribute_of(name, float(np.hypot(*velocity))),
        )
        for center, size, yaw, velocity, score, name in zip(
            boxes.centers, boxes.sizes, boxes.yaws, velocities, boxes.scores, boxes.names, strict=True
        )
    ]


def _add_distance_from_ego(nusc: NuScenes, boxes: EvalBoxes) -> None:
    """What the devkit's ``add_center_dist`` does; samples without LIDAR_TOP take the ego pose nearest in time."""
    with_lidar, without = EvalBoxes(), []
    for token in boxes.sample_tokens:
        if "LIDAR_TOP" in nusc.get("sample", token)["data"]:
            with_lidar.boxes[token] = boxes[token]
        else:
            without.append(token)
    add_center_dist(nusc, with_lidar)  # works on the same box objects
    for token in without:
        sample = nusc.get("sample", token)
        records = [nusc.get("sample_data", t) for t in sample["data"].values()]
        nearest = min(records, key=lambda record: abs(record["timestamp"] - sample["timestamp"]))
        ego = nusc.get("ego_pose", nearest["ego_pose_token"])["translation"]
        for box in boxes[token]:
            box.ego_translation = tuple(b - e for b, e in zip(box.translation, ego, strict=True))


def _filtered(nusc: NuScenes, boxes: EvalBoxes, class_range: Mapping[str, float]) -> EvalBoxes:
    _add_distance_from_ego(nusc, boxes)
    if not boxes.all:  # the devkit's filter cannot take that
        return boxes
    return filter_eval_boxes(nusc, boxes, class_range)


@dataclass(frozen=True, eq=False)
class ComparedBoxes:
    """The boxes that figures are made of: in the global frame, by sample, after the benchmark's filters.

    Attributes:
        truth: annotations within their class's range that a LiDAR or radar point hit.
        predicted: the best 500 of each sample, of those within their class's range.
    """

    truth: EvalBoxes
    predicted: EvalBoxes


def compared_boxes(nusc: NuScenes, sample_tokens: Sequence[str], predictions: Mapping[str, Boxes]) -> ComparedBoxes:
    """Filter annotations and predictions as the benchmark does; see ``evaluate_detections`` for arguments and errors."""
    config = config_factory(BENCHMARK)
    tokens = list(dict.fromkeys(sample_tokens))
    missing = [token for token in tokens if token not in predictions]
    if missing or not tokens:
        raise ValueError(
            f"{len(missing)} of {len(tokens)} samples have no predictions (give Boxes.empty where nothing was found)"
        )
    predicted = EvalBoxes()
    for token in tokens:
        check_class_names(predictions[token].class_names)
        predicted.add_boxes(token, to_detection_boxes(token, predictions[token], config.max_boxes_per_sample))
    return ComparedBoxes(
        truth=_filtered(nusc, load_ground_truth(nusc, tokens), config.class_range),
        predicted=_filtered(nusc, predicted, config.class_range),
    )


# -------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class.

    Attributes:
        ap: average precision by centre-distance threshold in metres.
        errors: by key of ``ERRORS``; NaN where the benchmark defines none, 1 where nothing was matched (the devkit's
            rule) and also where no matched ground truth knows the quantity.
        ground_truth: number of ground-truth boxes after filtering; ``with_velocity`` and ``with_attribute`` of them
            know theirs.
    """

    ap: dict[float, float]
    errors: dict[str, float]
    ground_truth: int
    with_velocity: int
    with_attribute: int

    @property
    def mean_ap(self) -> float:
        """Mean over the distance thresholds."""
        return float(np.mean(list(self.ap.values())))

    def known_error(self, key: str) -> float:
        """The error; NaN where the ground truth of this class cannot tell: no velocities, no attributes, no boxes."""
        known = {"AVE": self.with_velocity, "AAE": self.with_attribute}.get(key, self.ground_truth)
        return self.errors[key] if known else math.nan


@dataclass(frozen=True)
class DetectionResult:
    """Detection metrics over a list of samples.

    ``mAP``, ``NDS`` and ``errors`` are the official figures over the ten classes. ``*_present`` are over the classes of
    which there is ground truth after filtering; there an error averages only the classes whose ground truth knows the
    quantity, and NDS weighs only errors that are known for some class. ``ap_2m`` is the mean over the classes present
    of the AP at 2 m. ``boxes`` are what all of them were made of, for more figures of the same boxes.
    """

    mAP: float
    NDS: float
    errors: dict[str, float]
    mAP_present: float
    NDS_present: float
    errors_present: dict[str, float]
    ap_2m: float
    classes: dict[str, ClassMetrics]
    samples: int
    ground_truth: int
    predictions: int
    boxes: ComparedBoxes = field(repr=False, compare=False)

    @property
    def present(self) -> list[str]:
        """Classes of which there is ground truth."""
        return [name for name, metrics in self.classes.items() if metrics.ground_truth]

    def to_json(self) -> dict:
        """Plain dictionaries and numbers; what is undefined (NaN) is None. docs/evaluate.md describes the keys."""
        return {
            "mAP": number_or_none(self.mAP),
            "NDS": number_or_none(self.NDS),
            "errors": {key: number_or_none(value) for key, value in self.errors.items()},
            "mAP_present": number_or_none(self.mAP_present),
            "NDS_present": number_or_none(self.NDS_present),
            "errors_present": {key: number_or_none(value) for key, value in self.errors_present.items()},
            "ap_2m": number_or_none(self.ap_2m),
            "samples": self.samples,
            "ground_truth": self.ground_truth,
            "predictions": self.predictions,
            "classes": {
                name: {
                    "AP": number_or_none(metrics.mean_ap),
                    "ap": {str(threshold): number_or_none(ap) for threshold, ap in metrics.ap.items()},
                    **{key: number_or_none(value) for key, value in metrics.errors.items()},
                    "ground_truth": metrics.ground_truth,
                    "with_velocity": metrics.with_velocity,
                    "with_attribute": metrics.with_attribute,
                }
                for name, metrics in self.classes.items()
            },
        }


def number_or_none(value: float) -> float | None:
    """A number for JSON, where what is undefined (NaN) is null."""
    return None if math.isnan(value) else float(value)


def nanmean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def evaluate_detections(
    nusc: NuScenes, sample_tokens: Sequence[str], predictions: Mapping[str, Boxes]
) -> DetectionResult:
    """Score predictions against the annotations of the samples.

    Args:
        nusc: the database of the samples.
        sample_tokens: the samples to score on; repeated ones count once.
        predictions: for every sample token, boxes in the GLOBAL frame at the sample's timestamp (see ``to_global``);
            may be empty. More than 500 a sample are cut to the 500 of highest score, the benchmark's limit.

    Raises:
        UserError: a predicted class is not one of the benchmark's.
        ValueError: a sample has no predictions, or a box is not finite.
    """
    return evaluate_boxes(compared_boxes(nusc, sample_tokens, predictions))


def evaluate_boxes(boxes: ComparedBoxes) -> DetectionResult:
    """Figures of boxes that are filtered already."""
    config = config_factory(BENCHMARK)
    truth, predicted = boxes.truth, boxes.predicted
    official = DetectionMetrics(config)
    classes: dict[str, ClassMetrics] = {}
    for name in DETECTION_NAMES:
        data = {
            threshold: accumulate(truth, predicted, name, config.dist_fcn_callable, threshold)
            for threshold in config.dist_ths
        }
        ap = {
            threshold: calc_ap(data[threshold], config.min_recall, config.min_precision)
            for threshold in config.dist_ths
        }
        errors = {}
        for key, devkit_key in ERRORS.items():
            undefined = key in UNDEFINED_ERRORS.get(name, ())
            errors[key] = math.nan if undefined else calc_tp(data[config.dist_th_tp], config.min_recall, devkit_key)
            official.add_label_tp(name, devkit_key, errors[key])
        for threshold, value in ap.items():
            official.add_label_ap(name, threshold, value)
        own = [box for box in truth.all if box.detection_name == name]
        classes[name] = ClassMetrics(
            ap=ap,
            errors=errors,
            ground_truth=len(own),
            with_velocity=sum(bool(np.isfinite(box.velocity).all()) for box in own),
            with_attribute=sum(box.attribute_name != "" for box in own),
        )

    present = [metrics for metrics in classes.values() if metrics.ground_truth]
    errors_present = {key: nanmean([metrics.known_error(key) for metrics in present]) for key in ERRORS}
    map_present = nanmean([metrics.mean_ap for metrics in present])
    scores = [max(0.0, 1.0 - error) for error in errors_present.values() if not math.isnan(error)]
    weight = config.mean_ap_weight
    return DetectionResult(
        mAP=official.mean_ap,
        NDS=official.nd_score,
        errors={key: official.tp_errors[devkit_key] for key, devkit_key in ERRORS.items()},
        mAP_present=map_present,
        NDS_present=(weight * map_present + sum(scores)) / (weight + len(scores)),
        errors_present=errors_present,
        ap_2m=nanmean([metrics.ap[2.0] for metrics in present]),
        classes=classes,
        samples=len(truth.sample_tokens),
        ground_truth=len(truth.all),
        predictions=len(predicted.all),
        boxes=boxes,
    )


def mean_of_figures(runs: Sequence[Mapping]) -> dict:
    """Mean over several runs' ``to_json`` of the summary figures, and of the AP at 2 m by class; what a run does not know
    (None) does not count."""

    def mean(values: Iterable[float | None]) -> float | None:
        return number_or_none(nanmean([math.nan if value is None else value for value in values]))

    figures: dict = {
        key: mean(run[key] for run in runs) for key in ("mAP", "NDS", "mAP_present", "NDS_present", "ap_2m")
    }
    for group in ("errors", "errors_present"):
        figures[group] = {key: mean(run[group][key] for run in runs) for key in ERRORS}
    figures["ap_2m_classes"] = {
        name: mean(run["classes"][name]["ap"]["2.0"] for run in runs if run["classes"][name]["ground_truth"])
        for name in DETECTION_NAMES
    }
    return figures
