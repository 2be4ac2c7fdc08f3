"""The colours of the world. Every class draws its paint from ONE distribution, so that no colour names a class."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Material:
    """Attributes:
    colour: (3,) RGB, 0..1.
    reflectivity: 0..1, of LiDAR's infrared light.
    shininess: 0..1.
    """

    colour: np.ndarray
    reflectivity: float
    shininess: float


class Palette(Protocol):
    """Each call is a fresh draw: a builder calls once for all wheels of a car."""

    def paint(self) -> Material: ...

    def accent(self, base: Material) -> Material:
        """Of stripes, roofs, bands: mostly ``base`` itself, at times another paint; as often on a cone as on a bus."""
        ...

    def cloth(self) -> Material: ...

    def hair(self) -> Material: ...

    def skin(self) -> Material: ...

    def tyre(self) -> Material: ...

    def glass(self) -> Material: ...

    def trim(self) -> Material:
        """Bumpers, grilles, chassis, saddles."""
        ...

    def metal(self) -> Material: ...

    def lamp_front(self) -> Material: ...

    def lamp_back(self) -> Material: ...

    def plate(self) -> Material: ...


ACCENT = 0.35
"""Share of objects whose second colour differs from their first."""
UNUSUAL = 0.045
"""Share of draws of natural tones that are any colour instead. A vehicle draws five to seven, so a fifth or more have one."""


class NaturalPalette:
    """Paint and cloth of any hue; tyres, glass, lamps and skin in their natural tones, mostly."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def paint(self) -> Material:
        return Material(self._any_paint(), self._between(0.15, 0.75), self._between(0.3, 0.9))

    def accent(self, base: Material) -> Material:
        other = self.paint()
        if self._rng.random() >= ACCENT:
            return base
        return Material(other.colour, other.reflectivity, base.shininess)

    def cloth(self) -> Material:
        return Material(self._any_paint(), self._between(0.1, 0.7), self._between(0.0, 0.1))

    def hair(self) -> Material:
        return self._natural((0.02, 0.11), (0.1, 0.7), (0.05, 0.65), self._between(0.05, 0.4), 0.1)

    def skin(self) -> Material:
        return self._natural((0.04, 0.09), (0.3, 0.6), (0.25, 0.95), self._between(0.3, 0.6), 0.1)

    def tyre(self) -> Material:
        return self._natural((0.0, 1.0), (0.0, 0.1), (0.05, 0.2), self._between(0.03, 0.12), 0.05)

    def glass(self) -> Material:
        return self._natural((0.5, 0.65), (0.1, 0.4), (0.08, 0.4), self._between(0.02, 0.1), 1.0)

    def trim(self) -> Material:
        return self._natural((0.0, 1.0), (0.0, 0.15), (0.08, 0.35), self._between(0.05, 0.2), 0.2)

    def metal(self) -> Material:
        return self._natural((0.5, 0.7), (0.0, 0.1), (0.35, 0.8), self._between(0.3, 0.7), 0.8)

    def lamp_front(self) -> Material:
        return self._natural((0.1, 0.17), (0.0, 0.25), (0.85, 1.0), self._between(0.5, 0.9), 0.9)

    def lamp_back(self) -> Material:
        return self._natural((0.97, 1.03), (0.75, 1.0), (0.4, 0.95), self._between(0.5, 0.9), 0.9)

    def plate(self) -> Material:
        return self._natural((0.1, 0.17), (0.0, 0.5), (0.75, 1.0), self._between(0.8, 1.0), 0.2)

    def _between(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def _any_paint(self) -> np.ndarray:
        """(3,): three in ten without hue, from black to white; four bright; three dull."""
        kind, hue = self._rng.random(), self._rng.random()
        if kind < 0.3:
            saturation, value = self._between(0.0, 0.08), self._between(0.06, 0.97)
        elif kind < 0.7:
            saturation, value = self._between(0.6, 1.0), self._between(0.45, 1.0)
        else:
            saturation, value = self._between(0.15, 0.55), self._between(0.2, 0.8)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, value))

    def _natural(
        self,
        hue: tuple[float, float],
        saturation: tuple[float, float],
        value: tuple[float, float],
        reflectivity: float,
        shininess: float,
    ) -> Material:
        unusual = self._any_paint()
        usual = np.array(
            colorsys.hsv_to_rgb(self._between(*hue) % 1.0, self._between(*saturation), self._between(*value))
        )
        return Material(unusual if self._rng.random() < UNUSUAL else usual, reflectivity, shininess)


class ShuffledPalette(NaturalPalette):
    """Every draw, of tyres and of skin too, is any RGB: what a model still finds here it finds by shape."""

    def accent(self, base: Material) -> Material:
        return Material(self._any_paint(), base.reflectivity, base.shininess)

    def _any_paint(self) -> np.ndarray:
        return self._rng.uniform(0.0, 1.0, 3)

    def _natural(
        self,
        hue: tuple[float, float],
        saturation: tuple[float, float],
        value: tuple[float, float],
        reflectivity: float,
        shininess: float,
    ) -> Material:
        return Material(self._any_paint(), reflectivity, shininess)
