"""What stands in a quarter and is nobody's object: buildings, trees, poles, signs, street furniture.

Much of it resembles an object from afar, on purpose: bins are as large as traffic cones, posts as pedestrians, kiosks as vans.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bevdistill_ros.geometry import rotation_z
from bevdistill_ros.training.world.layout import Layout, Street
from bevdistill_ros.training.world.palette import Material, Palette
from bevdistill_ros.training.world.shapes import Part, box, cylinder, ellipsoid

TILE_M = 12.0
"""Metres that one picture of a wall covers, in both directions."""

_TILE = 192


@dataclass(frozen=True, eq=False)
class Wall:
    """A block with pictures on its walls.

    Attributes:
        vertices: (V, 3) global frame.
        faces: (F, 3).
        texcoords: (V, 2) in tiles.
        picture: index of the tile in ``Scenery.tiles``.
        reflectivity: 0..1.
    """

    vertices: np.ndarray
    faces: np.ndarray
    texcoords: np.ndarray
    picture: int
    reflectivity: float


@dataclass(frozen=True, eq=False)
class Furniture:
    """Pieces that stand at a place; parts are in its own frame, x along the street."""

    position: np.ndarray
    yaw: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Scenery:
    """Attributes: tiles: pictures of walls, (192, 192, 3) uint8 RGB each."""

    tiles: tuple[np.ndarray, ...]
    walls: tuple[Wall, ...]
    furniture: tuple[Furniture, ...]


def make_scenery(layout: Layout, drivable: np.ndarray, rng: np.random.Generator, palette: Palette) -> Scenery:
    """Build up a quarter where there is no street or place.

    Args:
        drivable: (rows, columns) mask at MAP_RESOLUTION, row 0 at the largest y: buildings keep away from it.
    """
    tiles = tuple(_facade(rng) for _ in range(9)) + tuple(_foliage(rng) for _ in range(2))
    taken = _Taken(drivable)
    walls, furniture = [], []
    density = rng.uniform(0.35, 1.0)
    tall = rng.uniform(6, 22)
    for street in layout.streets:
        for side in (1, -1):
            walls += _row_of_buildings(street, side, taken, rng, density, tall)
    walls += _hedges(layout, taken, rng)
    for street in layout.streets:
        for side in (1, -1):
            furniture += _street_furniture(street, side, taken, rng, palette)
    for place in layout.places:
        for _ in range(rng.poisson(1.5)):
            x, y = rng.uniform(-place.size / 2, place.size / 2)
            furniture.append(Furniture(place.at(x, y), rng.uniform(-np.pi, np.pi), _clutter(rng, palette)))
    return Scenery(tiles, tuple(walls), tuple(furniture))


class _Taken:
    """Ground on which nothing more can be built."""

    def __init__(self, drivable: np.ndarray) -> None:
        small = cv2.resize(drivable.astype(np.uint8), None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
        self.mask, self.scale = small > 0, 2.0  # cells of half a metre

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        column = np.clip((points[..., 0] * self.scale).astype(int), 0, self.mask.shape[1] - 1)
        row = np.clip(self.mask.shape[0] - 1 - (points[..., 1] * self.scale).astype(int), 0, self.mask.shape[0] - 1)
        return row, column

    def free(self, center: np.ndarray, yaw: float, size: tuple[float, float]) -> bool:
        """Whether a rectangle with a metre around it is free."""
        return not self.mask[self._cells(self._grid(center, yaw, (size[0] + 2, size[1] + 2)))].any()

    def take(self, center: np.ndarray, yaw: float, size: tuple[float, float]) -> None:
        """Mark a rectangle."""
        self.mask[self._cells(self._grid(center, yaw, size))] = True

    @staticmethod
    def _grid(center: np.ndarray, yaw: float, size: tuple[float, float]) -> np.ndarray:
        x, y = (np.linspace(-side / 2, side / 2, max(2, int(side * 2) + 1)) for side in size)
        points = np.stack(np.meshgrid(x, y), -1)
        return points @ rotation_z(yaw)[:2, :2].T + center


def _row_of_buildings(
    street: Street, side: int, taken: _Taken, rng: np.random.Generator, density: float, tall: float
) -> list[Wall]:
    walls = []
    s = rng.uniform(0, 10)
    setback = rng.uniform(0.3, 9)
    while s < street.path.length:
        width, depth = rng.uniform(7, 30), rng.uniform(8, 18)
        if rng.random() < density:
            away = setback + rng.uniform(0, 2)
            center, heading = street.path.at(s + width / 2, side * (street.kerb + street.pavement + away + depth / 2))
            if taken.free(center, float(heading), (width, depth)):
                taken.take(center, float(heading), (width, depth))
                height = float(np.clip(rng.gamma(4, tall / 4), 3, 45))
                picture = int(rng.integers(9))
                reflectivity = rng.uniform(0.1, 0.6)
                walls.append(_block(center, float(heading), (width, depth, height), 0.0, picture, reflectivity, rng))
                if rng.random() < 0.3:  # a storey set back, or a structure on the roof
                    inner = (width * rng.uniform(0.3, 0.8), depth * rng.uniform(0.3, 0.8), rng.uniform(2, 6))
                    walls.append(_block(center, float(heading), inner, height, picture, reflectivity, rng))
        s += width + rng.uniform(0, 8)
    return walls


def _hedges(layout: Layout, taken: _Taken, rng: np.random.Generator) -> list[Wall]:
    walls = []
    for _ in range(rng.poisson(10)):
        street = layout.streets[rng.integers(len(layout.streets))]
        length, thick, height = rng.uniform(3, 14), rng.uniform(0.3, 1.2), rng.uniform(0.7, 2.2)
        away = street.kerb + street.pavement + rng.uniform(0.8, 3)
        center, heading = street.path.at(rng.uniform(0, street.path.length), rng.choice([-1, 1]) * away)
        if taken.free(center, float(heading), (length, thick)):
            taken.take(center, float(heading), (length, thick))
            picture = 9 + int(rng.integers(2)) if rng.random() < 0.7 else int(rng.integers(9))
            walls.append(_block(center, float(heading), (length, thick, height), 0.0, picture, 0.4, rng))
    return walls


def _block(
    center: np.ndarray,
    yaw: float,
    size: tuple[float, float, float],
    base: float,
    picture: int,
    reflectivity: float,
    rng: np.random.Generator,
) -> Wall:
    """An upright block on z = ``base``, its pictures in their natural size; the roof shows a single point of the tile."""
    a, b, height = size[0] / 2, size[1] / 2, size[2]
    corners = np.array([[a, b], [-a, b], [-a, -b], [a, -b]]) @ rotation_z(yaw)[:2, :2].T + center
    vertices, texcoords, faces = [], [], []
    start = rng.uniform(0, 1)
    for i in range(4):
        p, q = corners[i], corners[(i + 1) % 4]
        u = start + np.array([0, np.linalg.norm(q - p) / TILE_M])
        n = len(vertices)
        vertices += [(*p, base), (*q, base), (*q, base + height), (*p, base + height)]
        texcoords += [(u[0], 0), (u[1], 0), (u[1], height / TILE_M), (u[0], height / TILE_M)]
        faces += [(n, n + 1, n + 2), (n, n + 2, n + 3)]
    for z, order in ((base, (0, 3, 2, 1)), (base + height, (0, 1, 2, 3))):
        n = len(vertices)
        vertices += [(*corners[i], z) for i in order]
        texcoords += [(0.02, 0.02)] * 4
        faces += [(n, n + 1, n + 2), (n, n + 2, n + 3)]
    return Wall(np.array(vertices), np.array(faces), np.array(texcoords), picture, reflectivity)


def _facade(rng: np.random.Generator) -> np.ndarray:
    """A tile of wall: courses of brick or plaster, windows in rows, at times a shop's band."""
    wall = rng.uniform(50, 225) + rng.uniform(-35, 35, 3)
    tile = np.ones((_TILE, _TILE, 3)) * wall
    tile *= 1 + 0.10 * rng.standard_normal((_TILE, _TILE, 1)) * rng.uniform(0.2, 1)
    if rng.random() < 0.4:
        tile[:: int(rng.integers(4, 9))] *= 0.8
    columns, rows = int(rng.integers(2, 7)), int(rng.integers(2, 5))
    glass = np.clip(rng.uniform(20, 130) + rng.uniform(-20, 35, 3), 0, 255)
    w, h = _TILE / columns, _TILE / rows
    wide, high = rng.uniform(0.35, 0.9), rng.uniform(0.4, 0.85)
    for row in range(rows):
        for column in range(columns):
            x, y = int(w * (column + (1 - wide) / 2)), int(h * (row + (1 - high) / 2))
            pane = np.clip(glass * rng.uniform(0.6, 1.4), 0, 255)
            tile[y : y + int(h * high), x : x + int(w * wide)] = pane
            cv2.rectangle(tile, (x, y), (x + int(w * wide), y + int(h * high)), tuple(wall * 0.6), 1)
    if rng.random() < 0.35:
        tile[-int(h) :] = tile[-int(h) :] * 0.5 + 0.5 * rng.uniform(0, 255, 3)
    return np.clip(tile, 0, 255).astype(np.uint8)


