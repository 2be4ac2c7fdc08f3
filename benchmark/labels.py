"""What a teacher's labels are worth: `label` on scenes whose true boxes are known, before and after objects are followed.

The first half of the scenes chooses the thresholds; the other half is labelled and compared with the truth, on the teacher's grid.
A box is right that is within 2 m of a true one of its class. The dataset is not written to.

    python benchmark/labels.py TEACHER --data ROOT --version v1.0-world --split held_out --json FILE
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.cli import main as bevdistill
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples, scene_of
from bevdistill_ros.training.evaluate import predict
from bevdistill_ros.training.label.motion import MOTIONS
from bevdistill_ros.training.label.thresholds import match, read_scores
from bevdistill_ros.training.teacher import make_detector

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results_file import write_result

LABELS = "v1.0-labels"


def main() -> None:
    """Calibrate, label, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a checkpoint")
    parser.add_argument(
        "--data", type=Path, required=True, help="dataset with true boxes that the teacher has never seen"
    )
    parser.add_argument("--version", required=True, help="folder of its tables")
    parser.add_argument("--split", help="default: all scenes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    for stage in ("before", "after"):
        for name, row in figures[stage].items():
            print(f"{stage:<7} {name:<21}", *(f"{key} {'-' if v is None else f'{v:.3f}'}" for key, v in row.items()))
    if arguments.json:
        write_result(arguments.json, figures)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures by stage and class; the labels are written into a root of links in ``folder``."""
    root = folder / "dataset"
    root.mkdir()
    for path in arguments.data.iterdir():
        (root / path.name).symlink_to(path.resolve())
    nusc = open_nuscenes(root, arguments.version)
    tokens = choose_samples(nusc, arguments.split)
    scenes = list(dict.fromkeys(scene_of(nusc, t) for t in tokens))
    half = len(scenes) // 2
    thresholds = folder / "thresholds.json"
    common = ["label", arguments.teacher, "--data", str(root), "--version", arguments.version]
    run([*common, "--scenes", *scenes[:half], "--calibrate", str(thresholds)])
    run([*common, "--scenes", *scenes[half:], "--thresholds", str(thresholds), "--output", LABELS])

    detector = make_detector(load_checkpoint(arguments.teacher), "cpu", arguments.teacher)
    limits = read_scores(thresholds, detector.class_names)
    lowest = np.array([limits[name] for name in detector.class_names])
    tokens = choose_samples(nusc, None, scenes[half:])
    samples = open_samples(nusc, tokens, detector.config, detector.cameras)
    labelled = open_samples(open_nuscenes(root, LABELS), tokens, detector.config, detector.cameras)
    before, after = [], []
    for index, (sample, boxes) in enumerate(predict(detector, samples, score_threshold=float(lowest.min()))):
        before.append((boxes[boxes.scores >= lowest[boxes.labels]], sample.boxes))
        after.append((labelled.geometry(index).boxes, sample.boxes))
    return {
        "calibration_scenes": half,
        "scenes": len(scenes) - half,
        "samples": len(tokens),
        "thresholds": limits,
        "before": compare(before, detector.config.grid),
        "after": compare(after, detector.config.grid),
    }


def run(command: list[str]) -> None:
    """One verb, which must succeed."""
    if bevdistill(command):
        raise SystemExit(1)


def compare(pairs: Iterable[tuple[Boxes, Boxes]], grid: BevGrid) -> dict[str, dict[str, float | None]]:
    """By class and for all: precision, recall, and mean errors of position (m) and velocity (m/s) of the boxes that are right."""
    counts: dict[str, np.ndarray] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    for found, true in pairs:
        found, true = (boxes[grid.contains(boxes.centers[:, :2])] for boxes in (found, true))
        for label, name in enumerate(found.class_names):
            own, targets = found[found.labels == label], true[true.labels == label]
            own = own[np.argsort(-own.scores, kind="stable")]
            matched = match(own, targets)
            hit = matched >= 0
            targets_hit = targets[matched[hit]]
            position = np.linalg.norm(own.centers[hit, :2] - targets_hit.centers[:, :2], axis=1)
            velocity = np.linalg.norm(own.velocities[hit] - targets_hit.velocities, axis=1)
            if not MOTIONS[name].moves:
                velocity[:] = np.nan
            for key in (name, "all"):
                counts[key] = counts.get(key, np.zeros(3)) + (len(own), len(targets), hit.sum())
                errors.setdefault(key, []).extend(zip(position, velocity, strict=True))
    figures = {}
    for name in sorted(counts, key="all".__eq__):  # the sum comes last
        boxes, truths, hits = counts[name]
        position, velocity = np.array(errors[name]).reshape(-1, 2).T
        figures[name] = {
            "truth": float(truths),
            "precision": _ratio(hits, boxes),
            "recall": _ratio(hits, truths),
            "position_error_m": _mean(position),
            "velocity_error_m_per_s": _mean(velocity),
        }
    return figures


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


if __name__ == "__main__":
    main()
