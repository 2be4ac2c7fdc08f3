"""What the verb ``label`` does: write the labels, or choose the thresholds for it. ``command.py`` is its command line."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import Detector, choose_device
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import model_path
from bevdistill_ros.training.data.nuscenes import (
    choose_samples,
    note_missing_scenes,
    open_nuscenes,
    open_samples,
    scene_of,
)
from bevdistill_ros.training.evaluate import predict
from bevdistill_ros.training.label.scene import SceneLabeller
from bevdistill_ros.training.label.tables import LabelledVersion
from bevdistill_ros.training.label.thresholds import check_scores, choose_scores, read_scores
from bevdistill_ros.training.teacher import Teacher, make_detector

COUNTED = ("objects", "still", "boxes", "filled", "without_points", "doubtful")
"""What the report has of every class; see ``docs/label.md``."""

LOWEST_SCORE = 0.05
"""Calibration looks at no boxes below."""


def run(arguments: argparse.Namespace) -> int:
    """Label or calibrate, as the options say; exit status."""
    path = model_path(arguments.checkpoint)
    detector = make_detector(load_checkpoint(path), choose_device(arguments.device), str(path))
    nusc = open_nuscenes(arguments.data, arguments.version)
    tokens = choose_samples(nusc, arguments.split, arguments.scenes)
    note_missing_scenes(nusc, arguments.split)
    make = _calibrate if arguments.calibrate is not None else _label
    report = make(arguments, detector, path, nusc, tokens)
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0


def _calibrate(
    arguments: argparse.Namespace, detector: Detector | Teacher, path: Path, nusc: NuScenes, tokens: list[str]
) -> dict[str, Any]:
    """Choose thresholds on labelled samples and write them."""
    samples = open_samples(nusc, tokens, detector.config, arguments.cameras or detector.cameras)
    with _bar(len(samples)) as bar:

        def pairs():
            for sample, found in predict(detector, samples, score_threshold=LOWEST_SCORE):
                yield found, sample.boxes
                bar.update()

        chosen = choose_scores(pairs(), detector.config.grid, arguments.score, arguments.precision)
    if not any(choice.truth for choice in chosen.values()):
        raise UserError(f"{nusc.table_root}: the chosen samples have no true boxes, which --calibrate needs")
    report = {
        "teacher": str(path),
        "data": str(arguments.data),
        "version": nusc.version,
        "split": arguments.split,
        "samples": len(tokens),
        "precision": arguments.precision,
        "scores": {name: choice.score for name, choice in chosen.items()},
        "classes": {name: asdict(choice) for name, choice in chosen.items()},
    }
    write_atomically(arguments.calibrate, json.dumps(report, indent=2) + "\n")
    print(f"{'class':<22}{'score':>7}{'precision':>11}{'recall':>8}{'true boxes':>12}")
    for name, choice in chosen.items():
        known = choice.precision is not None
        figures = f"{choice.precision:>11.3f}{choice.recall:>8.3f}" if known else f"{'-':>11}{'-':>8}"
        print(f"{name:<22}{choice.score:>7.3f}{figures}{choice.truth:>12}")
    print(f"{arguments.calibrate}: thresholds from {len(tokens)} samples")
    return report


def _label(
    arguments: argparse.Namespace, detector: Detector | Teacher, path: Path, nusc: NuScenes, tokens: list[str]
) -> dict[str, Any]:
    """Write a version with the teacher's boxes."""
    started = time.monotonic()
    names = detector.class_names
    thresholds = dict.fromkeys(names, arguments.score)
    if arguments.thresholds is not None:
        thresholds.update(read_scores(arguments.thresholds, names))
    thresholds.update(check_scores(dict(arguments.scores), names, "--scores"))
    cameras = arguments.cameras or detector.cameras
    scenes: dict[str, list[str]] = {}
    for token in tokens:
        scenes.setdefault(scene_of(nusc, token), []).append(token)
    settings = {
        "teacher": hashlib.sha256(path.read_bytes()).hexdigest(),
        "version": nusc.version,
        "thresholds": thresholds,
        "doubt": arguments.doubt,
        "cameras": list(cameras),
        "samples": hashlib.sha256("".join(tokens).encode()).hexdigest(),
    }
    version = LabelledVersion(nusc, arguments.output, settings)
    if version.complete:
        print(f"{version.folder}: is there already, made with the same settings")
        return version.report

    labeller = SceneLabeller(detector, nusc, thresholds, arguments.doubt)
    with _bar(len(tokens)) as bar:
        for name, own in scenes.items():
            if version.scene(name) is None:
                samples = open_samples(nusc, own, detector.config, cameras)
                version.add_scene(name, labeller(name, samples, bar.update))
            else:
                bar.update(len(own))
    report = {
        "output": str(version.folder),
        "teacher": str(path),
        "version": nusc.version,
        "scenes": len(scenes),
        "scenes_left": len(nusc.scene) - len(scenes),
        "samples": len(tokens),
        "thresholds": thresholds,
        "doubt": arguments.doubt,
        "classes": _total([version.scene(name)["classes"] for name in scenes], names),
        "seconds": round(time.monotonic() - started, 1),
    }
    version.finish(scenes, report)
    print(_table(report))
    return report


def _total(parts: Sequence[Mapping[str, Mapping[str, Any]]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sums over scenes, for every class."""
    total = {}
    for name in names:
        counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        dropped: Counter[str] = Counter()
        for part in parts:
            own = dict(part.get(name, {}))
            dropped.update(own.pop("dropped", {}))
            counts.update(own)
        total[name] = {**counts, "dropped": dict(sorted(dropped.items()))}
    return total


def _table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [f"{'class':<22}{'score':>7}" + "".join(f"{column.replace('_', ' '):>16}" for column in COUNTED)]
    dropped: Counter[str] = Counter()
    for name, counts in report["classes"].items():
        cells = "".join(f"{counts[column]:>16}" for column in COUNTED)
        lines.append(f"{name:<22}{report['thresholds'][name]:>7.3f}{cells}")
        dropped.update(counts["dropped"])
    if dropped:
        lines += ["left out:", *(f"  {count:>7} boxes: {reason}" for reason, count in sorted(dropped.items()))]
    lines.append(f"{report['output']}: labels of {report['samples']} samples in {report['scenes']} scenes")
    if report["scenes_left"]:
        lines.append(f"note: {report['scenes_left']} other scenes keep the annotations that they have")
    return "\n".join(lines)


def _bar(total: int):
    from tqdm import tqdm

    return tqdm(total=total, unit="sample", disable=None, leave=False)  # None: silent where it is no terminal
