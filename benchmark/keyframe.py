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
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent))
from node_vs_offline import largest_difference
from results_file import write_result

from bevdistill_ros.cli import main as bevdistill

UNSEEN_YAWS = (35, 125, -145, -55)
"""Degrees; config/models/keyframe.yaml leaves gaps of 5 degrees to either side of each in training."""


def train(name: str, config: str, seed: int, data: Path, output: Path, *options: str) -> dict:
    """Train (or finish, or find finished) one model of a shipped configuration; its figures."""
    run, figures = output / name, output / f"{name}.json"
    if not figures.is_file():
        resume = ["--resume"] if (run / "last.ckpt").is_file() else ["--config", config]
        arguments = ["--data", str(data), "--version", "v1.0-mini", "--output", str(run), "--device", "cpu"]
        options = (*options, "--set", f"training.seed={seed}", "--json", str(figures))
        if bevdistill(["train", *arguments, *resume, *options]):
            raise SystemExit(f"training {name} failed")
    return json.loads(figures.read_text())


def score(name: str, data: Path, output: Path, yaws: tuple[int, ...], *options: str) -> dict:
    """Evaluate a model at some yaws; its entry in the report of the verb `evaluate`."""
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
    (entry,) = json.loads(report.read_text())["checkpoints"]
    return entry


def main() -> None:
    """Train, score, play, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="nuScenes root (v1.0-mini) with one sample")
    parser.add_argument("--output", type=Path, required=True, help="folder for trainings and pictures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    data, output = arguments.data, arguments.output
    output.mkdir(parents=True, exist_ok=True)

    pictures = ["--pictures", str(output / "pictures")]
    seeds = []
    for seed in arguments.seeds:
        seeing, blind = f"seeing_{seed}", f"blind_{seed}"
        cost = {
            "seeing": train(seeing, "keyframe", seed, data, output, "--cache-images")["cpu_s"] / 60,
            "blind": train(blind, "keyframe", seed, data, output, "--cache-images", "--black-images")["cpu_s"] / 60,
        }
        unseen = score(seeing, data, output, UNSEEN_YAWS, *(pictures if seed == arguments.seeds[0] else []))["runs"]
        upright = score(seeing, data, output, (0,))["runs"][0]
        black = score(blind, data, output, UNSEEN_YAWS, "--black-images")["runs"]
        seeds.append(
            {
                "seed": seed,
                "ap_2m_upright": upright["ap_2m"],
                "ap_2m_unseen_yaw": mean(run["ap_2m"] for run in unseen),
                "mate_unseen_yaw": mean(run["errors_present"]["ATE"] for run in unseen),
                "maoe_unseen_yaw": mean(run["errors_present"]["AOE"] for run in unseen),
                "ap_2m_black": mean(run["ap_2m"] for run in black),
                "ap_2m_unseen_yaw_each": {str(run["rig_yaw_deg"]): run["ap_2m"] for run in unseen},
                "ap_2m_by_class_upright": {
                    name: metrics["ap"]["2.0"]
                    for name, metrics in upright["classes"].items()
                    if metrics["ground_truth"]
                },
                "training_cpu_minutes": cost,
            }
        )
    summary = ("ap_2m_upright", "ap_2m_unseen_yaw", "mate_unseen_yaw", "maoe_unseen_yaw", "ap_2m_black")
    model = output / f"seeing_{arguments.seeds[0]}" / "model.safetensors"
    figures = {
        **{name: mean(seed[name] for seed in seeds) for name in summary},
        "spread": {name: [min(s[name] for s in seeds), max(s[name] for s in seeds)] for name in summary},
        **largest_difference(model, data, output / "bag"),
        "seeds": seeds,
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(arguments.json, figures, "python benchmark/keyframe.py --data ROOT --output DIR --json FILE")


if __name__ == "__main__":
    main()
