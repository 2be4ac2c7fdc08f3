"""The verb ``doctor``: listens to a rig as the detector would, and says what is wrong with it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.signals import SignalHandlerOptions

from bevdistill_ros.arguments import positive
from bevdistill_ros.doctor.checks import examine
from bevdistill_ros.doctor.facts import Facts, ModelFacts
from bevdistill_ros.doctor.findings import exit_status
from bevdistill_ros.doctor.picture import picture
from bevdistill_ros.doctor.report import as_json, last_line, table
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.node import parameters
from bevdistill_ros.node.calibration import load_calibration_file
from bevdistill_ros.node.detector_node import NODE_NAME
from bevdistill_ros.node.inputs import check_topics
from bevdistill_ros.node.listening import Listening, dds_facts
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.refusal import making

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
    own = _ros(lambda: rclpy.utilities.remove_ros_args([parser.prog, *argv]))[1:]
    options = parser.parse_args(own)
    for path in (options.json, options.picture):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: there is no folder {path.absolute().parent}")
    if options.picture is not None and options.picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"{options.picture}: the picture's name must end in .png or .jpg")

    from bevdistill_ros.doctor.model import device_facts, model_facts  # torch: not for --help

    dds = dds_facts()
    node = listening = None
    # Without rclpy's handlers Ctrl-C is Python's KeyboardInterrupt, at once.
    _ros(lambda: rclpy.init(args=[*argv, *ros_arguments(options)], signal_handler_options=SignalHandlerOptions.NO))
    try:
        # Its name is the detector's, so that a parameter file for the detector holds for it.
        with making("the node"):
            node = rclpy.create_node(NODE_NAME, enable_rosout=False, start_parameter_services=False)
        settings = parameters.declare(node)
        model, device = model_facts(settings.model), device_facts(settings.device)
        settings = _named(settings, model)
        check_topics(node, settings)
        file = load_calibration_file(settings.calibration_file) if settings.calibration_file else {}
        facts = Facts(settings, 0.0)
        if settings.cameras:
            print(
                f"listening to {', '.join(settings.cameras)} for {options.seconds:g} s ...", file=sys.stderr, flush=True
            )
            with making("what doctor listens to"):
                listening = Listening(node, settings, file, dds)
            listening.record(options.seconds)
            facts = listening.facts()
        facts = dataclasses.replace(
            facts, model=model, device=device, calibrated=tuple(file), unknown_parameters=_unknown(node)
        )
    finally:
        if listening is not None:
            listening.close()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return _tell(facts, options)


def _tell(facts: Facts, options: argparse.Namespace) -> int:
    findings = examine(facts)
    print(table(findings, shutil.get_terminal_size((110, 24)).columns))
    print(f"\n{last_line(findings)}")
    if options.json is not None:
        write_atomically(options.json, json.dumps(as_json(facts, findings), indent=2) + "\n")
    if options.picture is not None and facts.cameras:
        encoded = cv2.imencode(options.picture.suffix, picture(facts.cameras))[1]
        write_atomically(options.picture, encoded.tobytes())
    return exit_status(findings)


def _unknown(node: Any) -> tuple[str, ...]:
    """Parameters that were given, but that nobody has declared: ROS ignores them without a word."""
    return tuple(name for name in getattr(node, "_parameter_overrides", {}) if not node.has_parameter(name))


def _named(settings: Settings, model: ModelFacts) -> Settings:
    """The settings with all cameras named; without any where only the model could have named them, and is of no use."""
    if model.problem and not settings.cameras:
        return settings
    return settings.for_cameras(model.cameras)


def _ros(call: Any) -> Any:
    """What ``call`` returns; a mistake in the ROS arguments, of an exception that rclpy does not export, as UserError."""
    try:
        return call()
    except Exception as error:
        raise UserError(f"ROS arguments: {' '.join(str(error).split())}") from None
