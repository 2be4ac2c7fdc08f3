"""The command line of the verb ``doctor``, which needs ROS only once it has been read."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bevdistill_ros.arguments import positive, split_ros_arguments

EXAMPLE = """
examples:
  ros2 run bevdistill_ros doctor --ros-args --params-file my_detector.yaml
  bevdistill doctor --cameras front left right --fixed-frame odom --picture rig.png
  bevdistill doctor --json rig.json --ros-args -r __ns:=/robot -p use_sim_time:=true

Everything behind --ros-args is the detector's own: give what you give the detector. Options are short for parameters.
Exit status: 0, no errors (there may be warnings); 1, an error was found; 2, bad usage.
"""
_SHORTCUTS = ("cameras", "model", "device", "base_frame", "fixed_frame", "calibration_file", "image_transport")


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="bevdistill doctor",
        description="Listen to cameras, CameraInfo and TF as the detector would, and say what is wrong, and what to do.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-s", "--seconds", type=positive, default=5.0, metavar="S", help="how long to listen (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings to FILE (docs/doctor.md)")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="write every camera's newest image, with ground, horizon and compass drawn by the calibration in use",
    )
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="the detector's parameters")
    parser.add_argument("--namespace", metavar="NS", help="the detector's namespace")
    parser.add_argument("--cameras", nargs="+", metavar="NAME", help="parameter cameras")
    parser.add_argument("--model", metavar="MODEL", help="parameter model")
    parser.add_argument("--device", metavar="DEVICE", help="parameter device")
    parser.add_argument("--base-frame", metavar="FRAME", help="parameter base_frame")
    parser.add_argument("--fixed-frame", metavar="FRAME", help="parameter fixed_frame")
    parser.add_argument("--calibration-file", metavar="FILE", help="parameter calibration_file")
    parser.add_argument("--image-transport", choices=("compressed", "raw"), help="parameter image_transport")
    return parser


def ros_arguments(options: argparse.Namespace) -> list[str]:
    """What the options mean, as ROS arguments."""
    arguments = ["--ros-args"]
    if options.params_file is not None:
        arguments += ["--params-file", str(options.params_file)]
    if options.namespace is not None:
        arguments += ["-r", f"__ns:=/{options.namespace.strip('/')}"]
    for name in _SHORTCUTS:
        value = getattr(options, name)
        if value is not None:  # JSON quotes what YAML would take for a number
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
    return arguments if len(arguments) > 1 else []


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the rig. Exit status as ``EXAMPLE`` says.

    Raises:
        UserError: a parameter is wrong, or a result cannot be written.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    options = parser.parse_args(split_ros_arguments(argv)[0])
    for path in (options.json, options.picture):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: there is no folder {path.absolute().parent}")
    if options.picture is not None and options.picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"{options.picture}: the picture's name must end in .png or .jpg")

    from bevdistill_ros.node.doctor import run

    return run(options, [*argv, *ros_arguments(options)])
