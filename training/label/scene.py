"""One scene: what a teacher finds in it, and the rows of nuScenes' tables that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.config import PointsConfig
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_z
from bevdistill_ros.training.convert.annotations import CATEGORY_OF_CLASS
from bevdistill_ros.training.convert.point_clouds import count_inside
from bevdistill_ros.training.data.doubtful import doubtful_rows
from bevdistill_ros.training.data.lidar import LidarReader
from bevdistill_ros.training.data.nuscenes import NuScenesSamples
from bevdistill_ros.training.data.nuscenes_tables import rounded, token, wxyz
from bevdistill_ros.training.evaluate import predict
from bevdistill_ros.training.evaluation import attribute_of
from bevdistill_ros.training.label.objects import WEAK, Frame, SceneObjects, doubtful_boxes, find_objects
from bevdistill_ros.training.label.refine import LabelledObject, concatenate
from bevdistill_ros.training.label.tables import with_categories
from bevdistill_ros.training.teacher import Teacher

EDGE = 0.1
"""m. Points so close to a box count as its own: few boxes are exact to less."""


@dataclass(frozen=True, eq=False)
class _Keyframe:
    """Times (ns) and pose of a sample."""

    token: str
    t_ref: int
    timestamp: int
    global_T_ego: np.ndarray


class SceneLabeller:
    """Labels scenes with one teacher.

    Args:
        detector: the teacher.
        nusc: tables of the dataset.
        thresholds: score by class.
        doubt: share of these from which on a box that becomes no object is doubtful.
    """

    def __init__(
        self, detector: Detector | Teacher, nusc: NuScenes, thresholds: Mapping[str, float], doubt: float
    ) -> None:
        self.detector, self.nusc, self.thresholds, self.doubt = detector, nusc, thresholds, doubt
        self._categories = {row["name"]: row["token"] for row in with_categories(nusc.category)}
        self._attributes = {row["name"]: row["token"] for row in nusc.attribute}
        has_lidar = any(sensor["modality"] == "lidar" for sensor in nusc.sensor)
        self._lidar = LidarReader(nusc, PointsConfig()) if has_lidar else None

    def __call__(self, name: str, samples: NuScenesSamples, each: Callable[[], None]) -> dict[str, Any]:
        """Rows of a scene, and the report of each class.

        Args:
            name: of the scene.
            samples: all of its samples, in order of time.
            each: called after each sample.
        """
        keyframes, frames = [], []
        lowest = min(WEAK, self.doubt) * min(self.thresholds.values())
        for sample, boxes in predict(self.detector, samples, score_threshold=lowest):
            keyframes.append(_Keyframe(sample.token, sample.t_ref, sample.timestamp, sample.global_T_ego))
            frames.append(Frame(sample.t_ref, boxes.transformed(sample.global_T_ego)))
            each()
        found = find_objects(frames, self.thresholds)
        annotations, instances = self._rows(name, keyframes, found)
        doubtful = []
        for number, (keyframe, frame) in enumerate(zip(keyframes, frames)):
            written = [thing.boxes[thing.frames == number] for thing in found.objects]
            there = concatenate(written) if written else Boxes.empty(frame.boxes.class_names)
            doubtful += doubtful_rows(keyframe.token, doubtful_boxes(frame, there, self.thresholds, self.doubt))
        return {
            "annotations": annotations,
            "instances": instances,
            "doubtful": doubtful,
            "classes": _report(found, annotations, instances, doubtful),
        }

    def _rows(self, scene: str, keyframes: list[_Keyframe], found: SceneObjects) -> tuple[list[dict], list[dict]]:
        points = [self._points(keyframe) for keyframe in keyframes]
        annotations, instances = [], []
        for number, thing in enumerate(found.objects):
            instance = token(scene, "label", number)
            rows = []
            for at, frame in enumerate(thing.frames):
                rows.append(self._annotation(thing, at, keyframes[frame], points[frame], token(instance, int(frame))))
            for before, after in pairwise(rows):
                before["next"], after["prev"] = after["token"], before["token"]
            for row in rows:
                row["instance_token"] = instance
            annotations += rows
            instances.append(
                {
                    "token": instance,
                    "category_token": self._categories[CATEGORY_OF_CLASS[thing.name]],
                    "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"],
                    "last_annotation_token": rows[-1]["token"],
                    "score": round(thing.score, 4),
                }
            )
        return annotations, instances

    def _points(self, keyframe: _Keyframe) -> np.ndarray | None:
        """(n, 3) of the keyframe's own readings, base frame at its reference time; None where there is no LiDAR."""
        if self._lidar is None:
            return None
        return self._lidar.points(keyframe.token, keyframe.global_T_ego, keyframe.t_ref)[:, :3].astype(np.float64)

    def _annotation(
        self, thing: LabelledObject, at: int, keyframe: _Keyframe, points: np.ndarray | None, record: str
    ) -> dict[str, Any]:
        # Boxes are found at the reference time; annotations are of the sample's own.
        box = thing.boxes[at].propagated((keyframe.timestamp - keyframe.t_ref) * 1e-9)
        pose = make_transform(rotation_z(box.yaws[0]), box.centers[0])
        length, width, height = rounded(box.sizes[0])
        inside = 0
        if points is not None:
            inside = count_inside(points, invert(pose) @ keyframe.global_T_ego, box.sizes[0] + 2 * EDGE)
        if thing.found[at] or points is None:
            inside = max(
                inside, 1
            )  # the teacher has seen it, be its box beside the echoes; 0 would hide it from training
        attribute = ""
        if len(thing.detections) > 1:  # otherwise its velocity is not known
            attribute = attribute_of(thing.name, float(np.hypot(*box.velocities[0])))
        return {
            "token": record,
            "sample_token": keyframe.token,
            "instance_token": "",
            "visibility_token": "",
            "attribute_tokens": [self._attributes[attribute]] if attribute in self._attributes else [],
            "translation": rounded(box.centers[0]),
            "size": [width, length, height],
            "rotation": wxyz(pose[:3, :3]),
            "prev": "",
            "next": "",
            "num_lidar_pts": inside,
            "num_radar_pts": 0,
            "score": round(float(box.scores[0]), 4) if thing.found[at] else None,
        }


def _report(
    found: SceneObjects, annotations: list[dict], instances: list[dict], doubtful: list[dict]
) -> dict[str, dict[str, Any]]:
    """Counts by class; see ``docs/label.md``."""
    name_of = {instance["token"]: thing.name for instance, thing in zip(instances, found.objects)}
    classes: dict[str, Counter[str]] = {}
    for row in annotations:
        counts = classes.setdefault(name_of[row["instance_token"]], Counter())
        counts["boxes"] += 1
        counts["filled"] += row["score"] is None
        counts["without_points"] += row["num_lidar_pts"] == 0
    for row in doubtful:
        classes.setdefault(row["detection_name"], Counter())["doubtful"] += 1
    for thing in found.objects:
        counts = classes[thing.name]
        counts["objects"] += 1
        counts["still"] += thing.still
    report: dict[str, dict[str, Any]] = {name: dict(counts) for name, counts in classes.items()}
    for (name, reason), count in found.dropped.items():
        report.setdefault(name, {}).setdefault("dropped", {})[reason] = count
    return report