def _foliage(rng: np.random.Generator) -> np.ndarray:
    noise = sum(
        cv2.resize(rng.uniform(-1, 1, (n, n)), (_TILE, _TILE), interpolation=cv2.INTER_CUBIC) for n in (12, 40, 96)
    )
    colour = rng.uniform(30, 130) + rng.uniform(-35, 35, 3)
    return np.clip(colour * (1 + 0.35 * noise[..., None]), 0, 255).astype(np.uint8)


def _street_furniture(
    street: Street, side: int, taken: _Taken, rng: np.random.Generator, palette: Palette
) -> list[Furniture]:
    """Trees, lamps, signs and clutter along a kerb."""
    items = []

    def put(s: float, away: float, parts: tuple[Part, ...]) -> None:
        center, heading = street.path.at(s, side * (street.kerb + away))
        if taken.free(center, float(heading), (-1.2, -1.2)):
            items.append(Furniture(center, float(heading) + (np.pi if side < 0 else 0.0), parts))

    spacing = rng.uniform(8, 30)
    trees = rng.random() < 0.6
    for s in np.arange(rng.uniform(0, spacing), street.path.length, spacing):
        if trees and rng.random() < 0.8:
            put(s + rng.normal(0, 0.5), rng.uniform(0.7, 1.3), _tree(rng, palette))
    lamps = rng.uniform(22, 40)
    for s in np.arange(rng.uniform(0, lamps), street.path.length, lamps):
        put(s, 0.5, _lamp(rng, palette))
    for _ in range(rng.poisson(street.path.length / 12)):
        away = rng.uniform(0.3, street.pavement + 2)
        put(rng.uniform(0, street.path.length), away, _clutter(rng, palette))
    return items


