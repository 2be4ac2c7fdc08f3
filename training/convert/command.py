"""The command line of ``convert``. A source option chooses the direction:

``--bags``            bags into a dataset in the nuScenes schema,
``--guess``           a rig file, which that needs, out of a bag,
``--from-nuscenes``   a nuScenes root into bags.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bevdistill_ros.arguments import at_least_one, positive
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.training.data.bags import STORAGES
from bevdistill_ros.training.data.nuscenes_tables import DEVKIT_SPLITS

EXAMPLE = """
examples:
  bevdistill convert --guess drive_bag --rig rig.yaml                       # then look it over
  bevdistill convert --bags recordings/* --rig rig.yaml --output dataset
  bevdistill convert --from-nuscenes /data/nuscenes --version v1.0-mini --scenes scene-0061 --output scene-0061_bag
  bevdistill convert --from-nuscenes /data/nuscenes --output bags --skip-existing    # every scene, a bag each
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    return _build()[0]


class _Uses(NamedTuple):
    """Which options each direction uses."""

    bags: list[argparse.Action]
    guess: list[argparse.Action]
    from_nuscenes: list[argparse.Action]


def _build() -> tuple[argparse.ArgumentParser, _Uses]:
    parser = argparse.ArgumentParser(
        prog="bevdistill convert",
        description="Convert recorded drives: bags into a nuScenes-schema dataset, or a nuScenes root into bags.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("source").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 bags (mcap, sqlite3), or folders of bags"
    )
    source.add_argument("--guess", nargs="+", type=Path, metavar="BAG", help="write the rig file that fits these bags")
    source.add_argument(
        "--from-nuscenes", type=Path, metavar="ROOT", help="a nuScenes root (samples/, sweeps/, v1.0-.../)"
    )
    output = parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="the dataset to write or to add to; from nuScenes: the bag to write, or with more than one scene, the "
        "directory for bags named after the scenes",
    )
    summary = parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the summary to FILE (not of --guess)"
    )
    force = parser.add_argument(
        "--force",
        action="store_true",
        help="replace what exists already: bags that are made of nuScenes, or with --guess the rig file",
    )
    group = parser.add_argument_group("bags to nuScenes")
    rig = group.add_argument(
        "--rig", type=Path, metavar="FILE", help="which topics are which sensors (docs/convert.md)"
    )
    to_nuscenes = _add_bags_options(group)
    to_bags = _add_nuscenes_options(parser.add_argument_group("nuScenes to bags"))
    return parser, _Uses(
        bags=[output, summary, rig, *to_nuscenes],
        guess=[force, rig],
        from_nuscenes=[output, summary, force, *to_bags],
    )


def _add_bags_options(group: Any) -> list[argparse.Action]:
    return [
        group.add_argument(
            "--split", default="bags", metavar="NAME", help="split that the scenes belong to (default: %(default)s)"
        ),
        group.add_argument(
            "--sweeps",
            choices=("none", "lidar", "all"),
            default="none",
            help="readings between keyframes to keep: none, LiDAR or all (default: %(default)s)",
        ),
        group.add_argument(
            "--quality",
            type=_quality,
            default=95,
            metavar="N",
            help="of JPEGs that must be encoded; undistorted JPEGs keep their bytes (default: %(default)s)",
        ),
        group.add_argument(
            "--workers",
            type=at_least_one,
            metavar="N",
            help="processor cores to use: a process a bag, for few bags threads (default: all); with --ray, cores a bag "
            "(default: 2)",
        ),
        group.add_argument(
            "--ray",
            default="",
            metavar="ADDRESS",
            help="convert on a Ray cluster ('auto', 'ray://HOST:PORT', 'local'): bags and dataset must be on storage that all "
            "its machines share",
        ),
    ]


def _add_nuscenes_options(group: Any) -> list[argparse.Action]:
    return [
        group.add_argument("--version", help="the folder of tables (default: the only one)"),
        group.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="scenes by name (default: all)"),
        group.add_argument(
            "--storage", choices=STORAGES, default="mcap", help="storage of the bag (default: %(default)s)"
        ),
        group.add_argument(
            "--raw", action="store_true", help="decoded Image messages (bgr8) instead of the JPEG bytes"
        ),
        group.add_argument(
            "--cameras", nargs="+", default=[], metavar="CHANNEL", help="only these cameras (default: all)"
        ),
        group.add_argument(
            "--keyframes-only",
            action="store_true",
            help="leave out images and point clouds between keyframes (2 Hz remain)",
        ),
        group.add_argument(
            "--repeat",
            type=at_least_one,
            default=1,
            metavar="N",
            help="write the scene N times, each --period later, with ego poses and annotations. For demonstrations and "
            "tests: it makes a bag long enough to play of a scene with one keyframe. The car jumps back at each repetition",
        ),
        group.add_argument(
            "--period",
            type=positive,
            default=0.5,
            metavar="S",
            help="seconds between repetitions (default: %(default)s)",
        ),
        group.add_argument(
            "--skip-existing", action="store_true", help="keep bags that exist already, to go on after an interruption"
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    parser, args = _parse(argv)
    if args.guess:
        if not args.rig:
            parser.error("--guess needs --rig: the file to write")
        return _guess(args)
    if not args.output:
        parser.error("the following arguments are required: -o/--output")
    if args.bags:
        if not args.rig:
            parser.error("--bags needs --rig; `convert --guess` writes one")
        if args.split in DEVKIT_SPLITS:
            parser.error(f"--split {args.split}: means scenes of nuScenes itself to nuscenes-devkit; take another name")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", args.split):
            parser.error(f"--split '{args.split}': must be of letters, digits, '_', '-' and '.'")
        return _bags(args)
    if args.force and args.skip_existing:
        parser.error("argument --skip-existing: not allowed with argument --force")
    return _nuscenes(args)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The options, none of which the chosen direction passes over."""
    parser, uses = _build()
    actions = {action.dest: action for action in chain(*uses)}
    absent = object()
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(actions, absent)))
    given = [action for name, action in actions.items() if getattr(args, name) is not absent]
    for name, action in actions.items():
        if action not in given:
            setattr(args, name, action.default)
    source, used = "--from-nuscenes", uses.from_nuscenes
    if args.bags:
        source, used = "--bags", uses.bags
    elif args.guess:
        source, used = "--guess", uses.guess
    unused = [action.option_strings[-1] for action in given if action not in used]
    if unused:
        parser.error(
            f"{', '.join(unused)}: not with {source}, which does not use {'it' if len(unused) == 1 else 'them'}"
        )
    return parser, args


def _guess(args: argparse.Namespace) -> int:
    from bevdistill_ros.training.convert.guess import guess

    if args.rig.exists() and not args.force:
        raise UserError(f"{args.rig} exists already; replace it with --force")
    text = guess(args.guess)
    write_atomically(args.rig, text)
    print(f"{args.rig}: written; look over what it says, above all its notes")
    return 0


def _bags(args: argparse.Namespace) -> int:
    from bevdistill_ros.training.convert.from_bags import convert_bags, describe, find_bags
    from bevdistill_ros.training.convert.recording import Options
    from bevdistill_ros.training.convert.rig_file import load_rig

    options = Options(args.split, args.sweeps, args.quality)
    workers = args.workers or (2 if args.ray else available_cores())
    result = convert_bags(find_bags(args.bags), args.output, load_rig(args.rig), options, workers, args.ray)
    if args.json:
        summary = {
            "dataset": str(args.output),
            "made": [report["bag"] for report in result.made],
            "kept": [report["bag"] for report in result.kept],
            "failed": [{"bag": bag, "error": error} for bag, error in result.failed],
            "bags": [{k: v for k, v in report.items() if k != "settings"} for report in result.made + result.kept],
            "dropped": result.dropped,
            "seconds": round(result.seconds, 2),
        }
        write_atomically(args.json, json.dumps(summary, indent=2) + "\n")
    print(describe(result, args.output))
    for _, error in result.failed:
        print(f"error: {error}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: what was finished is kept; the same command makes the rest", file=sys.stderr)
    return 1 if result.failed or result.interrupted else 0


def _nuscenes(args: argparse.Namespace) -> int:
    from bevdistill_ros.training.convert.from_nuscenes import from_nuscenes

    try:
        bags = from_nuscenes(args)
    except KeyboardInterrupt:
        print("interrupted: complete bags are kept, the unfinished one is removed", file=sys.stderr)
        return 1
    if args.json:
        write_atomically(args.json, json.dumps({"bags": bags}, indent=2) + "\n")
    return 0


def _quality(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError("must be between 1 and 100")
    return value
