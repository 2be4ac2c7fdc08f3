"""What the verb ``doctor`` does: it listens to a rig as the detector would, and says what is wrong with it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import rclpy
from rclpy.signals import SignalHandlerOptions

from bevdistill_ros.doctor.checks import examine
from bevdistill_ros.doctor.facts import Facts, ModelFacts
from bevdistill_ros.doctor.findings import exit_status
from bevdistill_ros.doctor.model import device_facts, model_facts
from bevdistill_ros.doctor.picture import picture
from bevdistill_ros.doctor.report import as_json, last_line, table
from bevdistill_ros.files import write_atomically
from bevdistill_ros.node import parameters
from bevdistill_ros.node.calibration import load_calibration_file
from bevdistill_ros.node.detector_node import NODE_NAME
from bevdistill_ros.node.inputs import check_topics
from bevdistill_ros.node.listening import Listening, dds_facts
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.refusal import making, start_ros


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Examine the rig; exit status.

    Args:
        options: see ``doctor.command``.
        argv: arguments, of which ROS takes its own.

    Raises:
        UserError: a parameter is wrong, or a result cannot be written.
    """
    dds = dds_facts()
    node = listening = None
    # Without rclpy's handlers Ctrl-C is Python's KeyboardInterrupt, at once.
    start_ros(argv, signal_handler_options=SignalHandlerOptions.NO)
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
