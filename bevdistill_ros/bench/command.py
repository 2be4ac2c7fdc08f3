"""The verb ``bench``."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bevdistill_ros.arguments import at_least_one, natural, positive
from bevdistill_ros.bench.rig_sets import RigSet, bag_sets, dataset_sets, synthetic_sets
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import DEFAULT_MODEL, model_path
from bevdistill_ros.runtime.backends import AUTO, BACKENDS, EXECUTIONS, EXPORTED_SUFFIX

DIFFERENT = 4
"""Sets of images that are gone through again and again: more than the caches hold, few enough to be read quickly."""

EXAMPLE = """
examples:
  bevdistill bench                                          # the shipped weights on made-up pictures
  bevdistill bench --model runs/mine/model.safetensors --data /data/nuscenes --version v1.0-mini
  bevdistill bench --bag drive --compare --json speed.json  # docs/speed.md explains the table and the keys
"""


def make_parser() -> argparse.ArgumentParser:
    """All options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill bench",
        description="How long each stage takes, from the cameras' pictures to boxes, and how near that is to what this machine "
        "could do: pictures of a bag or a dataset, or made-up ones.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="a student's checkpoint file, or the name of shipped weights (default: %(default)s)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bag", type=Path, metavar="DIR", help="a rosbag2 bag with images, CameraInfo and TF")
    source.add_argument("--data", type=Path, metavar="ROOT", help="a dataset in the nuScenes schema")
    parser.add_argument(
        "--rig", type=Path, metavar="FILE", help="with --bag: its topics, as for `convert` (default: guessed)"
    )
    parser.add_argument("--version", help="with --data: folder of the tables, e.g. v1.0-mini (default: the only one)")
    parser.add_argument(
        "--sets", type=at_least_one, default=100, metavar="N", help="sets of images to time (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=AUTO,
        help="what runs the network, as the detector's parameter (default: %(default)s)",
    )
    parser.add_argument(
        "--execution",
        choices=EXECUTIONS,
        default=AUTO,
        help="how PyTorch goes through the network, as the detector's parameter (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is any), cpu, cuda or cuda:N")
    parser.add_argument(
        "--threads", type=natural, default=0, metavar="N", help="of torch on the CPU; 0: its own choice, one a core"
    )
    parser.add_argument(
        "--picture-threads",
        type=natural,
        default=0,
        metavar="N",
        help="that decode pictures, as the detector's decode_threads; 0: one a camera, but no more than cores",
    )
    parser.add_argument(
        "--compare", action="store_true", help="also the straightforward path, in turn with ours, in random order"
    )
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="also over DDS: from the cameras' stamp to boxes received, rig and detector node in processes of their own",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="measure nothing: publish the pictures over DDS until interrupted, to load a detector that runs elsewhere",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        default=12.0,
        metavar="HZ",
        help="sets of images a second over DDS (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=positive, default=20.0, metavar="S", help="that --end-to-end measures (default: %(default)s)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of that order (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(argv)
    for option, needed in (("rig", "bag"), ("version", "data")):
        if getattr(options, option) is not None and getattr(options, needed) is None:
            parser.error(f"--{option} needs --{needed}")
    if options.publish and (options.compare or options.end_to_end):
        parser.error("--publish measures nothing: leave --compare and --end-to-end out")
    figures = _publish(options) if options.publish else _measure(options)
    if options.json:
        write_atomically(options.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    return 0


def _publish(options: argparse.Namespace) -> dict[str, Any]:
    from bevdistill_ros.bench.publish import camera_names, publish

    sets, source = read_sets(options, ())
    print(f"{source}: publishing {', '.join(camera_names(sets[0]))}, {options.rate:g} sets a second", flush=True)
    figures = publish(sets, options.rate)
    print(f"{len(figures['stamps_ns'])} sets published, at most {figures['late_ms']:.0f} ms late")
    return figures


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from bevdistill_ros.bench import report

    figures = run(options)
    print(report.text(figures))
    return figures


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for; what ``--json`` writes.

    Raises:
        UserError: the model, its device or the input cannot be used.
    """
    import cv2

    from bevdistill_ros.bench import report
    from bevdistill_ros.bench.box_messages import message_makers
    from bevdistill_ros.bench.compare import compare
    from bevdistill_ros.bench.end_to_end import check_ros
    from bevdistill_ros.bench.peaks import measure_peaks
    from bevdistill_ros.bench.pipeline import Pipeline, measure
    from bevdistill_ros.bench.straightforward import StraightforwardDetector
    from bevdistill_ros.bench.work import network_work, picture_work
    from bevdistill_ros.checkpoint import load_checkpoint
    from bevdistill_ros.detector import Detector, choose_device, load_network
    from bevdistill_ros.threads import limit_libraries, picture_threads

    opencv_threads = cv2.getNumThreads()
    limit_libraries(options.threads)
    path = model_path(options.model)
    device = choose_device(options.device)
    detector = Detector.from_checkpoint(path, device, options.backend, execution=options.execution)
    network = detector.network
    if (
        network is None and path.suffix != EXPORTED_SUFFIX
    ):  # what was exported runs, but its checkpoint tells what it is made of
        network = load_network(load_checkpoint(path), detector.device, str(path))
    if options.compare:
        StraightforwardDetector(network, detector.device)  # what cannot be done is told before anything takes its time
    if options.end_to_end:
        check_ros()
    sets, source = read_sets(options, detector.cameras)
    threads = options.picture_threads or picture_threads(len(sets[0].names))
    _check_pictures(detector.preprocess, sets, source)
    makers = message_makers()
    pipeline = Pipeline(detector, threads, network, makers and makers[0])
    try:
        with tqdm(total=options.sets, unit="set", disable=None) as bar:
            measured = measure(pipeline, sets, options.sets, bar.update)
        memory = report.peak_memory(detector.device)  # what follows wants more
        works = picture_work(sets[0], detector.preprocess)
        if network is not None:
            with pipeline.precision():
                works |= network_work(network, *pipeline.network_inputs(sets[0]))
        peaks = measure_peaks(detector.device, pipeline.dtype)
        figures = report.figures(pipeline, sets, source, measured, memory, works, peaks)
        if options.compare:
            turns = max(5, options.sets // 4)
            figures["compare"] = compare(pipeline, sets, turns, options.seed, opencv_threads, print)
    finally:
        pipeline.close()
    if options.end_to_end:
        figures["end_to_end"] = _end_to_end(options, sets)
    return figures


def _check_pictures(preprocess: Any, sets: Sequence[RigSet], source: str) -> None:
    """Raise UserError where a picture is of no use."""
    for one in sets:
        for name, picture, camera in zip(one.names, one.pictures, one.cameras):
            try:
                preprocess(picture, camera)
            except ValueError as error:
                raise UserError(f"{source}: {name}: {error}") from None


def _end_to_end(options: argparse.Namespace, sets: Sequence[RigSet]) -> dict[str, Any]:
    from bevdistill_ros.bench.end_to_end import detector, over_dds
    from bevdistill_ros.bench.publish import camera_names

    with tempfile.TemporaryDirectory(prefix="bevdistill_bench_") as folder:
        logs = Path(folder)
        parameters = {
            "torch_threads": options.threads,
            "decode_threads": options.picture_threads,
            "backend": options.backend,
            "execution": options.execution,
        }
        answerer = detector(model_path(options.model), options.device, camera_names(sets[0]), logs, **parameters)
        return over_dds(answerer, source_words(options), options.rate, options.seconds, logs, print)


def source_words(options: argparse.Namespace) -> list[str]:
    """The options that name the pictures, for another process."""
    words = ["--seed", str(options.seed)]
    for name in ("bag", "rig", "data"):
        if (path := getattr(options, name)) is not None:
            words += [f"--{name}", str(path.absolute())]
    return words if options.version is None else [*words, "--version", options.version]


def read_sets(options: argparse.Namespace, cameras: Sequence[str]) -> tuple[list[RigSet], str]:
    """The pictures, and where they come from in words.

    Raises:
        UserError: they cannot be read.
    """
    try:
        if options.bag is not None:
            return bag_sets(options.bag, options.rig, DIFFERENT), f"bag {options.bag.name}"
        if options.data is not None:
            return dataset_sets(options.data, options.version, cameras, DIFFERENT), f"dataset {options.data.name}"
    except ModuleNotFoundError as error:
        what = "--bag" if options.bag is not None else "--data"
        raise UserError(
            f"{what} needs the Python module '{error.name}', which pip install '.[train]' in the repository brings; leave "
            f"{what} out for made-up pictures"
        ) from None
    return synthetic_sets(DIFFERENT, seed=options.seed), "made-up pictures"
