"""The command line of the verb ``train``.

What is wrong with it is told before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bevdistill_ros.arguments import at_least_one
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.config import find_config, load_config

CONFIG_FILE = "config.yaml"
STATE_FILE = "last.ckpt"


def main(argv: Sequence[str]) -> int:
    """Parse, train, write OUTPUT/model.safetensors; exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    output = Path(arguments.output)
    state = output / STATE_FILE
    if arguments.resume and arguments.config:
        parser.error(f"--resume takes its configuration from {output / CONFIG_FILE}; leave out --config")
    if arguments.rig and not arguments.bags:
        parser.error("--rig belongs to --bags; leave it out")
    if not arguments.bags and not arguments.data:
        parser.error("name a dataset with --data, or recordings with --bags")
    if arguments.resume and not state.is_file():
        raise UserError(f"{state}: nothing to resume there; leave out --resume to start")
    if not arguments.resume and state.exists():
        raise UserError(f"{output}: holds a training already; pass --resume to continue it, or name another --output")
    config_file = output / CONFIG_FILE if arguments.resume else find_config(arguments.config or "nano")
    config = load_config(config_file, arguments.set)

    from bevdistill_ros.training.train import run

    return run(arguments, config)


def make_parser() -> argparse.ArgumentParser:
    """All options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill train",
        description="Train a camera student or a LiDAR teacher (--config teacher_nano) on a dataset in the nuScenes schema. "
        "Writes OUTPUT/model.safetensors (a student's is for the detector), OUTPUT/config.yaml, OUTPUT/log (for TensorBoard) and "
        "OUTPUT/last.ckpt (to resume).",
        epilog="example: bevdistill train --config nano --data /data/nuscenes --version v1.0-mini --split mini_train "
        "--output runs/nano",
    )
    parser.add_argument("--config", help="a .yaml file, or the name of one shipped (default: nano)")
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="dataset folder, which holds the version's folder; with --bags where it is written (default: OUTPUT/dataset)",
    )
    parser.add_argument(
        "--bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="train on recordings: bags, or folders of bags; those that are not converted yet are converted first",
    )
    parser.add_argument(
        "--rig",
        type=Path,
        metavar="FILE",
        help="with --bags: which topics are which sensors (default: OUTPUT/rig.yaml, guessed from the bags)",
    )
    parser.add_argument("--version", help="folder of the tables in ROOT, e.g. v1.0-mini (default: the only one)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--split", help="an official split, e.g. train or mini_train, or one of ROOT/VERSION/splits.json"
    )
    chosen.add_argument("--scenes", nargs="+", metavar="NAME", help="scenes by name (default: all)")
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument(
        "--val-split", metavar="SPLIT", help="score this split every training.validate_every steps and at the end"
    )
    validation.add_argument("--val-scenes", nargs="+", metavar="NAME", help="likewise, scenes by name")
    parser.add_argument("--cameras", nargs="+", metavar="CHANNEL", help="cameras to use (default: all)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the training in OUTPUT")
    start.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="start from the weights of this checkpoint, or of shipped weights by their name, as far as names and shapes fit; "
        "also of an image backbone as torchvision, timm or mmdetection store it (.pth, .pt, .safetensors). Of several, each gives "
        "what those before it did not",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field, e.g. training.steps=1000"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--devices",
        type=at_least_one,
        metavar="N",
        help="train with so many processes on this machine, each on a GPU of its own (default: 1)",
    )
    parser.add_argument("--nodes", type=at_least_one, metavar="M", help="and on so many machines together (default: 1)")
    parser.add_argument(
        "--cache-images",
        nargs="?",
        const="",
        metavar="DIR",
        help="decode and preprocess every image once, into a file in DIR that later trainings share (default: OUTPUT/image_cache)",
    )
    parser.add_argument(
        "--cache-tables",
        nargs="?",
        const="",
        metavar="DIR",
        help="take what samples need of the dataset's tables into a file in DIR that later trainings share (default: "
        "OUTPUT/table_cache): for tables as large as v1.0-trainval's",
    )
    parser.add_argument(
        "--dataset-on-device",
        action="store_true",
        help="hold that file's images in the memory of the training's device and augment them there",
    )
    parser.add_argument("--black-images", action="store_true", help="control experiment: train on black images")
    parser.add_argument("--half", action="store_true", help="write the weights as float16: half the size")
    parser.add_argument("--json", metavar="FILE", help="write the figures of the run there")
    return parser
