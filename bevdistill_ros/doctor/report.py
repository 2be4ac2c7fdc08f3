"""Findings as a table for people, and as JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from bevdistill_ros.doctor.facts import Facts
from bevdistill_ros.doctor.findings import Finding, counted, exit_status
from bevdistill_ros.doctor.intrinsics import view_angle
from bevdistill_ros.doctor.stamps import delays_of, rate_of


def table(findings: Sequence[Finding], width: int = 100) -> str:
    """One finding a block: severity, subject, what was found, and below it what to do.

    What is the same of several subjects is told once.
    """
    if not findings:
        return ""
    findings = _merged(findings)
    first = max(len(finding.severity) for finding in findings)
    second = max(len(finding.subject) for finding in findings)
    indent = " " * (first + second + 4)
    room = max(40, width - len(indent))
    lines = []
    for finding in findings:
        head = f"{finding.severity:<{first}}  {finding.subject:<{second}}  "
        what = textwrap.wrap(finding.what, room, break_long_words=False, break_on_hyphens=False)
        advice = textwrap.wrap(finding.advice, room - 3, break_long_words=False, break_on_hyphens=False)
        lines += [f"{head if i == 0 else indent}{line}" for i, line in enumerate(what)]
        lines += [f"{indent}{'-> ' if i == 0 else '   '}{line}" for i, line in enumerate(advice)]
    return "\n".join(lines)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that differ in their subject alone, as one of the first's place."""
    subjects: dict[Finding, list[str]] = {}
    for finding in findings:
        subjects.setdefault(replace(finding, subject=""), []).append(finding.subject)
    return [
        replace(finding, subject=names[0])
        if len(names) == 1
        else replace(finding, subject=f"{len(names)} cameras", what=f"{', '.join(names)}: {finding.what}")
        for finding, names in subjects.items()
    ]


def last_line(findings: Sequence[Finding]) -> str:
    """The verdict."""
    count = counted(findings)
    parts = [f"{count[kind]} {kind}{'s' if count[kind] != 1 else ''}" for kind in ("error", "warning") if count[kind]]
    return ", ".join(parts) if parts else "all is well"


def as_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """What --json writes; docs/doctor.md explains it."""
    return {
        "ok": exit_status(findings) == 0,
        "seconds": facts.seconds,
        "counts": counted(findings),
        "findings": [asdict(finding) for finding in findings],
        "cameras": [_camera(camera) for camera in facts.cameras],
        "model": {"given": facts.model.given, "name": facts.model.name, "sha256": facts.model.sha256},
        "device": facts.device.device,
    }


def _camera(camera: Any) -> dict[str, Any]:
    delays = sorted(delays_of(camera))
    known = camera.intrinsics.camera if camera.intrinsics is not None else None
    return {
        "name": camera.name,
        "image_topic": camera.image.name,
        "camera_info_topic": camera.info.name if camera.info is not None else None,
        "images": len(camera.arrivals),
        "rate_hz": rate_of(camera),
        "latency_ms": delays[(len(delays) - 1) // 2] / 1e6 if delays else None,
        "encoding": camera.encoding,
        "size": list(camera.sizes[-1]) if camera.sizes else None,
        "frame": camera.frame,
        "K": known.K.reshape(-1).tolist() if known else None,
        "distortion_model": known.distortion_model if known else None,
        "view_deg": view_angle(known) if known else None,
        "base_T_camera": camera.base_T_camera.tolist() if camera.base_T_camera is not None else None,
    }
