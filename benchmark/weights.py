"""What shipped weights are worth: figures on drives of the world that they were never trained on, and on the same drives with
cameras missing, with black images (what is known by heart), with shuffled colours and without colours (what is read from shape).

    python benchmark/weights.py weights/nano.safetensors --data FOLDER --json benchmark/results/weights.json

FOLDER keeps the held-out drives, about 0.4 MB a keyframe; they are made when they are not there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from results_file import write_result

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.evaluate import evaluate
from bevdistill_ros.training.evaluation import DetectionResult
from bevdistill_ros.training.evaluation_missing_cameras import camera_missing
from bevdistill_ros.training.evaluation_tables import camera_missing_table

SPLIT, DRIVES, DURATION = "held_out", 16, 5.0
COLOURS = ("natural", "shuffled", "grey")


def held_out(folder: Path, colours: str, drives: int = DRIVES) -> Path:
    """Make the first ``drives``, or what is missing of them; returns the dataset's root."""
    root = folder / colours
    command = [sys.executable, "-m", "bevdistill_ros", "world", "--output", str(root), "--split", SPLIT]
    command += ["--drives", str(drives), "--duration", str(DURATION), "--colours", colours]
    subprocess.run(command, check=True)
    return root


def open_samples(root: Path, detector: Detector) -> NuScenesSamples:
    """The drives as the detector takes them, decoded once."""
    nusc = open_nuscenes(root)
    tokens = choose_samples(nusc, SPLIT)
    return NuScenesSamples(nusc, tokens, detector.class_names, detector.preprocess, detector.cameras, cache=True)


def figures_of(result: DetectionResult) -> dict:
    """mAP, NDS, errors, and AP at 2 m by class."""
    values = result.to_json()
    return {
        "mAP": values["mAP"],
        "NDS": values["NDS"],
        "errors": values["errors"],
        "ap_2m": {name: round(metrics.ap[2.0], 4) for name, metrics in result.classes.items()},
    }


def short(result: DetectionResult) -> dict:
    """mAP and NDS."""
    return {"mAP": round(result.mAP, 4), "NDS": round(result.NDS, 4)}


def without_cameras(detector: Detector, samples: NuScenesSamples, complete: DetectionResult) -> dict:
    """By the number of cameras gone, means over several choices of them."""
    rows = camera_missing(lambda gone: evaluate(detector, samples, drop_cameras=gone), samples.cameras, complete)
    print(camera_missing_table(rows), flush=True)
    return {gone: {key: round(row[key], 4) for key in ("mAP", "NDS")} for gone, row in rows.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    detector = Detector.from_checkpoint(arguments.checkpoint, arguments.device)
    results = {}
    for colours in COLOURS:
        samples = open_samples(held_out(arguments.data, colours), detector)
        results[colours] = evaluate(detector, samples)
        print(f"{colours}: {short(results[colours])}", flush=True)
        if colours == "natural":
            natural = samples
    black = evaluate(detector, natural, black_images=True)
    figures = {
        "checkpoint": arguments.checkpoint.name,
        "trained": load_checkpoint(arguments.checkpoint).training,
        "held_out": {"split": SPLIT, "drives": DRIVES, "samples": len(natural)},
        **figures_of(results["natural"]),
        "black_images": short(black),
        **{name: figures_of(results[name]) for name in ("shuffled", "grey")},
        "kept": {
            name: {key: round(short(results[name])[key] / short(results["natural"])[key], 4) for key in ("mAP", "NDS")}
            for name in ("shuffled", "grey")
        },
        "camera_missing": without_cameras(detector, natural, results["natural"]),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
