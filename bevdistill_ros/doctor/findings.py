"""A finding: one thing that was looked at, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
SEVERITIES = (ERROR, WARNING, NOTE, OK)
"""The worst first. error: the detector will not work so, or its boxes will be wrong. warning: it will work worse.
note: worth knowing. ok: looked at and found right."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        severity: one of ``SEVERITIES``.
        check: what was looked at, as "topic" or "mounting"; docs/doctor.md lists them.
        subject: a camera's name, or "rig", "time", "tf", "dds", "device", "model".
        what: what was found, in words.
        advice: what to do; empty where nothing is to be done.
    """

    severity: str
    check: str
    subject: str
    what: str
    advice: str = ""


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; equally bad ones in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def exit_status(findings: Iterable[Finding]) -> int:
    """1 where there is an error, else 0: warnings do not keep the detector from working."""
    return int(any(finding.severity == ERROR for finding in findings))


def counted(findings: Iterable[Finding]) -> dict[str, int]:
    """How many there are of each severity."""
    severities = [finding.severity for finding in findings]
    return {severity: severities.count(severity) for severity in SEVERITIES}
