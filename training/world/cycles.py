"""Bicycles and motorcycles, with and without riders; see ``objects`` for what such a function returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.people import rider
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    both_sides,
    cuboid,
    cylinder,
    frustum,
    hull,
    joined,
    rim,
    solid,
    tube,
)
from bevdistill_ros.training.world.vehicle_pieces import hubs

HIP = np.array([0.0, 0.0, 0.08])
"""Where a rider's hip is, seen from the saddle."""

# ------------------------------------------------------------------ bicycles


@dataclass(frozen=True)
class BicycleFrame:
    """A kind of bicycle, for wheels of 0.345 m. Lengths are metres.

    Attributes:
        saddle: z of the saddle.
        head: z of the frame's front end.
        stem: how far the bar is above it.
        grip: (3,) of the left grip, seen from the bar's middle.
        step_through: whether the upper tube comes down to the pedals.
        equipped: whether it has mudguards and a lamp, and perhaps a basket.
        lean: of the rider, radians.
    """

    saddle: float
    head: float
    stem: float
    grip: tuple[float, float, float]
    step_through: bool
    equipped: bool
    lean: float


CITY = BicycleFrame(0.95, 0.84, 0.2, (-0.1, 0.3, 0.0), step_through=False, equipped=True, lean=0.2)
STEP_THROUGH = BicycleFrame(0.9, 0.88, 0.22, (-0.16, 0.3, 0.02), step_through=True, equipped=True, lean=0.12)
RACER = BicycleFrame(0.98, 0.88, 0.06, (0.12, 0.22, -0.04), step_through=False, equipped=False, lean=0.65)
BICYCLES = ((0.45, CITY), (0.3, STEP_THROUGH), (0.25, RACER))


def bicycle(rng: np.random.Generator, palette: Palette, with_rider: bool) -> list[Part]:
    kind = one_of(rng, BICYCLES)
    radius, base = spread(rng, 0.345, 0.012), spread(rng, 1.05, 0.03)
    back, front = np.array([-base / 2, 0, radius]), np.array([base / 2, 0, radius])
    crank = np.array([-0.08, 0.0, radius - 0.06])
    saddle = np.array([-0.24, 0.0, kind.saddle + rng.uniform(-0.04, 0.04)])
    head = np.array([base / 2 - 0.2, 0.0, kind.head])
    stem = head + [-0.05, 0.0, kind.stem]
    grip = stem + kind.grip + [0.0, rng.uniform(-0.02, 0.02), 0.0]
    seat_tube = crank + 0.8 * (saddle - crank)
    upper = crank + 0.35 * (saddle - crank) if kind.step_through else seat_tube
    pipe = 0.028
    frame = joined(
        tube([crank, saddle], pipe, sides=4),
        tube([crank, head + [0.02, 0.0, -0.12]], 1.1 * pipe, sides=4),
        tube([upper, head], pipe, sides=4),
        tube([back, crank], 0.8 * pipe, sides=4),
        tube([back, seat_tube], 0.7 * pipe, sides=4),
        tube([front, head, stem], pipe, sides=4),
    )
    bar = tube([grip * [1, -1, 1], stem, grip], 0.024, sides=4)
    x, _, z = saddle
    seat = frustum((x - 0.13, x + 0.14, 0.05, z - 0.03), (x - 0.16, x + 0.13, 0.07, z + 0.04))
    turn = rng.uniform(0, 2 * np.pi)
    reach = 0.17 * np.array([np.cos(turn), 0.0, np.sin(turn)]) + [0.0, 0.12, 0.0]
    pedals = [crank + reach, crank - reach]
    treads = [cuboid(p - [0.05, 0.05, 0.015], p + [0.05, 0.05, 0.015]) for p in pedals]
    treads.append(tube(pedals, 0.02, sides=4))
    paint, tyre = palette.paint(), palette.tyre()
    parts = [
        solid(rim(back, radius, 0.07, 0.06), tyre),
        solid(rim(front, radius, 0.07, 0.06), tyre),
        solid(frame, paint),
        solid(joined(bar, seat, *treads), palette.trim()),
    ]
    if kind.equipped:
        top = 2 * radius
        guard = hull(
            [
                (-base / 2 - radius - 0.03, 0.03, radius, radius + 0.06),
                (-base / 2 - 0.24, 0.035, top - 0.07, top),
                (-base / 2 + 0.05, 0.035, top, top + 0.05),
                (-base / 2 + 0.25, 0.03, top - 0.08, top),
            ]
        )
        lamp = tube([head + [0.02, 0, 0.03], head + [0.12, 0, 0.03]], [0.03, 0.055])
        parts += [solid(guard, palette.accent(paint)), solid(lamp, palette.lamp_front())]
        if rng.random() < 0.35:
            basket = frustum(
                (base / 2 - 0.08, base / 2 + 0.2, 0.13, top + 0.06),
                (base / 2 - 0.12, base / 2 + 0.28, 0.18, top + 0.32),
            )
            parts.append(solid(basket, palette.metal()))
    if with_rider:
        feet = (pedals[0] + [0, 0, 0.08], pedals[1] + [0, 0, 0.08])
        lean, helmet = kind.lean + rng.uniform(-0.05, 0.1), rng.random() < 0.35
        parts += rider(rng, palette, saddle + HIP, grip, feet, lean, helmet)
    return parts


