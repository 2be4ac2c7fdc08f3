"""Command lines: ``type=`` functions for argparse, which say what a number must be, and the arguments that are ROS's."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ArgumentTypeError("must be a positive number")
    return value


def not_negative(text: str) -> float:
    """A finite number, 0 or above."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError("must be zero or a positive number")
    return value


def natural(text: str) -> int:
    """A whole number, 0 or above."""
    value = int(text)
    if value < 0:
        raise ArgumentTypeError("must not be negative")
    return value


def at_least_one(text: str) -> int:
    """A whole number, 1 or above."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError("must be at least 1")
    return value


def split_ros_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those from each ``--ros-args`` to its ``--`` or the end."""
    own: list[str] = []
    ros: list[str] = []
    target = own
    for argument in argv:
        if argument == "--ros-args":
            target = ros
        target.append(argument)
        if argument == "--" and target is ros:
            target = own
    return own, ros
