"""The ground as a picture: asphalt, markings, pavements, grass, wear. And which of it is drivable."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bevdistill_ros.training.world.drive import MAP_RESOLUTION
from bevdistill_ros.training.world.layout import Layout, Path, Place, Street

LONG_SIDE = 4096
"""Pixels of the picture's longer side."""


@dataclass(frozen=True, eq=False)
class Ground:
    """Attributes:
    picture: (rows, columns, 3) uint8 RGB of the whole map, row 0 at the largest y.
    drivable: (rows, columns) bool at MAP_RESOLUTION, likewise.
    """

    picture: np.ndarray
    drivable: np.ndarray


def paint_ground(layout: Layout, rng: np.random.Generator) -> Ground:
    """Paint a quarter."""
    scale = LONG_SIDE / layout.size.max()
    canvas = _Canvas(layout, scale, 3)
    canvas.pixels[:] = _mottled(rng, canvas.pixels.shape[:2], _tone(rng, (60, 170), 20), 0.16)
    asphalt = _tone(rng, (45, 130), 6)
    paving = _tone(rng, (90, 190), 14)

    for street in layout.streets:
        canvas.band(street.path, 0, street.kerb + street.pavement, paving)
    for place in layout.places:
        canvas.polygon(place.corners, _tone(rng, (60, 160), 12))
    for street in layout.streets:
        _paving_joints(canvas, street, paving)
    for street in layout.streets:
        canvas.band(street.path, 0, street.kerb, np.clip(asphalt * rng.uniform(0.92, 1.08), 0, 255))
    canvas.pixels[:] = np.clip(
        canvas.pixels * _grain(rng, canvas.pixels.shape[:2], rng.uniform(0.04, 0.12))[..., None], 0, 255
    ).astype(np.uint8)

    _wear(canvas, layout, rng, asphalt)
    paint = np.array(rng.choice([(235, 235, 230), (225, 225, 220), (220, 190, 70)], p=[0.5, 0.3, 0.2]), float)
    paint = paint * rng.uniform(0.75, 1.0)
    for street in reversed(layout.streets):
        _markings(canvas, street, rng, paint)
    for street in layout.streets[1:]:  # the junctions: no lines run through them
        canvas.band_part(layout.main.path, street, layout, asphalt)
    for crossing, street in zip(layout.crossings, layout.streets[1:], strict=True):
        if rng.random() < 0.7:
            _zebras(canvas, layout.main, crossing, street.kerb, paint)
    for place in layout.places:
        if rng.random() < 0.6:
            _stalls(canvas, place, rng, paint)

    mask = _Canvas(layout, 1 / MAP_RESOLUTION, 1)
    for street in layout.streets:
        mask.band(street.path, 0, street.kerb, np.array([255.0]))
    for place in layout.places:
        mask.polygon(place.corners, np.array([255.0]))
    return Ground(canvas.pixels, mask.pixels[..., 0] > 127)


class _Canvas:
    """Draws in metres on the map's picture."""

    def __init__(self, layout: Layout, scale: float, channels: int) -> None:
        self.scale, self.height = scale, layout.size[1]
        width, height = (round(v * scale) for v in layout.size)
        self.pixels = np.zeros((height, width, channels), np.uint8)

    def _to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Fixed-point pixels with 4 fractional bits, for OpenCV's anti-aliased drawing."""
        flipped = np.stack([points[..., 0], self.height - points[..., 1]], -1)
        return np.round((flipped * self.scale - 0.5) * 16).astype(np.int32)

    def polygon(self, corners: np.ndarray, colour: np.ndarray) -> None:
        """Filled, corners (N, 2)."""
        cv2.fillPoly(self.pixels, [self._to_pixels(corners)], tuple(float(c) for c in colour), cv2.LINE_AA, shift=4)

    def line(self, points: np.ndarray, width: float, colour: np.ndarray) -> None:
        """An open line through points (N, 2), ``width`` metres wide."""
        thickness = max(1, round(width * self.scale))
        cv2.polylines(
            self.pixels, [self._to_pixels(points)], False, tuple(float(c) for c in colour), thickness, cv2.LINE_AA, 4
        )

    def band(self, path: Path, offset: float, half_width: float, colour: np.ndarray) -> None:
        """A strip along a curve, its straight continuation at both ends included."""
        s = np.arange(-ENDS, path.length + ENDS, 1.0)
        left, right = path.at(s, offset + half_width)[0], path.at(s, offset - half_width)[0]
        for a in range(0, len(s) - 1, 8):  # by pieces, since a bend's inside may fold
            b = min(a + 9, len(s))
            self.polygon(np.concatenate([left[a:b], right[a:b][::-1]]), colour)

    def band_part(self, path: Path, street: Street, layout: Layout, colour: np.ndarray) -> None:
        """Asphalt over the junction of the main street with ``street``."""
        crossing = layout.crossings[layout.streets.index(street) - 1]
        half = street.kerb + 0.5
        s = np.linspace(crossing - half, crossing + half, 12)
        left, right = path.at(s, layout.main.kerb)[0], path.at(s, -layout.main.kerb)[0]
        self.polygon(np.concatenate([left, right[::-1]]), np.clip(colour, 0, 255))


