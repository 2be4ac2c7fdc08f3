"""The verb ``demo``: from nothing to pictures of boxes, by way of the same processes that run on a robot.

This is its command line. What is wrong with it is told before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bevdistill_ros.arguments import natural, positive
from bevdistill_ros.paths import DEFAULT_MODEL
from bevdistill_ros.training.world import generate
from bevdistill_ros.training.world.options import DriveOptions
from bevdistill_ros.training.world.rendering import choose_backend

EXAMPLE = """
examples:
  bevdistill demo                                                   # the shipped weights, ten seconds, in demo_output/
  bevdistill demo --model runs/mine/model.safetensors --seed 3 --output demo_mine
"""


def main(
    argv: Sequence[str] | None = None,
    simulate: generate.Simulate = generate.mujoco_drive,
    backend: Callable[[], str] = choose_backend,
) -> int:
    """Run the verb; returns the exit status. ``simulate`` and ``backend`` are as of ``generate.main``."""
    arguments = _parser().parse_args(argv)
    DriveOptions(arguments.duration, image_width=arguments.image_width)  # raises where there can be no such drive
    with _told_to_end():
        from bevdistill_ros.training.demo.make import make_demo

        return make_demo(arguments, simulate, backend)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: by way of those who stop the processes that it started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill demo",
        description="Draw a drive through a synthetic street that no network was trained on, play it in one process to the "
        "detector in another, over DDS on a domain of its own, and leave pictures, a bag and figures. The drive is kept for "
        "the next time.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="a checkpoint file, or the name of shipped weights (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is any), cpu, cuda or cuda:N")
    parser.add_argument(
        "--duration", type=float, default=10.0, metavar="S", help="seconds that the drive lasts (default: %(default)s)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="another drive (default: %(default)s)")
    parser.add_argument(
        "--image-width", type=int, default=704, metavar="W", help="pixels of the drive's images (default: %(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="R",
        help="speed to play at; a detector that is too slow for it drops sets of images (default: 1, or as much less as this "
        "machine needs)",
    )
    parser.add_argument(
        "--score",
        type=_share,
        default=0.3,
        metavar="S",
        help="boxes from this score on are counted and drawn (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value
