"""What each backend makes of shipped weights: figures on drives of the world that they were never trained on, boxes against those
of the network as it was written, and time.

    python benchmark/backends.py weights/nano.safetensors --data FOLDER --json benchmark/results/backends.json
    python benchmark/backends.py weights/nano.safetensors --data FOLDER --device cuda --json benchmark/results/backends_cuda.json

FOLDER keeps the held-out drives, as for benchmark/weights.py. ``eager`` is the network as it was written, in float32, which the
others are measured by. Times are of one set of six images, without upload and decoding of boxes, the ways run in turn in one
process; ``ratio`` is eager's median over theirs. The ONNX file, on the CPU, is exported to a temporary folder. ``--drives N``
scores the first N alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result
from ways import AS_WRITTEN as EAGER
from ways import make_ways

from bevdistill_ros import cli
from bevdistill_ros.bench.timing import waiter
from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.runtime.backends import ONNXRUNTIME
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, Sample, choose_samples, open_nuscenes
from bevdistill_ros.training.evaluate import evaluate
from weights import DRIVES, held_out

SCORE = 0.3
"""Boxes from here on, the detector's default, are compared one by one."""
NEAR = 0.5
"""Metres within which a box of the same class is the same one."""
ALLOWED = 0.2
"""Points of mAP and NDS that a backend may differ."""


def make_detectors(checkpoint: Path, folder: Path, device: str = "cpu") -> dict[str, Detector]:
    """By backend, and on CUDA by how it is executed, too. On the CPU it exports into ``folder``."""
    detectors = make_ways(load_checkpoint(checkpoint), device)
    if device == "cpu":
        path = folder / checkpoint.name
        shutil.copy(checkpoint, path)
        if cli.main(["export", str(path)]):
            raise SystemExit(1)
        detectors[ONNXRUNTIME] = Detector.from_checkpoint(path, backend=ONNXRUNTIME)
    return detectors


def times_ms(detectors: dict[str, Detector], sample: Sample, repeats: int) -> dict[str, float]:
    """Median of the network on one set of images; wall time."""
    inputs = [torch.from_numpy(np.asarray(value))[None] for value in (sample.images, sample.K, sample.ego_T_cam)]
    device = next(iter(detectors.values())).device
    inputs = [inputs[0].to(device), *(value.float() for value in inputs[1:])]
    wait = waiter(device)
    taken: dict[str, list[float]] = {name: [] for name in detectors}
    for turn in range(repeats + 2):
        for name, detector in detectors.items():
            begin = time.perf_counter()
            detector.runtime(*inputs)
            wait()
            if turn > 1:
                taken[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in taken.items()}


def differences(found: list[Boxes], expected: list[Boxes]) -> dict[str, float]:
    """Of eager's boxes from ``SCORE`` on: how many are found again, and how far off 99 of 100 of these, and all, are at most.

    Where an object has two boxes, the nearest one of its class may be the other one.
    """
    kept, metres, scores = 0, [], []
    for ours, theirs in zip(found, expected, strict=True):
        for box in np.flatnonzero(theirs.scores >= SCORE):
            kept += 1
            distances = np.linalg.norm(ours.centers - theirs.centers[box], axis=1)
            distances[ours.labels != theirs.labels[box]] = np.inf
            if len(distances) and distances.min() < NEAR:
                metres.append(float(distances.min()))
                scores.append(abs(float(ours.scores[distances.argmin()] - theirs.scores[box])))
    return {
        "boxes": kept,
        "found_again": len(metres),
        "p99_metres": round(float(np.percentile(metres or [0.0], 99)), 6),
        "max_metres": round(max(metres, default=0.0), 6),
        "p99_score_difference": round(float(np.percentile(scores or [0.0], 99)), 6),
        "max_score_difference": round(max(scores, default=0.0), 6),
    }


def make_parser(description: str) -> argparse.ArgumentParser:
    """Options of what scores ways to run a checkpoint."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--drives", type=int, metavar="N", help="score the first N drives (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", type=Path)
    return parser


def open_drives(folder: Path, colours: str, detector: Detector, drives: int | None = None) -> NuScenesSamples:
    """Samples of the first ``drives`` held-out drives (None: of all) in these colours, as the detector takes them."""
    nusc = open_nuscenes(held_out(folder, colours, drives or DRIVES))
    tokens = choose_samples(nusc, None, [scene["name"] for scene in nusc.scene][:drives])
    return NuScenesSamples(nusc, tokens, detector.class_names, detector.preprocess, detector.cameras, cache=True)


def main() -> int:
    """Measure and write."""
    parser = make_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        detectors = make_detectors(arguments.checkpoint, Path(folder), arguments.device)
        samples = open_drives(arguments.data, "natural", detectors[EAGER], arguments.drives)
        figures: dict[str, Any] = {}
        boxes: dict[str, list[Boxes]] = {}
        for name, detector in detectors.items():
            boxes[name] = []
            result = evaluate(detector, samples, each=lambda _, __, found, kept=boxes[name]: kept.append(found))
            figures[name] = {"mAP": 100 * result.mAP, "NDS": 100 * result.NDS}
        ms = times_ms(detectors, samples[0], arguments.repeats)
    for name, row in figures.items():
        if name != EAGER:
            row.update({f"{key}_difference": round(row[key] - figures[EAGER][key], 3) for key in ("mAP", "NDS")})
            row.update(differences(boxes[name], boxes[EAGER]))
            row["holds"] = all(abs(row[f"{key}_difference"]) <= ALLOWED for key in ("mAP", "NDS"))
        row.update(ms=round(ms[name], 2), ratio=round(ms[EAGER] / ms[name], 2))
    for row in figures.values():
        row.update({key: round(row[key], 3) for key in ("mAP", "NDS")})
    report = {
        "checkpoint": arguments.checkpoint.name,
        "samples": len(samples),
        "device": arguments.device,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "backends": figures,
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        write_result(arguments.json, report)
    return 0 if all(row.get("holds", True) for row in figures.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
