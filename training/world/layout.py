"""The plan of a town quarter: streets with lanes and pavements, places beside them, construction zones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 80.0
"""Metres of world beyond both ends of the ego's way, and to the sides of the main street."""


class Path:
    """A curve on the ground by arc length.

    Args:
        points: (P, 2) in m, less than a metre apart.
    """

    def __init__(self, points: np.ndarray) -> None:
        steps = np.diff(points, axis=0)
        self.points = points
        self.s = np.concatenate([[0], np.cumsum(np.linalg.norm(steps, axis=1))])
        # Headings belong to the middles of the steps; there and between them they are interpolated.
        self._s_mid = (self.s[1:] + self.s[:-1]) / 2
        self._heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))

    @property
    def length(self) -> float:
        """m."""
        return float(self.s[-1])

    def at(self, s: np.ndarray | float, d: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Positions (..., 2) and headings (...) at arc length ``s``, ``d`` metres to the left of the curve."""
        s, d = np.broadcast_arrays(np.asarray(s, float), np.asarray(d, float))
        heading = np.interp(s, self._s_mid, self._heading)
        beyond = s - np.clip(s, 0, self.length)  # both ends go on straight
        x = np.interp(s, self.s, self.points[:, 0]) + beyond * np.cos(heading) - d * np.sin(heading)
        y = np.interp(s, self.s, self.points[:, 1]) + beyond * np.sin(heading) + d * np.cos(heading)
        return np.stack([x, y], -1), heading


@dataclass(frozen=True)
class Lane:
    """Attributes: offset: of its middle, m left of the street's curve; direction: +1 along it, -1 against; width: m."""

    offset: float
    direction: int
    width: float


@dataclass(frozen=True, eq=False)
class Street:
    """Attributes:
    path: its middle.
    lanes: for driving.
    bicycle: half the width of the carriageway where cycle lanes run at its edges; they are ``cycle_width`` wide (0: none).
    parking: width of the parking strips along the kerbs, 0 for none.
    kerb: half the width between the kerbs.
    pavement: width of each pavement.
    """

    path: Path
    lanes: tuple[Lane, ...]
    cycle_width: float
    parking: float
    kerb: float
    pavement: float
    median: float


@dataclass(frozen=True, eq=False)
class Place:
    """A paved rectangle beside a street: a car park, a yard, a square. size: (2,) along its own x and y."""

    center: np.ndarray
    yaw: float
    size: np.ndarray

    def at(self, x: float, y: float) -> np.ndarray:
        """(2,) global position of a point of the rectangle's own frame, whose origin is its centre."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return self.center + (c * x - s * y, s * x + c * y)

    @property
    def corners(self) -> np.ndarray:
        """(4, 2)."""
        a, b = self.size / 2
        return np.array([self.at(a, b), self.at(-a, b), self.at(-a, -b), self.at(a, -b)])


@dataclass(frozen=True)
class Zone:
    """Road works on the main street. start, end: arc length; side: +1 left, -1 right; width: from the kerb inwards."""

    start: float
    end: float
    side: int
    width: float


@dataclass(frozen=True, eq=False)
class Layout:
    """Attributes:
    size: (2,) m; the map lies between (0, 0) and it.
    streets: the main street, which the ego drives from ``start`` on, then those that cross it.
    crossings: arc length of the main street at which each of the others crosses.
    """

    size: np.ndarray
    streets: tuple[Street, ...]
    crossings: tuple[float, ...]
    places: tuple[Place, ...]
    zones: tuple[Zone, ...]
    start: float

    @property
    def main(self) -> Street:
        """The ego's street."""
        return self.streets[0]


def make_layout(rng: np.random.Generator, travel: float) -> Layout:
    """A quarter around a street on which the ego drives ``travel`` metres."""
    length = travel + 2 * MARGIN
    main = _street(rng, _curve(rng, length), wide=rng.random() < 0.35)

    crossings, streets = [], [main]
    s = rng.uniform(20, 70)
    while s < length - 20:
        point, heading = main.path.at(s)
        angle = heading + np.pi / 2 + rng.normal(0, 0.12)
        reach = main.kerb + MARGIN
        line = point + np.linspace(-reach, reach, int(4 * reach))[:, None] * (np.cos(angle), np.sin(angle))
        streets.append(_street(rng, Path(line), wide=rng.random() < 0.15))
        crossings.append(s)
        s += rng.uniform(60, 130)

    places = _places(rng, main, crossings, length)
    zones = []
    for _ in range(rng.choice([0, 1, 2], p=[0.25, 0.45, 0.3])):
        start = rng.uniform(MARGIN - 20, length - MARGIN - 10)
        zones.append(
            Zone(
                start, start + rng.uniform(14, 35), int(rng.choice([-1, 1])), rng.uniform(2.2, max(2.5, main.kerb - 5))
            )
        )

    everything = np.concatenate([street.path.points for street in streets])
    low = np.floor(main.path.points.min(0) - MARGIN)
    low = np.minimum(low, np.floor(everything.min(0)))
    high = np.maximum(main.path.points.max(0) + MARGIN, everything.max(0))
    moved = [
        Street(**{**vars(street), "path": Path(street.path.points - low)}) for street in streets
    ]  # everything positive, as maps of nuScenes are
    return Layout(
        size=np.ceil(high - low),
        streets=tuple(moved),
        crossings=tuple(crossings),
        places=tuple(Place(place.center - low, place.yaw, place.size) for place in places),
        zones=tuple(zones),
        start=MARGIN,
    )


def _curve(rng: np.random.Generator, length: float) -> Path:
    """A street's middle: straights and bends, never tighter than 40 m nor turning back on itself."""
    count = int(length / 0.5)
    knots = np.linspace(0, length, max(4, int(length / 45)))
    strength = rng.choice([0.0, 0.004, 0.012], p=[0.3, 0.3, 0.4])
    curvature = np.interp(np.linspace(0, length, count), knots, rng.uniform(-strength, strength, len(knots)))
    heading = rng.uniform(-np.pi, np.pi) + np.clip(np.cumsum(curvature) * 0.5, -1.2, 1.2)
    steps = 0.5 * np.stack([np.cos(heading), np.sin(heading)], -1)
    return Path(np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)]))


