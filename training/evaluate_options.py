"""The command line of the verb ``evaluate``.

What is wrong with it is told before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bevdistill_ros.arguments import at_least_one
from bevdistill_ros.paths import model_path
from bevdistill_ros.runtime.backends import BACKENDS

MOST = 3
"""Cameras gone at most, where ``--missing-cameras`` names no number."""


def main(argv: Sequence[str]) -> int:
    """Parse and evaluate; exit status."""
    arguments = make_parser().parse_args(argv)
    paths = [model_path(checkpoint) for checkpoint in arguments.checkpoints]

    from bevdistill_ros.training.evaluate import run

    return run(arguments, paths)


def make_parser() -> argparse.ArgumentParser:
    """All options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill evaluate",
        description="Score checkpoints by the nuScenes detection benchmark (mAP, NDS and errors, by nuscenes-devkit's "
        "own code) on a dataset in the nuScenes schema.",
        epilog="example: bevdistill evaluate runs/nano/model.safetensors --data /data/nuscenes --version v1.0-mini "
        "--split mini_val --json nano.json --ranges 0,20,35,50 --missing-cameras --plots plots",
    )
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="a model.safetensors of `bevdistill train`, student or teacher, what was exported from one, or the name of weights "
        "shipped; of several, "
        "a table compares them",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="ROOT", help="dataset folder, which holds the version's folder"
    )
    parser.add_argument("--version", help="folder of the tables in ROOT, e.g. v1.0-mini (default: the only one)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--split", help="an official split, e.g. val or mini_val, or one of ROOT/VERSION/splits.json")
    chosen.add_argument("--scenes", nargs="+", metavar="NAME", help="scenes by name (default: all)")
    parser.add_argument(
        "--cameras", nargs="+", metavar="CHANNEL", help="cameras to use (default: those of the training)"
    )
    parser.add_argument(
        "--drop-cameras",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="cameras that are masked, as if they had failed",
    )
    parser.add_argument("--black-images", action="store_true", help="control experiment: the network sees black images")
    parser.add_argument(
        "--rig-yaw-deg",
        nargs="+",
        type=_angle,
        default=[0.0],
        metavar="A",
        help="turn the whole rig by these angles before the network, and the boxes back after it; scores each of them",
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.0, metavar="S", help="leave out boxes below (default: %(default)s)"
    )
    parser.add_argument(
        "--ranges",
        type=_edges,
        metavar="A,B,...",
        help="also AP by distance from the ego vehicle, in bins between these distances in metres, e.g. 0,20,35,50",
    )
    parser.add_argument(
        "--missing-cameras",
        nargs="?",
        type=at_least_one,
        const=MOST,
        metavar="N",
        help="also mAP and NDS with 1 to N cameras gone, means over several choices of them (N: %(const)s)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="what runs a student, as the detector's parameter (default: onnxruntime an exported model, torch a checkpoint)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there (docs/evaluate.md explains the keys)"
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="draw precision over recall, and calibration, as PNGs, and write the same numbers as JSON",
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write PNGs of images and the view from above, with boxes"
    )
    parser.add_argument(
        "--pictures-every",
        type=at_least_one,
        default=1,
        metavar="N",
        help="of every N-th sample (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures-score",
        type=float,
        default=0.3,
        metavar="S",
        help="draw boxes from this score on (default: %(default)s)",
    )
    return parser


def _angle(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no angle")
    return value


def _edges(text: str) -> list[float]:
    try:
        edges = [float(part) for part in text.split(",")]
    except ValueError:
        edges = []
    rising = all(near < far for near, far in pairwise(edges))
    if len(edges) < 2 or not rising or edges[0] < 0 or not math.isfinite(edges[-1]):
        raise argparse.ArgumentTypeError(f"{text} is not a list of rising distances, as 0,20,35,50")
    return edges