def _plant(rng: np.random.Generator, palette: Palette) -> Material:
    """Leaves: green as a rule, any colour at times."""
    if rng.random() < 0.15:
        return palette.paint()
    colour = np.clip(np.array([0.22, 0.36, 0.14]) * rng.uniform(0.5, 1.7) + rng.uniform(-0.06, 0.06, 3), 0, 1)
    return Material(colour, rng.uniform(0.3, 0.6), 0.0)


def _tree(rng: np.random.Generator, palette: Palette) -> tuple[Part, ...]:
    height, spread = rng.uniform(3, 9), rng.uniform(0.9, 2.4)
    trunk = rng.uniform(1.2, 2.6)
    bark = Material(np.array([0.3, 0.22, 0.15]) * rng.uniform(0.5, 1.5), 0.3, 0.0)
    leaves = _plant(rng, palette)
    parts = [cylinder((0, 0, 0), (0, 0, trunk + 0.4), rng.uniform(0.08, 0.25), bark)]
    for _ in range(int(rng.integers(1, 4))):
        shift = rng.normal(0, spread * 0.3, 3) * (1, 1, 0.6)
        tone = Material(np.clip(leaves.colour * rng.uniform(0.75, 1.25), 0, 1), leaves.reflectivity, 0.0)
        half = (height - trunk) / 2
        middle = np.array([0, 0, trunk + half]) + shift
        parts.append(ellipsoid(middle, (spread * rng.uniform(0.6, 1), spread * rng.uniform(0.6, 1), half), tone))
    return tuple(parts)


