"""Proof on one real annotated keyframe: the LiDAR teacher fits real points and real annotations.

The rig is turned by a random yaw in training, so that boxes are found where their points are, and not where they were learnt by
heart. Scored are the keyframe as it is and two yaws that the training left out. That tells whether reading, frames, targets and
decoding fit each other; one keyframe says nothing about streets never seen.

    python benchmark/keyframe_teacher.py --data ROOT --output DIR --json benchmark/results/keyframe_teacher.json

Trainings that are finished in DIR are not done again; one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent))
from keyframe import score, train
from results_file import write_result

UNSEEN_YAWS = (-15, 15)
"""Degrees; config/models/teacher_keyframe.yaml leaves gaps about them in training."""

SUMMARY = ("ap_2m_upright", "ap_2m_unseen_yaw", "mate_upright", "maoe_upright")


def main() -> None:
    """Train, score, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="nuScenes root (v1.0-mini) with one sample")
    parser.add_argument("--output", type=Path, required=True, help="folder for trainings and pictures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    data, output = arguments.data, arguments.output
    output.mkdir(parents=True, exist_ok=True)

    seeds = []
    for seed in arguments.seeds:
        name = f"teacher_{seed}"
        cpu_s = train(name, "teacher_keyframe", seed, data, output)["cpu_s"]
        upright = score(name, data, output, (0,), "--pictures", str(output / "pictures"))["runs"][0]
        unseen = score(name, data, output, UNSEEN_YAWS)["runs"]
        seeds.append(
            {
                "seed": seed,
                "ap_2m_upright": upright["ap_2m"],
                "ap_2m_unseen_yaw": mean(run["ap_2m"] for run in unseen),
                "mate_upright": upright["errors_present"]["ATE"],
                "maoe_upright": upright["errors_present"]["AOE"],
                "ap_2m_by_class_upright": {
                    name: metrics["ap"]["2.0"]
                    for name, metrics in upright["classes"].items()
                    if metrics["ground_truth"]
                },
                "training_cpu_minutes": cpu_s / 60,
            }
        )
    figures = {
        **{name: mean(seed[name] for seed in seeds) for name in SUMMARY},
        "spread": {name: [min(s[name] for s in seeds), max(s[name] for s in seeds)] for name in SUMMARY},
        "seeds": seeds,
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_result(
            arguments.json, figures, "python benchmark/keyframe_teacher.py --data ROOT --output DIR --json FILE"
        )


if __name__ == "__main__":
    main()
