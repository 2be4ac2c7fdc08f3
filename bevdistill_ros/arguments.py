"""Numbers on command lines: ``type=`` functions for argparse, which say what a value must be."""

from __future__ import annotations

from argparse import ArgumentTypeError


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