# ------------------------------------------------------------------ motorcycles


@dataclass(frozen=True)
class MotorcycleFrame:
    """A kind of motorcycle. Lengths are metres.

    Attributes:
        radius, width: of the wheels.
        base: between the axles.
        head: z of the fork's upper end.
        grip: how far the grips lie behind the front axle; how far left; their z.
        seat: how far the seat lies in front of the back axle; its z.
        feet: how far the feet lie in front of the back axle; how far outside; their z.
        lamp: of the front lamp, seen from the fork's upper end: x and z.
        lean: of the rider, radians.
        fairing: whether a fairing covers the front.
    """

    radius: float
    width: float
    base: float
    head: float
    grip: tuple[float, float, float]
    seat: tuple[float, float]
    feet: tuple[float, float, float]
    lamp: tuple[float, float]
    lean: float
    fairing: bool


ROADSTER = MotorcycleFrame(
    radius=0.32, width=0.14, base=1.47, head=0.95, grip=(0.5, 0.38, 1.1), seat=(0.5, 0.84), feet=(0.62, 0.2, 0.36),
    lamp=(0.1, 0.0), lean=0.2, fairing=False,
)  # fmt: skip
SPORTS = MotorcycleFrame(
    radius=0.31, width=0.16, base=1.42, head=0.92, grip=(0.4, 0.34, 0.98), seat=(0.42, 0.88), feet=(0.5, 0.2, 0.36),
    lamp=(0.34, -0.1), lean=0.6, fairing=True,
)  # fmt: skip
SCOOTER = MotorcycleFrame(
    radius=0.25, width=0.12, base=1.35, head=0.95, grip=(0.42, 0.35, 1.06), seat=(0.35, 0.82), feet=(0.8, 0.14, 0.38),
    lamp=(0.08, -0.08), lean=0.08, fairing=False,
)  # fmt: skip
MOTORCYCLES = ((0.4, ROADSTER), (0.25, SPORTS), (0.35, SCOOTER))


@dataclass(frozen=True)
class _Body:
    """What stands between the wheels, by material."""

    paint: list[Mesh]
    accent: list[Mesh]
    dark: list[Mesh]
    metal: list[Mesh]


