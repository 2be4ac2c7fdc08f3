"""The rig as the node has understood it, in the log once: what `doctor` would say, as far as the first complete set tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bevdistill_ros.doctor.checks import summary
from bevdistill_ros.doctor.facts import CameraFacts, Facts, ModelFacts, Topic
from bevdistill_ros.doctor.findings import ERROR, OK, WARNING, Finding, ordered
from bevdistill_ros.doctor.intrinsics import check_intrinsics
from bevdistill_ros.doctor.mounting import check_axes, check_height, check_same_pose
from bevdistill_ros.doctor.pixels import check_size
from bevdistill_ros.doctor.report import last_line, table
from bevdistill_ros.doctor.rig import check_coverage, check_training_rig
from bevdistill_ros.node import messages
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.set_pipeline import SetResult

_WIDTH = 110


class StartupTable:
    """Tells once, of the first set in which no camera is missing.

    Args:
        settings: as configured, with all cameras named.
        trained: the cameras that the checkpoint names.
        log: gets the table, and whether anything in it is wrong.
    """

    def __init__(self, settings: Settings, trained: Sequence[str], log: Callable[[str, bool], None]) -> None:
        self._settings = settings
        self._trained = tuple(trained)
        self._log = log
        self._told = False

    def hear(self, result: SetResult) -> None:
        """What became of a set. Cheap but for the first complete one, of which the checks take some milliseconds."""
        if self._told or result.camera_set.missing or result.poses is None:
            return
        self._told = True
        findings = set_findings(result, self._settings, self._trained)
        wrong = any(finding.severity in (ERROR, WARNING) for finding in findings)
        self._log(f"the rig at its first complete set: {last_line(findings)}\n{table(findings, _WIDTH)}", wrong)


def set_findings(result: SetResult, settings: Settings, trained: Sequence[str]) -> list[Finding]:
    """What a complete set says of the rig, the worst first; rates, clocks, QoS and the like are `doctor`'s."""
    cameras = tuple(_facts(name, result) for name in settings.cameras)
    facts = Facts(settings, 0.0, cameras, model=ModelFacts(settings.model, cameras=tuple(trained)))
    findings: list[Finding] = []
    for camera in cameras:
        own = [*check_size(camera), *check_intrinsics(camera, settings)]
        if camera.pose_problem:
            severity = ERROR if camera.base_T_camera is None else WARNING
            own.append(Finding(severity, "tf", camera.name, camera.pose_problem, "`doctor` says more"))
        if camera.base_T_camera is not None:
            own += check_axes(camera, facts) or check_height(camera)
        findings += own or [summary(camera)]
    findings += check_same_pose(cameras)
    if result.poses.motion_problem:
        findings.append(Finding(WARNING, "motion", "tf", result.poses.motion_problem, "`doctor` says more"))
    rig = [finding for finding in (*check_coverage(facts), *check_training_rig(facts)) if finding.severity != OK]
    return ordered([*findings, *rig])


def _facts(name: str, result: SetResult) -> CameraFacts:
    """What a set tells of one camera. Its pose is that at the set's time: not far from the mounting."""
    message: Any = result.camera_set.messages[name]
    try:
        _, size = messages.image_source(message)
    except ValueError:
        size = None  # the picture's trouble is told where it is decoded
    pose: np.ndarray | None = result.poses.base_T_camera.get(name)
    return CameraFacts(
        name=name,
        image=Topic("", ""),
        encoding=getattr(message, "encoding", None) or getattr(message, "format", ""),
        sizes=(size,) if size is not None else (),
        intrinsics=result.intrinsics.get(name),
        frame=message.header.frame_id,
        base_T_camera=pose,
        pose_problem=result.poses.problems.get(name, ""),
    )
