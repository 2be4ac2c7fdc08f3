"""Figures of checkpoints on a dataset in the nuScenes schema, and pictures of what they find; ``evaluate_options`` is the verb's
command line."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from nuscenes import NuScenes

from bevdistill_ros.config import ImageModelConfig
from bevdistill_ros.detector import Detector, choose_device
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.geometry import Boxes, invert, make_transform, rotation_z
from bevdistill_ros.runtime.backends import TORCH
from bevdistill_ros.runtime.open_model import open_model
from bevdistill_ros.training.data.inside import plain_name
from bevdistill_ros.training.data.nuscenes import (
    NuScenesSamples,
    Sample,
    choose_samples,
    missing_scenes,
    note_missing_scenes,
    open_nuscenes,
    open_samples,
    scene_of,
    turn_rig,
)
from bevdistill_ros.training.evaluation import (
    DetectionResult,
    evaluate_detections,
    mean_of_figures,
    to_global,
)
from bevdistill_ros.training.evaluation_missing_cameras import camera_missing, check_most
from bevdistill_ros.training.evaluation_names import distinct_names
from bevdistill_ros.training.evaluation_plots import write_plots
from bevdistill_ros.training.evaluation_ranges import range_figures
from bevdistill_ros.training.evaluation_tables import (
    camera_missing_table,
    comparison_table,
    range_table,
    summary_table,
)
from bevdistill_ros.training.pictures import draw_sample
from bevdistill_ros.training.teacher import Teacher, make_detector

CACHE_LIMIT = 1 << 30
"""Preprocessed images are kept for the next pass over them while they need less than this many bytes."""


def predict(
    detector: Detector | Teacher,
    samples: NuScenesSamples,
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
    samples: NuScenesSamples,
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


def run(arguments: argparse.Namespace, paths: Sequence[Path]) -> int:
    """Evaluate as the options say, print tables; write JSON, plots and pictures where asked. Exit status.

    Args:
        arguments: the options, see ``evaluate_options``.
        paths: the files that its checkpoints are.
    """
    names = distinct_names(paths)
    device = choose_device(arguments.device)
    nusc = open_nuscenes(arguments.data, arguments.version)
    tokens = choose_samples(nusc, arguments.split, arguments.scenes)
    for option, folder in (("--pictures", arguments.pictures), ("--plots", arguments.plots)):
        if folder is not None:
            _make_folder(folder, option)
    if arguments.json is not None:
        _make_folder(arguments.json.parent, "--json")

    started = time.monotonic()
    scenes = dict.fromkeys(scene_of(nusc, token) for token in tokens)
    note_missing_scenes(nusc, arguments.split)
    report: dict = {
        "data": str(arguments.data),
        "version": nusc.version,
        "split": arguments.split,
        "scenes": list(scenes),
        "scenes_missing": len(missing_scenes(nusc, arguments.split)),
        "dropped_cameras": arguments.drop_cameras,
        "black_images": arguments.black_images,
        "score_threshold": arguments.score_threshold,
        "device": device,
        "checkpoints": [],
    }

    def keep() -> None:
        """Write what there is: an interruption, or a checkpoint that fails, loses nothing that was finished."""
        done = [entry for entry in report["checkpoints"] if entry["complete"]]
        report["complete"] = len(done) == len(paths)
        report["wall_s"] = round(time.monotonic() - started, 1)
        if arguments.json is not None:
            write_atomically(arguments.json, json.dumps(report, indent=2, allow_nan=False) + "\n")

    several = len(paths) > 1
    for checkpoint, path, name in zip(arguments.checkpoints, paths, names, strict=True):
        entry: dict = {
            "checkpoint": checkpoint,
            "name": name,
            "backend": None,
            "cameras": None,
            "runs": [],
            "mean": None,
            "complete": False,
            "error": None,
        }
        report["checkpoints"].append(entry)
        try:
            detector, samples = _open(path, device, nusc, tokens, arguments)
            entry["cameras"] = list(samples.cameras)
            entry["backend"] = _backend(detector)
            for yaw in arguments.rig_yaw_deg:
                turned = f", rig turned by {yaw:g} degrees" if yaw or len(arguments.rig_yaw_deg) > 1 else ""
                entry["runs"].append(
                    _run(detector, samples, yaw, f"{checkpoint}{turned}", name if several else "", arguments)
                )
                entry["mean"] = mean_of_figures(entry["runs"])
                entry["complete"] = len(entry["runs"]) == len(arguments.rig_yaw_deg)
                keep()
        except UserError as error:
            entry["error"] = str(error)
            keep()
            left_out = f" ({name} is left out)" if several else ""
            print(f"error: {error}{left_out}", file=sys.stderr, flush=True)
        if len(entry["runs"]) > 1:
            means = "  ".join(f"{key} {_text(entry['mean'][key])}" for key in _SUMMARY)
            print(f"mean of {len(entry['runs'])} yaws: {means}\n", flush=True)
    if several:
        print(comparison_table(report["checkpoints"]))
    return 0 if report["complete"] else 1


_SUMMARY = ("mAP", "NDS", "mAP_present", "NDS_present", "ap_2m")


def _backend(detector: Detector | Teacher) -> str:
    """What runs it, in words."""
    return TORCH if isinstance(detector, Teacher) else detector.backend


def _open(
    path: Path, device: str, nusc: NuScenes, tokens: Sequence[str], arguments: argparse.Namespace
) -> tuple[Detector | Teacher, NuScenesSamples]:
    """A checkpoint's detector, and the samples as it takes them."""
    opened = open_model(path, arguments.backend, device)
    detector = make_detector(opened.model, device, str(path), opened.dtype)
    if opened.note:
        print(f"{path}: run by {_backend(detector)} ({opened.note})", flush=True)
    cameras = arguments.cameras or detector.cameras
    if isinstance(detector.config, ImageModelConfig):
        pixels = len(cameras) * detector.config.image.height * detector.config.image.width
    else:
        for option, given in (
            ("--black-images", arguments.black_images),
            ("--drop-cameras", arguments.drop_cameras),
            ("--missing-cameras", arguments.missing_cameras),
        ):
            if given:
                raise UserError(f"{option}: {path} holds a LiDAR model, which sees no images")
        pixels = 0
    passes = len(arguments.rig_yaw_deg) > 1 or arguments.missing_cameras is not None
    cache = passes and len(tokens) * pixels * 3 < CACHE_LIMIT
    samples = open_samples(nusc, tokens, detector.config, cameras, cache=cache)
    if arguments.missing_cameras is not None:
        check_most(_remaining(samples, arguments), arguments.missing_cameras)
    return detector, samples