def motorcycle(rng: np.random.Generator, palette: Palette, with_rider: bool) -> list[Part]:
    kind = one_of(rng, MOTORCYCLES)
    radius, base = kind.radius + rng.uniform(-0.015, 0.015), spread(rng, kind.base, 0.05)
    back, front = -base / 2, base / 2
    head = np.array([front - 0.33, 0.0, kind.head])
    middle = head + [0.0, 0.0, 0.1]  # of the bar
    grip = np.array([front - kind.grip[0], kind.grip[1], kind.grip[2]])
    seat = np.array([back + kind.seat[0], 0.0, kind.seat[1]])
    fork = both_sides(tube([(front, 0.09, radius), head + [0, 0.09, 0]], 0.03, sides=4))
    bar = tube([grip * [1, -1, 1], middle, grip], 0.028, sides=4)
    root = 0.3 * middle + 0.7 * grip
    mirrors = both_sides(tube([root, root + [0.03, 0.03, 0.2]], [0.02, 0.07], sides=4))
    body = _scooter_body(back, front) if kind is SCOOTER else _tank_and_engine(kind, radius, back, front, head, seat)
    x, _, z = seat
    pad = hull(
        [
            (x - 0.45, 0.1, z - 0.04, z + 0.06),
            (x - 0.1, 0.15, z - 0.06, z + 0.02),
            (x + 0.22, 0.12, z - 0.06, z + 0.02),
        ]
    )
    lamp = head + [kind.lamp[0], 0.0, kind.lamp[1]]
    paint, tyre, half = palette.paint(), palette.tyre(), kind.width / 2
    parts = [
        *(cylinder((x, -half, radius), (x, half, radius), radius, tyre) for x in (back, front)),
        solid(joined(*body.paint), paint),
        solid(joined(*body.accent), palette.accent(paint)),
        solid(joined(fork, bar, mirrors, pad, *body.dark), palette.trim()),
        solid(joined(hubs((back, front), radius, half), *body.metal), palette.metal()),
        solid(tube([lamp, lamp + [0.14, 0, 0]], [0.07, 0.1]), palette.lamp_front()),
        solid(cuboid((back - 0.38, -0.07, 0.68), (back - 0.26, 0.07, 0.8)), palette.lamp_back()),
    ]
    if with_rider:
        ahead, aside, high = kind.feet
        feet = (np.array([back + ahead, aside, high]), np.array([back + ahead, -aside, high]))
        parts += rider(rng, palette, seat + HIP, grip, feet, kind.lean + rng.uniform(-0.05, 0.1), helmet=True)
    return parts


def _scooter_body(back: float, front: float) -> _Body:
    """A round tail over the back wheel, a foot board, a shield in front of the legs."""
    tail = hull(
        [
            (back - 0.35, 0.1, 0.5, 0.72),
            (back - 0.1, 0.17, 0.36, 0.78),
            (back + 0.5, 0.19, 0.25, 0.76),
            (back + 0.6, 0.17, 0.2, 0.45),
        ]
    )
    board = cuboid((back + 0.5, -0.2, 0.22), (front - 0.25, 0.2, 0.32))
    shield = frustum((front - 0.36, front - 0.22, 0.22, 0.3), (front - 0.42, front - 0.25, 0.16, 0.98))
    guard = hull([(front - 0.2, 0.08, 0.42, 0.5), (front + 0.05, 0.09, 0.5, 0.58), (front + 0.25, 0.07, 0.36, 0.44)])
    return _Body(paint=[tail], accent=[board, shield, guard], dark=[], metal=[])


def _tank_and_engine(
    kind: MotorcycleFrame, radius: float, back: float, front: float, head: np.ndarray, seat: np.ndarray
) -> _Body:
    """Tank, engine and exhaust between the wheels, a tail over the back one, a mudguard over the front one."""
    x, top = seat[0], 2 * radius
    tank = hull([(x + 0.12, 0.12, 0.7, 0.86), (x + 0.3, 0.17, 0.68, 1.0), (head[0] - 0.02, 0.14, 0.72, 0.98)])
    engine = frustum((back + 0.45, front - 0.45, 0.16, 0.2), (back + 0.4, front - 0.42, 0.2, 0.68))
    tail = hull([(back - 0.32, 0.06, 0.82, 0.92), (back - 0.1, 0.11, 0.7, 0.9), (x, 0.13, 0.62, 0.8)])
    exhaust = tube([(front - 0.5, -0.22, 0.3), (back + 0.2, -0.24, 0.3), (back - 0.2, -0.25, 0.42)], [0.05, 0.07, 0.08])
    arms = both_sides(tube([(back, 0.11, radius), (back + 0.5, 0.11, 0.4)], 0.04, sides=4))
    guard = hull(
        [
            (front - 0.3, 0.07, top - 0.12, top - 0.04),
            (front, 0.09, top - 0.03, top + 0.04),
            (front + 0.25, 0.07, top - 0.16, top - 0.09),
        ]
    )
    accent = [tail, guard]
    if kind.fairing:
        h = head[0]
        accent.append(hull([(h - 0.15, 0.2, 0.45, 0.95), (h + 0.1, 0.2, 0.55, 1.15), (h + 0.42, 0.1, 0.72, 0.85)]))
    return _Body(paint=[tank], accent=accent, dark=[engine], metal=[exhaust, arms])
