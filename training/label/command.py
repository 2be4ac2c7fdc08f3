"""The command line of ``label``: write the labels (``--output``), or choose the thresholds for it (``--calibrate``).

What is wrong with it is told before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = """
examples:
  bevdistill label teacher.safetensors --data labelled --split val --calibrate thresholds.json
  bevdistill label teacher.safetensors --data drives --version v1.0-bags --thresholds thresholds.json --output v1.0-labels
  bevdistill train --config nano --data drives --version v1.0-labels --output runs/student
"""


def main(argv: Sequence[str]) -> int:
    """Parse and run; exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.precision is not None and arguments.calibrate is None:
        parser.error("--precision belongs to --calibrate")
    if arguments.calibrate is not None and (arguments.thresholds or arguments.scores):
        parser.error("--calibrate chooses the thresholds: --thresholds and --scores do not go with it")

    from bevdistill_ros.training.label.run import run

    return run(arguments)


def _share(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 < value <= 1):
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _class_score(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        score = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write CLASS=SCORE, for example car=0.4") from None
    if not (name and 0 < score <= 1):
        raise argparse.ArgumentTypeError(f"{text}: a score is above 0 and at most 1")
    return name, score


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill label",
        description="Let a trained teacher write boxes into a dataset: a new version of its tables, beside the others, to "
        "train students on. Objects are followed through each scene for velocities, one size, and what was missed.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="TEACHER",
        help="a model.safetensors of `bevdistill train`; LiDAR teacher or camera student",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="dataset folder")
    parser.add_argument("--version", help="folder of the tables in ROOT to start from (default: the only one)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--split", help="an official split, or one of ROOT/VERSION/splits.json")
    chosen.add_argument("--scenes", nargs="+", metavar="NAME", help="scenes by name (default: all)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--output", metavar="NAME", help="write labels: the new version, a folder in ROOT")
    what.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="write no labels; choose thresholds on these labelled samples"
    )
    parser.add_argument(
        "--score", type=_share, default=0.3, metavar="S", help="threshold of classes without one (default: %(default)s)"
    )
    parser.add_argument(
        "--scores", nargs="+", type=_class_score, default=[], metavar="CLASS=S", help="thresholds of single classes"
    )
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="thresholds that --calibrate has written")
    parser.add_argument(
        "--precision",
        type=_share,
        metavar="P",
        help="with --calibrate: the lowest thresholds with this precision (default: those with the best F1)",
    )
    parser.add_argument(
        "--doubt",
        type=_share,
        default=1.0,
        metavar="S",
        help="share of its class's threshold from which on a box that becomes no object is doubtful: training takes its place "
        "neither for an object nor for empty ground (default: %(default)s)",
    )
    parser.add_argument(
        "--cameras", nargs="+", metavar="CHANNEL", help="cameras to use (default: those of the training)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there (docs/label.md explains the keys)"
    )
    return parser
