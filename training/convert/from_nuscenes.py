"""The direction ``--from-nuscenes`` of the verb ``convert``: a nuScenes root into bags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.data import nuscenes_to_bag
from bevdistill_ros.training.data.bags import is_bag
from bevdistill_ros.training.data.inside import plain_name


def from_nuscenes(args: argparse.Namespace) -> list[dict]:
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
    outputs = [args.output] if len(scenes) == 1 else [_folder(args.output, scene, nuscenes) for scene in scenes]
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


def _folder(output: Path, scene: dict, nuscenes: Any) -> Path:
    """Where the bag of one of several scenes is written."""
    return output / plain_name(scene["name"], f"{nuscenes.table_root}/scene.json: name")


def _write_with_progress(nuscenes, scene: dict, output: Path, options: nuscenes_to_bag.Options) -> dict:
    from tqdm import tqdm

    with tqdm(desc=scene["name"], unit="msg", disable=None, leave=False) as bar:  # None: silent where it is no terminal

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return nuscenes_to_bag.write_scene(nuscenes, scene, output, options, progress)
