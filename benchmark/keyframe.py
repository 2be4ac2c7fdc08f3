"""Proof on one real annotated keyframe: what the network finds it finds by looking.

A single keyframe can be learnt by heart. So the whole rig is turned by a random yaw, over the full circle but for gaps about four
yaws, and it is those four that are scored. A second training on black images is the control: it knows the calibration, but sees
nothing. Then the keyframe is played as a bag over DDS to the detector node, whose boxes must be those found offline.

    python benchmark/keyframe.py --data ROOT --output DIR --json benchmark/results/keyframe.json

Trainings that are finished in DIR are not done again; one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from node_vs_offline import largest_difference
from results_file import write_result

from bevdistill_ros.cli import main as bevdistill

UNSEEN_YAWS = (35, 125, -145, -55)
"""Degrees; config/models/keyframe.yaml leaves gaps of 5 degrees to either side of each in training."""


def train(name: str, data: Path, output: Path, *options: str) -> dict:
    """Train (or finish, or find finished) one model; its figures."""
    run, figures = output / name, output / f"{name}.json"
    if not figures.is_file():
        resume = ["--resume"] if (run / "last.ckpt").is_file() else ["--config", "keyframe"]
        arguments = [
            "--data",
            str(data),
            "--version",
            "v1.0-mini",
            "--output",
            str(run),
            "--cache-images",
            "--device",
            "cpu",
        ]
        if bevdistill(["train", *arguments, *resume, *options, "--json", str(figures)]):
            raise SystemExit(f"training {name} failed")
    return json.loads(figures.read_text())


def score(name: str, data: Path, output: Path, yaws: tuple[int, ...], *options: str) -> dict:
    """Evaluate a model at some yaws; the report of the verb `evaluate`."""
    report = output / f"{name}_{'_'.join(map(str, yaws))}.json"
    arguments = [
        str(output / name / "model.safetensors"),
        "--data",
        str(data),
        "--version",
        "v1.0-mini",
        "--device",
        "cpu",
    ]
    arguments += ["--rig-yaw-deg", *map(str, yaws), "--json", str(report), *options]
    if bevdistill(["evaluate", *arguments]):
        raise SystemExit(f"evaluation of {name} failed")
    return json.loads(report.read_text())


def main() -> None:
    """Train, score, play, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="nuScenes root (v1.0-mini) with one sample")
    parser.add_argument("--output", type=Path, required=True, help="folder for trainings and pictures")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    data, output = arguments.data, arguments.output
    output.mkdir(parents=True, exist_ok=True)

    seeing = train("seeing", data, output)
    blind = train("blind", data, output, "--black-images")
    pictures = ["--pictures", str(output / "pictures")]
    unseen = score("seeing", data, output, UNSEEN_YAWS, *pictures)
    upright = score("seeing", data, output, (0,), *pictures)
    black = score("blind", data, output, UNSEEN_YAWS, "--black-images")
    runs = unseen["runs"]
    figures = {
        "ap_2m_upright": upright["runs"][0]["ap_2m"],
        "ap_2m_unseen_yaw": float(np.mean([run["ap_2m"] for run in runs])),
        "ap_2m_unseen_yaw_each": {str(run["rig_yaw_deg"]): run["ap_2m"] for run in runs},
        "mate_unseen_yaw": float(np.mean([run["errors_present"]["ATE"] for run in runs])),
        "maoe_unseen_yaw": float(np.mean([run["errors_present"]["AOE"] for run in runs])),
        "ap_2m_black": float(np.mean([run["ap_2m"] for run in black["runs"]])),
        "ap_2m_by_class_upright": {
            name: metrics["ap"]["2.0"]
            for name, metrics in upright["runs"][0]["classes"].items()
            if metrics["ground_truth"]
        },
        "training_cpu_minutes": {"seeing": seeing["cpu_s"] / 60, "blind": blind["cpu_s"] / 60},
        **largest_difference(output / "seeing" / "model.safetensors", data, output / "bag"),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(arguments.json, figures, "python benchmark/keyframe.py --data ROOT --output DIR --json FILE")


if __name__ == "__main__":
    main()