def _lamp(rng: np.random.Generator, palette: Palette) -> tuple[Part, ...]:
    height, metal = rng.uniform(4, 9), palette.metal()
    parts = [cylinder((0, 0, 0), (0, 0, height), rng.uniform(0.06, 0.12), metal)]
    if rng.random() < 0.7:
        parts.append(box((-0.1, -rng.uniform(0.8, 2.2), height - 0.15), (0.1, 0.1, height), metal))
    if rng.random() < 0.4:  # a traffic light or a flag
        parts.append(box((-0.15, -0.2, 2.4), (0.15, 0.2, 3.3), palette.trim()))
    return tuple(parts)


def _clutter(rng: np.random.Generator, palette: Palette) -> tuple[Part, ...]:
    """One of: post, sign, bin, cabinet, bench, kiosk, planter, hydrant, crate stack."""
    kind = int(rng.integers(8))
    one, two = palette.paint(), palette.paint()
    if kind == 0:
        return (cylinder((0, 0, 0), (0, 0, rng.uniform(0.7, 1.8)), rng.uniform(0.05, 0.15), one),)
    if kind == 1:
        top, half = rng.uniform(2, 3), rng.uniform(0.25, 0.45)
        return (
            cylinder((0, 0, 0), (0, 0, top), 0.04, palette.metal()),
            box((-0.02, -half, top - 2 * half), (0.02, half, top), one),
        )
    if kind == 2:
        return (cylinder((0, 0, 0), (0, 0, rng.uniform(0.7, 1.1)), rng.uniform(0.2, 0.32), one),)
    if kind == 3:
        a, b, c = rng.uniform((0.2, 0.3, 0.8), (0.5, 0.9, 1.6))
        return (box((-a, -b, 0), (a, b, c), one),)
    if kind == 4:
        return (
            box((-0.9, -0.2, 0.4), (0.9, 0.2, 0.47), one),
            box((-0.9, 0.18, 0.47), (0.9, 0.24, 0.9), one),
            box((-0.75, -0.15, 0), (-0.65, 0.15, 0.4), two),
            box((0.65, -0.15, 0), (0.75, 0.15, 0.4), two),
        )
    if kind == 5:
        a, b, c = rng.uniform((1.0, 0.7, 2.0), (2.0, 1.2, 2.8))
        return (box((-a, -b, 0), (a, b, c), one), box((-a - 0.3, -b - 0.3, c), (a + 0.3, b + 0.3, c + 0.2), two))
    if kind == 6:
        a = rng.uniform(0.3, 0.7)
        leaves = _plant(rng, palette)
        return (box((-a, -a, 0), (a, a, 0.5), one), ellipsoid((0, 0, 0.7), (a * 0.9, a * 0.9, 0.6), leaves))
    count = int(rng.integers(1, 4))
    a = rng.uniform(0.25, 0.55)
    return tuple(box((-a, -a, i * a), (a, a, (i + 1) * a), palette.paint()) for i in range(count))
