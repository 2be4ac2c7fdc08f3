"""All checks, in the order in which one would look."""

from __future__ import annotations

import math

from bevdistill_ros.camera_offsets import median
from bevdistill_ros.doctor.facts import CameraFacts, Facts
from bevdistill_ros.doctor.findings import OK, SEVERITIES, WARNING, Finding, ordered
from bevdistill_ros.doctor.given import check_given
from bevdistill_ros.doctor.intrinsics import check_intrinsics, view_angle
from bevdistill_ros.doctor.machine import check_device, check_model, check_shared_memory
from bevdistill_ros.doctor.mounting import check_mount, check_same_pose, check_tree, direction
from bevdistill_ros.doctor.pixels import check_picture, check_size
from bevdistill_ros.doctor.rig import check_coverage, check_training_rig
from bevdistill_ros.doctor.stamps import (
    check_clocks,
    check_offsets,
    check_rate,
    check_stamps,
    delays_of,
    duration,
    rate_of,
)
from bevdistill_ros.doctor.topics import check_graph, check_image_topic, check_info_topic, check_static_transforms
from bevdistill_ros.visualise import azimuth


def examine(facts: Facts) -> list[Finding]:
    """Everything that can be said of a rig, the worst first."""
    findings = [
        *check_model(facts),
        *check_device(facts),
        *check_given(facts),
        *check_graph(facts.cameras, facts.topics),
    ]
    for camera in facts.cameras:
        findings += examine_camera(camera, facts)
    findings += [
        *check_same_pose(facts.cameras),
        *check_clocks(facts),
        *check_offsets(facts),
        *check_tree(facts),
        *check_static_transforms(facts.static_publishers),
        *check_coverage(facts),
        *check_training_rig(facts),
        *check_shared_memory(facts),
    ]
    return ordered(findings)


def examine_camera(camera: CameraFacts, facts: Facts) -> list[Finding]:
    """What can be said of one camera alone; if nothing is wrong, what it does, in one line."""
    settings = facts.settings
    findings = [
        *check_image_topic(camera, settings, facts.topics),
        *check_info_topic(camera, settings, facts.topics),
        *check_rate(camera, facts.seconds),
        *check_stamps(camera, settings),
        *check_picture(camera),
        *check_size(camera),
        *check_intrinsics(camera, settings),
        *check_mount(camera, facts),
    ]
    bad = SEVERITIES[: SEVERITIES.index(WARNING) + 1]
    return findings if any(finding.severity in bad for finding in findings) else [*findings, summary(camera)]


def summary(camera: CameraFacts) -> Finding:
    """What a healthy camera does, as far as is known."""
    rate, delays = rate_of(camera), delays_of(camera)
    parts = [f"{rate:.1f} Hz"] if rate is not None else []
    if camera.sizes:
        parts.append(f"{camera.sizes[-1][0]}x{camera.sizes[-1][1]} {camera.encoding}".strip())
    if camera.intrinsics is not None:
        parts.append(f"{view_angle(camera.intrinsics.camera):.0f} degrees wide")
    if camera.base_T_camera is not None:
        parts.append(
            f"looks {direction(math.degrees(azimuth(camera.base_T_camera)))} from {camera.base_T_camera[2, 3]:.2f} m up"
        )
    if delays:
        parts.append(f"{duration(median(delays))} old at arrival")
    return Finding(OK, "camera", camera.name, ", ".join(parts))
