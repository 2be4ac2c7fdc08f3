"""The verb ``evaluate``: a checkpoint's figures on a dataset in the nuScenes schema, and pictures of what it finds."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import Detector, choose_device
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_z
from bevdistill_ros.paths import model_path
from bevdistill_ros.training.data.nuscenes import (
    NuScenesCameras,
    Sample,
    choose_samples,
    missing_scenes,
    note_missing_scenes,
    open_nuscenes,
    open_samples,
    turn_rig,
)
from bevdistill_ros.training.evaluation import (
    DetectionResult,
    evaluate_detections,
    mean_of_figures,
    summary_table,
    to_global,
)
from bevdistill_ros.training.pictures import draw_sample
from bevdistill_ros.training.teacher import Teacher, make_detector

CACHE_LIMIT = 1 << 30
"""Preprocessed images are kept for the next yaw while they need less than this many bytes."""


def predict(
    detector: Detector | Teacher,
    samples: NuScenesCameras,
    rig_yaw: float = 0.0,
    black_images: bool = False,
    drop_cameras: Sequence[str] = (),
    score_threshold: float = 0.0,
) -> Iterator[tuple[Sample, Boxes]]:
    """Run a detector over samples: pairs of the sample and the boxes found, both in the base frame at ``sample.t_ref``.

    Args:
        rig_yaw: the network sees the whole rig turned by this angle (radians) about the base frame's z; boxes are
            turned back.
        black_images: the network sees black images, a control experiment for what it knows by heart.
        drop_cameras: cameras that are masked, by name.
        score_threshold: boxes below are left out.

    Raises:
        UserError: a dropped camera is not one of the samples' cameras.
    """
    for name in drop_cameras:
        if name not in samples.cameras:
            raise UserError(f"--drop-cameras {name}: not one of the cameras used, {', '.join(samples.cameras)}")
    dropped = np.isin(samples.cameras, list(drop_cameras))
    ego_T_turned = invert(make_transform(rotation_z(rig_yaw)))
    for index in range(len(samples)):
        sample = samples[index]
        sample = replace(sample, mask=sample.mask & ~dropped)
        if black_images:
            sample = replace(sample, images=np.zeros_like(sample.images))
        seen = turn_rig(sample, rig_yaw)
        if isinstance(detector, Teacher):
            found = detector(seen, score_threshold)
        else:
            found = detector(seen.images, seen.K, seen.ego_T_cam, seen.mask, score_threshold=score_threshold)
        yield sample, found.transformed(ego_T_turned)


def evaluate(
    detector: Detector | Teacher,
    samples: NuScenesCameras,
    rig_yaw: float = 0.0,
    black_images: bool = False,
    drop_cameras: Sequence[str] = (),
    score_threshold: float = 0.0,
    each: Callable[[int, Sample, Boxes], None] | None = None,
) -> DetectionResult:
    """Figures of a detector on samples; see ``predict`` for the arguments. ``each(index, sample, boxes)`` is called on
    the way."""
    predictions: dict[str, Boxes] = {}
    found = predict(detector, samples, rig_yaw, black_images, drop_cameras, score_threshold)
    for index, (sample, boxes) in enumerate(found):
        predictions[sample.token] = to_global(boxes, sample.global_T_ego, (sample.timestamp - sample.t_ref) * 1e-9)
        if each is not None:
            each(index, sample, boxes)
    return evaluate_detections(samples.nusc, list(predictions), predictions)


def main(argv: Sequence[str]) -> int:
    """Parse, evaluate, print a table; write JSON and pictures where asked."""
    arguments = _parser().parse_args(argv)
    path = model_path(arguments.checkpoint)
    detector = make_detector(load_checkpoint(path), choose_device(arguments.device), str(path))
    if isinstance(detector, Teacher):
        for option, given in (("--black-images", arguments.black_images), ("--drop-cameras", arguments.drop_cameras)):
            if given:
                raise UserError(f"{option}: {path} holds a LiDAR model, which sees no images")
    nusc = open_nuscenes(arguments.data, arguments.version)
    tokens = choose_samples(nusc, arguments.split, arguments.scenes)
    yaws = arguments.rig_yaw_deg
    cameras = arguments.cameras or detector.cameras
    pixels = 0 if isinstance(detector, Teacher) else detector.config.image.height * detector.config.image.width
    keep = len(yaws) > 1 and len(tokens) * len(cameras) * pixels * 3 < CACHE_LIMIT
    samples = open_samples(nusc, tokens, detector.config, cameras, cache=keep)
    if arguments.pictures is not None:
        _make_folder(arguments.pictures, "--pictures")
    if arguments.json is not None:
        _make_folder(arguments.json.parent, "--json")

    started = time.monotonic()
    scenes = dict.fromkeys(nusc.get("scene", nusc.get("sample", token)["scene_token"])["name"] for token in tokens)
    note_missing_scenes(nusc, arguments.split)
    report = {
        "checkpoint": arguments.checkpoint,
        "data": str(arguments.data),
        "version": nusc.version,
        "split": arguments.split,
        "scenes": list(scenes),
        "scenes_missing": len(missing_scenes(nusc, arguments.split)),
        "cameras": list(samples.cameras),
        "dropped_cameras": arguments.drop_cameras,
        "black_images": arguments.black_images,
        "score_threshold": arguments.score_threshold,
        "device": str(detector.device),
        "runs": [],
    }
    for yaw in yaws:
        result = _evaluate_with_progress(detector, samples, yaw, arguments)
        print(f"rig turned by {yaw:g} degrees" if len(yaws) > 1 or yaw else f"{arguments.checkpoint}")
        print(summary_table(result) + "\n", flush=True)
        report["runs"].append({"rig_yaw_deg": yaw, **result.to_json()})
        # After every run, so that an interruption keeps what is finished.
        report["complete"] = len(report["runs"]) == len(yaws)
        report["mean"] = mean_of_figures(report["runs"])
        report["wall_s"] = round(time.monotonic() - started, 1)
        if arguments.json is not None:
            write_atomically(arguments.json, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    if len(yaws) > 1:
        print(f"mean of {len(yaws)} yaws: " + "  ".join(f"{key} {_text(report['mean'][key])}" for key in _SUMMARY))
    return 0


_SUMMARY = ("mAP", "NDS", "mAP_present", "NDS_present", "ap_2m")


def _evaluate_with_progress(
    detector: Detector | Teacher, samples: NuScenesCameras, yaw_deg: float, arguments: argparse.Namespace
) -> DetectionResult:
    from tqdm import tqdm

    with tqdm(
        total=len(samples), unit="sample", disable=None, leave=False
    ) as bar:  # None: silent where it is no terminal

        def each(index: int, sample: Sample, boxes: Boxes) -> None:
            bar.update()
            if arguments.pictures is not None and index % arguments.pictures_every == 0:
                shown = boxes[boxes.scores >= arguments.pictures_score]
                picture = draw_sample(sample, samples.cameras, shown, detector.config.grid)
                name = f"{index:05d}_{sample.token[:8]}_yaw{yaw_deg:g}.png"
                write_atomically(arguments.pictures / name, cv2.imencode(".png", picture)[1].tobytes())

        return evaluate(
            detector,
            samples,
            math.radians(yaw_deg),
            arguments.black_images,
            arguments.drop_cameras,
            arguments.score_threshold,
            each,
        )


def _make_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option}: {folder} cannot be made ({error.strerror})") from None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _angle(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no angle")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill evaluate",
        description="Score a checkpoint by the nuScenes detection benchmark (mAP, NDS and errors, by nuscenes-devkit's "
        "own code) on a dataset in the nuScenes schema.",
        epilog="example: bevdistill evaluate runs/nano/model.safetensors --data /data/nuscenes --version v1.0-mini "
        "--split mini_val --json nano.json --pictures pictures --pictures-every 10",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a model.safetensors of `bevdistill train`, student or teacher, or the name of weights shipped",
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
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there (docs/evaluate.md explains the keys)"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write PNGs of images and the view from above, with boxes"
    )
    parser.add_argument(
        "--pictures-every",
        type=_at_least_one,
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
