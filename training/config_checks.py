"""What configuration fields may be: each function raises ValueError, naming the field, where one is not so."""

from __future__ import annotations

from typing import Any

CodeWeights = tuple[float, float, float, float, float]
"""Of the centre (or its offset), z, log size, sin/cos yaw and velocity."""

CODE_WEIGHTS: CodeWeights = (1.0, 1.0, 1.0, 1.0, 0.2)


def positive(config: Any, *names: str) -> None:
    """Numbers above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


def not_negative(config: Any, *names: str) -> None:
    """Numbers, 0 or above."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative")


def probability(config: Any, *names: str) -> None:
    """Numbers from 0 to 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} {getattr(config, name)} is no probability")


def overlap(config: Any, *names: str) -> None:
    """Overlaps from which ``gaussian_radius`` computes a radius: above 0 and below 1."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name} {getattr(config, name)} must be between 0 and 1")


def code_weights(config: Any, *names: str) -> None:
    """Weights of a box code's values, which do not leave all of them out."""
    for name in names:
        if not min(getattr(config, name)) >= 0 or not max(getattr(config, name)) > 0:
            raise ValueError(f"{name} must not be negative, and not all 0")


def interval(name: str, limits: tuple[float, float], low: float = float("-inf"), high: float = float("inf")) -> None:
    """[a, b] with a <= b, both from ``low`` to ``high``."""
    if not limits[0] <= limits[1]:
        raise ValueError(f"{name} {list(limits)} must be [low, high]")
    if not low <= limits[0] or not limits[1] <= high:
        raise ValueError(
            f"{name} {list(limits)} must be at least {low:g}"
            + (f" and at most {high:g}" if high < float("inf") else "")
        )
