"""The figures of a demo: what was received, how long it took, and how right it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_from_quaternion
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, Sample
from bevdistill_ros.training.demo.records import DetectedSet, SetStatus
from bevdistill_ros.training.evaluation import DetectionResult, evaluate_detections

END_TO_END = "end_to_end"
"""Beside the stages: from the time of the boxes to their publication."""


def counts(sets: Sequence[DetectedSet], statuses: Sequence[SetStatus], score: float) -> dict[str, int]:
    """Numbers of sets received, and of boxes in them whose score is at least ``score``."""
    last = statuses[-1] if statuses else None
    return {
        "sets": len(sets),
        "partial_sets": sum(found.partial for found in sets),
        "superseded_sets": last.superseded_sets if last else 0,
        "failed_sets": last.failed_sets if last else 0,
        "dropped_images": last.dropped_images if last else 0,
        "detections": sum(int((found.boxes.scores >= score).sum()) for found in sets),
    }


def latencies(statuses: Sequence[SetStatus]) -> dict[str, dict[str, float]]:
    """Median and 99th percentile (ms) by stage, over the sets of which boxes came."""
    by_stage: dict[str, list[float]] = {}
    for status in statuses:
        if status.published:
            for name, milliseconds in {**status.stages_ms, END_TO_END: status.latency_ms}.items():
                by_stage.setdefault(name, []).append(milliseconds)
    return {name: _percentiles(values) for name, values in by_stage.items()}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


# ------------------------------------------------------------------------------------------------------------ keyframes


@dataclass(frozen=True, eq=False)
class KeyframeBoxes:
    """What was found of a keyframe.

    Attributes:
        sample: the keyframe, without pixels.
        boxes: in the GLOBAL frame at ``stamp``; None if no set of its images was received.
        stamp: ns.
    """

    sample: Sample
    boxes: Boxes | None
    stamp: int

    def in_global(self) -> Boxes | None:
        """Boxes in the global frame at the time of the annotations."""
        if self.boxes is None:
            return None
        return self.boxes.propagated((self.sample.timestamp - self.stamp) * 1e-9)

    def in_base(self) -> Boxes | None:
        """Boxes in the base frame at the sample's reference time."""
        if self.boxes is None:
            return None
        moved = self.boxes.propagated((self.sample.t_ref - self.stamp) * 1e-9)
        return moved.transformed(invert(self.sample.global_T_ego))


def at_keyframes(samples: NuScenesSamples, sets: Sequence[DetectedSet]) -> list[KeyframeBoxes]:
    """For every keyframe the set made of its images: boxes have the stamp of one of them."""
    by_stamp = {found.stamp: found for found in sets}
    keyframes = []
    for index in range(len(samples)):
        sample = samples.geometry(index)
        boxes, stamp = None, sample.t_ref
        for record in samples.records(index).values():
            found = by_stamp.get(record["timestamp"] * 1000)
            if found is not None:
                boxes, stamp = found.boxes.transformed(_global_T_ego(samples, record)), found.stamp
                break
        keyframes.append(KeyframeBoxes(sample, boxes, stamp))
    return keyframes


def _global_T_ego(samples: NuScenesSamples, record: Mapping) -> np.ndarray:
    """(4, 4) where the ego vehicle was when an image was taken."""
    pose = samples.nusc.get("ego_pose", record["ego_pose_token"])
    w, x, y, z = pose["rotation"]
    return make_transform(rotation_from_quaternion((x, y, z, w)), pose["translation"])


def score(samples: NuScenesSamples, keyframes: Sequence[KeyframeBoxes]) -> DetectionResult:
    """Detection metrics over the keyframes; one without a set counts as one in which nothing was found."""
    predictions = {}
    for keyframe in keyframes:
        found = keyframe.in_global()
        predictions[keyframe.sample.token] = Boxes.empty(samples.class_names) if found is None else found
    return evaluate_detections(samples.nusc, samples.tokens, predictions)


def average_precisions(result: DetectionResult) -> dict[str, float | None]:
    """AP at 2 m by class; None for a class that the drive does not show."""
    return {
        name: round(metrics.ap[2.0], 4) if metrics.ground_truth else None for name, metrics in result.classes.items()
    }