ENDS = 2.0  # metres that a band goes on beyond its path


def _tone(rng: np.random.Generator, brightness: tuple[float, float], tint: float) -> np.ndarray:
    return np.clip(rng.uniform(*brightness) + rng.uniform(-tint, tint, 3), 5, 250)


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise in -1..1 with features of a ``cells``-th of the picture."""
    coarse = rng.uniform(-1, 1, (max(2, cells * shape[0] // max(shape)), max(2, cells * shape[1] // max(shape))))
    return cv2.resize(coarse.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _mottled(rng: np.random.Generator, shape: tuple[int, int], tone: np.ndarray, strength: float) -> np.ndarray:
    noise = 0.6 * _noise(rng, shape, 24) + 0.5 * _noise(rng, shape, 160)
    return np.clip(tone * (1 + strength * noise[..., None] * (1.0, 0.9, 1.1)), 0, 255).astype(np.uint8)


def _grain(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> np.ndarray:
    noise = _noise(rng, shape, 40) * 0.6 + _noise(rng, shape, 700)
    return (1 + strength * noise).astype(np.float32)


def _paving_joints(canvas: _Canvas, street: Street, paving: np.ndarray) -> None:
    s = np.arange(0, street.path.length, 3.0)
    for side in (1, -1):
        inner, outer = (street.path.at(s, side * d)[0] for d in (street.kerb, street.kerb + street.pavement))
        for a, b in zip(inner, outer, strict=True):
            canvas.line(np.array([a, b]), 0.08, paving * 0.85)
        canvas.line(street.path.at(s, side * (street.kerb + 0.1))[0], 0.25, np.clip(paving * 1.15, 0, 255))


def _wear(canvas: _Canvas, layout: Layout, rng: np.random.Generator, asphalt: np.ndarray) -> None:
    """Patches, cracks and stains, which look as an object's shadow might."""
    for street in layout.streets:
        for _ in range(rng.poisson(street.path.length / 14)):
            s, d = rng.uniform(0, street.path.length), rng.uniform(-street.kerb, street.kerb)
            point, heading = street.path.at(s, d)
            size = rng.uniform((0.5, 0.4), (7, 3))
            colour = np.clip(asphalt * rng.uniform(0.7, 1.25), 0, 255)
            if rng.random() < 0.5:
                canvas.polygon(Place(point, float(heading), size).corners, colour)
            else:
                way = point + np.cumsum(rng.normal(0, 0.6, (8, 2)), axis=0)
                canvas.line(way, 0.08, asphalt * 0.6)


def _dashes(
    canvas: _Canvas, path: Path, offset: float, colour: np.ndarray, dash: float, gap: float, width: float
) -> None:
    for start in np.arange(0, path.length, dash + gap):
        canvas.line(path.at(np.linspace(start, start + dash, 4), offset)[0], width, colour)


def _markings(canvas: _Canvas, street: Street, rng: np.random.Generator, paint: np.ndarray) -> None:
    dash, gap, width = rng.uniform(2, 5), rng.uniform(3, 8), rng.uniform(0.12, 0.2)
    edges = sorted({round(lane.offset + side * lane.width / 2, 3) for lane in street.lanes for side in (1, -1)})
    outermost = edges[-1]
    s = np.arange(0, street.path.length, 1.0)
    for edge in edges:
        if abs(abs(edge) - street.median / 2) < 1e-3 or abs(edge) >= outermost - 1e-3:
            canvas.line(street.path.at(s, edge)[0], width, paint)
        else:
            _dashes(canvas, street.path, edge, paint, dash, gap, width)
    if street.median:
        canvas.band(street.path, 0, street.median / 2 - 0.1, _tone(rng, (60, 130), 30))
    if street.parking:
        for side in (1, -1):
            for start in np.arange(0, street.path.length, 6.0):
                line = street.path.at(start, side * np.array([street.kerb, street.kerb - street.parking]))[0]
                canvas.line(line, 0.1, paint)


def _zebras(canvas: _Canvas, main: Street, crossing: float, half_width: float, paint: np.ndarray) -> None:
    for middle in (crossing - half_width - 2.5, crossing + half_width + 2.5):
        for d in np.arange(-main.kerb + 0.4, main.kerb - 0.4, 1.0):
            s = np.array([middle - 1.5, middle + 1.5])
            left, right = main.path.at(s, d + 0.5)[0], main.path.at(s, d)[0]
            canvas.polygon(np.concatenate([left, right[::-1]]), paint)


def _stalls(canvas: _Canvas, place: Place, rng: np.random.Generator, paint: np.ndarray) -> None:
    half = place.size / 2
    for y in (-half[1] + 5, half[1] - 5):
        toward = -5.0 if y < 0 else 5.0
        for x in np.arange(-half[0], half[0], 2.6):
            canvas.line(np.array([place.at(x, y), place.at(x, y + toward)]), 0.1, paint)
