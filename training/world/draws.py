"""Random draws that the catalogue of objects shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(rng: np.random.Generator, mean: float, deviation: float) -> float:
    """A normal draw, kept within two deviations."""
    return mean + deviation * float(np.clip(rng.normal(), -2, 2))


def one_of(rng: np.random.Generator, options: Sequence[tuple[float, T]]) -> T:
    """One of (share, option); the shares sum to one."""
    return options[int(rng.choice(len(options), p=[share for share, _ in options]))][1]
