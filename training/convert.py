"""The verb ``convert``: recordings from one form into another.

A source option chooses the direction. ``--from-nuscenes`` makes bags of a nuScenes root.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.training.data import nuscenes_to_bag
from bevdistill_ros.training.data.bags import STORAGES, is_bag

EXAMPLE = """
examples:
  bevdistill convert --from-nuscenes /data/nuscenes --version v1.0-mini --scenes scene-0061 --output scene-0061_bag
  bevdistill convert --from-nuscenes /data/nuscenes --output bags --skip-existing    # every scene, a bag each
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill convert",
        description="Convert recorded drives: a nuScenes root into rosbag2 bags.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("source").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from-nuscenes", type=Path, metavar="ROOT", help="a nuScenes root (samples/, sweeps/, v1.0-.../)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="BAG_DIR",
        help="the bag to write; with more than one scene, the directory for bags named after the scenes",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the summary (messages by topic, duration) to FILE"
    )

    nuscenes = parser.add_argument_group("nuScenes to bags")
    nuscenes.add_argument("--version", help="the folder of tables (default: the only one)")
    nuscenes.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="scenes by name (default: all)")
    nuscenes.add_argument(
        "--storage", choices=STORAGES, default="mcap", help="storage of the bag (default: %(default)s)"
    )
    nuscenes.add_argument("--raw", action="store_true", help="decoded Image messages (bgr8) instead of the JPEG bytes")
    nuscenes.add_argument(
        "--cameras", nargs="+", default=[], metavar="CHANNEL", help="only these cameras (default: all)"
    )
    nuscenes.add_argument(
        "--keyframes-only",
        action="store_true",
        help="leave out images and point clouds between keyframes (2 Hz remain)",
    )
    nuscenes.add_argument(
        "--repeat",
        type=_positive_int,
        default=1,
        metavar="N",
        help="write the scene N times, each --period later, with ego poses and annotations. For demonstrations and "
        "tests: it makes a bag long enough to play of a scene with one keyframe. The car jumps back at each repetition",
    )
    nuscenes.add_argument(
        "--period",
        type=_positive_seconds,
        default=0.5,
        metavar="S",
        help="seconds between repetitions (default: %(default)s)",
    )
    existing = nuscenes.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="replace bags that exist already")
    existing.add_argument(
        "--skip-existing", action="store_true", help="keep bags that exist already, to go on after an interruption"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        bags = _from_nuscenes(args)
    except KeyboardInterrupt:
        print("interrupted: complete bags are kept, the unfinished one is removed", file=sys.stderr)
        return 1
    if args.json:
        write_atomically(args.json, json.dumps({"bags": bags}, indent=2) + "\n")
    return 0


def _from_nuscenes(args: argparse.Namespace) -> list[dict]:
    """Write the chosen scenes; returns the summaries of the bags written."""
    options = nuscenes_to_bag.Options(
        storage=args.storage,
        raw=args.raw,
        cameras=tuple(args.cameras),
        keyframes_only=args.keyframes_only,
        repeat=args.repeat,
        period=round(args.period * 1e9),
        force=args.force,
    )
    from bevdistill_ros.training.data.nuscenes import open_nuscenes  # slow to import

    nuscenes = open_nuscenes(args.from_nuscenes, args.version)
    scenes = nuscenes_to_bag.choose_scenes(nuscenes, args.scenes)
    outputs = [args.output] if len(scenes) == 1 else [args.output / scene["name"] for scene in scenes]
    # Asked before the first is written: hours of work should not end at the last scene.
    existing = [output for output in outputs if output.exists()]
    if existing and not args.force and not args.skip_existing:
        raise UserError(f"{existing[0]} exists already; replace it with --force, keep it with --skip-existing")

    results = []
    for scene, output in zip(scenes, outputs):
        if args.skip_existing and is_bag(output):
            print(f"{output}: kept")
            continue
        result = _write_with_progress(nuscenes, scene, output, options)
        results.append(result)
        count = sum(result["messages"].values())
        print(f"{output}: {count} messages on {len(result['messages'])} topics, {result['duration_s']:.3f} s")
    return results


def _write_with_progress(nuscenes, scene: dict, output: Path, options: nuscenes_to_bag.Options) -> dict:
    from tqdm import tqdm

    with tqdm(desc=scene["name"], unit="msg", disable=None, leave=False) as bar:  # None: silent where it is no terminal

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return nuscenes_to_bag.write_scene(nuscenes, scene, output, options, progress)


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _positive_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value
