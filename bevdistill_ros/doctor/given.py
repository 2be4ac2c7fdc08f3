"""What the user gave: parameters and calibration entries that nobody reads, which ROS says nothing about."""

from __future__ import annotations

import dataclasses
import difflib

from bevdistill_ros.doctor.facts import Facts
from bevdistill_ros.doctor.findings import WARNING, Finding
from bevdistill_ros.node.parameters import Settings


def check_given(facts: Facts) -> list[Finding]:
    """Slips of the pen in the names of parameters and of the calibration file's cameras."""
    findings = []
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in facts.unknown_parameters:
        similar = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean '{similar[0]}'?" if similar else "config/detector.yaml explains all there are"
        findings.append(Finding(WARNING, "parameters", "rig", f"there is no parameter '{name}'", advice))
    strangers = [name for name in facts.calibrated if name not in facts.settings.cameras]
    if strangers:
        what = f"calibration_file names {', '.join(strangers)}, of which `cameras` knows nothing"
        advice = f"the cameras are {', '.join(facts.settings.cameras)}: use the same names"
        findings.append(Finding(WARNING, "parameters", "rig", what, advice))
    return findings