def _street(rng: np.random.Generator, path: Path, wide: bool) -> Street:
    each_way = int(rng.choice([2, 3])) if wide else 1 + int(rng.random() < 0.3)
    width = rng.uniform(3.0, 3.7)
    median = rng.uniform(1.0, 4.0) if wide and rng.random() < 0.5 else 0.0
    lanes = []
    for index in range(each_way):
        offset = median / 2 + (index + 0.5) * width
        lanes += [Lane(-offset, 1, width), Lane(offset, -1, width)]
    cycle = rng.uniform(1.3, 2.0) if rng.random() < 0.4 else 0.0
    parking = rng.uniform(2.1, 2.6) if rng.random() < 0.65 else 0.0
    kerb = median / 2 + each_way * width + cycle + parking + 0.3
    return Street(path, tuple(lanes), cycle, parking, kerb, rng.uniform(1.8, 5.0), median)


def _places(rng: np.random.Generator, main: Street, crossings: list[float], length: float) -> list[Place]:
    """Rectangles that touch the main street's pavement and no crossing street."""
    places = []
    for side in (1, -1):
        s = rng.uniform(0, 60)
        while s < length:
            size = rng.uniform((16, 14), (42, 34))
            clear = all(abs(s - crossing) > size[0] / 2 + 14 for crossing in crossings)
            if clear and rng.random() < 0.6:
                center, heading = main.path.at(s, side * (main.kerb + main.pavement + size[1] / 2))
                places.append(Place(center, float(heading), size))
            s += size[0] + rng.uniform(10, 60)
    return places