def _remaining(samples: NuScenesSamples, arguments: argparse.Namespace) -> list[str]:
    return [camera for camera in samples.cameras if camera not in arguments.drop_cameras]


def _run(
    detector: Detector | Teacher,
    samples: NuScenesSamples,
    yaw_deg: float,
    title: str,
    subfolder: str,
    arguments: argparse.Namespace,
) -> dict:
    """Everything that is asked for at one yaw: prints it, draws it, and returns its JSON."""

    def score(gone: Sequence[str], each: Callable[[int, Sample, Boxes], None] | None = None) -> DetectionResult:
        return _evaluate_with_progress(detector, samples, yaw_deg, [*arguments.drop_cameras, *gone], each, arguments)

    def draw(index: int, sample: Sample, boxes: Boxes) -> None:
        if index % arguments.pictures_every == 0:
            where = f"{samples.nusc.version}/sample.json: token"
            shown = boxes[boxes.scores >= arguments.pictures_score]
            picture = draw_sample(sample, samples.cameras, shown, detector.config.grid)
            name = f"{index:05d}_{plain_name(sample.token, where)[:8]}_yaw{yaw_deg:g}.png"
            write_atomically(arguments.pictures / subfolder / name, cv2.imencode(".png", picture)[1].tobytes())

    result = score([], None if arguments.pictures is None else draw)
    figures = {"rig_yaw_deg": yaw_deg, **result.to_json(), "ranges": None, "camera_missing": None}
    print(f"{title}\n{summary_table(result)}\n", flush=True)
    if arguments.ranges is not None:
        bins = range_figures(result.boxes, arguments.ranges)
        figures["ranges"] = [found.to_json() for found in bins]
        print(f"{range_table(bins)}\n", flush=True)
    if arguments.plots is not None:
        write_plots(result.boxes, arguments.plots / subfolder, f"_yaw{yaw_deg:g}", title)
    if arguments.missing_cameras is not None:
        rows = camera_missing(score, _remaining(samples, arguments), result, arguments.missing_cameras)
        figures["camera_missing"] = rows
        print(f"{camera_missing_table(rows)}\n", flush=True)
    return figures


def _evaluate_with_progress(
    detector: Detector | Teacher,
    samples: NuScenesSamples,
    yaw_deg: float,
    dropped: Sequence[str],
    each: Callable[[int, Sample, Boxes], None] | None,
    arguments: argparse.Namespace,
) -> DetectionResult:
    from tqdm import tqdm

    description = f"without {', '.join(dropped)}" if dropped else None
    # disable=None: silent where it is no terminal
    with tqdm(total=len(samples), desc=description, unit="sample", disable=None, leave=False) as bar:

        def count(index: int, sample: Sample, boxes: Boxes) -> None:
            bar.update()
            if each is not None:
                each(index, sample, boxes)

        yaw = math.radians(yaw_deg)
        return evaluate(detector, samples, yaw, arguments.black_images, dropped, arguments.score_threshold, count)


def _make_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option}: {folder} cannot be made ({error.strerror})") from None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
