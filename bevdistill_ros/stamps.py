"""Times in messages as integers."""

from __future__ import annotations

from typing import Any


def stamp_ns(stamp: Any) -> int:
    """Integer nanoseconds of a builtin_interfaces/Time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def header_ns(message: Any) -> int:
    """Header stamp of a message in nanoseconds."""
    return stamp_ns(message.header.stamp)
