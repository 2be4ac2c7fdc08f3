"""Trucks and trailers; see ``objects`` for what such a function returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.training.world.cars import pickup
from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    both_sides,
    box,
    cuboid,
    cylinder,
    frustum,
    joined,
    loft,
    solid,
    tube,
)
from bevdistill_ros.training.world.vehicle_pieces import (
    TRUCK_MIRROR,
    back_doors,
    back_lamps,
    hubs,
    pair,
    truck_cab,
    wheels,
)


@dataclass(frozen=True)
class Deck:
    """Where a truck or trailer carries its load.

    Attributes:
        back, front: x of its ends.
        half: half width.
        z: upper side of the frame.
    """

    back: float
    front: float
    half: float
    z: float


Load = Callable[[np.random.Generator, Palette, Deck], list[Part]]

# ------------------------------------------------------------------ loads of trucks


def _box_body(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    height, paint = spread(rng, 3.2, 0.25), palette.paint()
    band = (deck.back + 0.07, deck.front - 0.1, deck.half + 0.01)
    return [
        box((deck.back, -deck.half, deck.z), (deck.front, deck.half, height), paint),
        box((band[0], -band[2], deck.z + 0.15), (band[1], band[2], deck.z + 0.55), palette.accent(paint)),
        solid(back_doors(deck.back, deck.half, deck.z, height - 0.05), palette.metal()),
    ]


def _flat_bed(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    """Low side walls, a wall behind the cab and one heap of goods from the back on."""
    half, z = deck.half, deck.z
    bed = joined(
        cuboid((deck.back, -half, z), (deck.front, half, z + 0.15)),
        both_sides(cuboid((deck.back, half - 0.06, z), (deck.front, half, z + 0.45))),
        cuboid((deck.front - 0.06, -half, z), (deck.front, half, z + 1.3)),
    )
    end = deck.back + 0.27 + rng.uniform(0.35, 0.9) * (deck.front - deck.back - 0.5)
    goods = frustum(
        (deck.back + 0.27, end, 0.85 * half, z + 0.1),
        (deck.back + 0.37, end - 0.1, 0.8 * half, z + rng.uniform(0.5, 1.3)),
    )
    paint = palette.paint()
    return [solid(bed, palette.accent(paint)), solid(goods, paint)]


def _tank(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    radius = min(0.9 * deck.half, (spread(rng, 3.1, 0.1) - deck.z) / 2)
    center, paint = deck.z + radius + 0.02, palette.paint()
    board = cuboid((deck.back + 0.22, -deck.half, deck.z - 0.05), (deck.front, deck.half, deck.z + 0.25))
    walk = cuboid((deck.back + 0.5, -0.2, center + radius - 0.03), (deck.front - 0.5, 0.2, center + radius + 0.1))
    return [
        cylinder((deck.back + 0.12, 0, center), (deck.front - 0.1, 0, center), radius, paint),
        solid(joined(board, walk), palette.accent(paint)),
    ]


def _tipper(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    """A skip that widens upwards, full, with a canopy over the cab."""
    height, half, paint = spread(rng, 2.85, 0.12), deck.half, palette.paint()
    skip = loft(
        [
            [(x0, -w, z), (x1, -w, z), (x1, w, z), (x0, w, z)]
            for x0, x1, w, z in (
                (deck.back + 0.55, deck.front - 0.1, 0.75 * half, deck.z),
                (deck.back, deck.front + 0.05, half, height),
            )
        ]
    )
    ribs = [
        cuboid((x, -half - 0.03, deck.z + 0.25), (x + 0.12, half + 0.03, height - 0.02))
        for x in np.linspace(deck.back + 0.5, deck.front - 0.3, 4)
    ]
    canopy = cuboid((deck.front, -half, height), (deck.front + 1.3, half, height + 0.1))
    heap = frustum(
        (deck.back + 0.3, deck.front - 0.3, 0.85 * half, height - 0.05),
        (deck.back + 1.2, deck.front - 1.0, 0.3 * half, height + 0.3),
    )
    return [solid(skip, paint), solid(joined(*ribs, canopy), palette.accent(paint)), solid(heap, palette.cloth())]


def _fifth_wheel(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    """A tractor without its trailer: coupling plate, tanks, and a spoiler on the cab."""
    plate = deck.back + 0.3 * (deck.front - deck.back) + rng.uniform(-0.1, 0.1)
    roof = deck.z + 1.85
    spoiler = frustum(
        (deck.front + 0.25, deck.front + 1.5, 0.85 * deck.half, roof),
        (deck.front + 0.25, deck.front + 0.9, 0.75 * deck.half, roof + 0.6),
    )
    tanks = pair((deck.front - 0.95, 0.45 * deck.half, 0.45), (deck.front + 0.05, 0.95 * deck.half, deck.z - 0.1))
    return [
        cylinder((plate, 0, deck.z), (plate, 0, deck.z + 0.12), 0.5, palette.trim()),
        solid(spoiler, palette.paint()),
        solid(tanks, palette.metal()),
    ]


@dataclass(frozen=True)
class TruckBody:
    """A kind of truck: mean and deviation of its length, height of its cab above the frame, its load."""

    length: tuple[float, float]
    cab: float
    load: Load


TRUCKS = (
    (0.4, TruckBody((7.2, 1.0), 1.6, _box_body)),
    (0.16, TruckBody((7.3, 0.9), 1.6, _flat_bed)),
    (0.12, TruckBody((7.9, 0.8), 1.6, _tank)),
    (0.2, TruckBody((7.4, 0.7), 1.6, _tipper)),
    (0.12, TruckBody((6.1, 0.4), 1.95, _fifth_wheel)),
)
PICKUPS = 0.25
"""Share of pick-ups among trucks: nuScenes counts them there."""


def truck(rng: np.random.Generator, palette: Palette) -> list[Part]:
    if rng.random() < PICKUPS:
        return pickup(rng, palette)
    body = one_of(rng, TRUCKS)
    length, half = spread(rng, *body.length), spread(rng, 2.62, 0.1) / 2 - 0.95 * TRUCK_MIRROR + 0.04
    front, back = length / 2, -length / 2
    room = front - spread(rng, 1.9, 0.12)
    radius = float(np.clip(0.08 * length, 0.4, 0.52)) * spread(rng, 1.0, 0.03)
    z = 2 * radius + 0.06
    axles = [front - 1.35 if length > 6.5 else front - 0.9, back + 0.22 * length]
    if length > 8.2:
        axles = [axles[0], axles[1] + 0.25 * radius, axles[1] - 1.9 * radius]
    height, slant, paint = z + spread(rng, body.cab, 0.08), spread(rng, 0.32, 0.06), palette.paint()
    frame = box((back + 0.02, -0.42 * half, z - 0.3), (front - 0.4, 0.42 * half, z), palette.trim())
    return [
        *truck_cab(room, front, 0.96 * half, 0.48, height, slant, paint, palette),
        frame,
        *wheels(axles, radius, 0.32, half - 0.02, palette.tyre()),
        solid(hubs(axles, radius, half - 0.02), palette.metal()),
        back_lamps(back, half, z - 0.25, palette),
        *body.load(rng, palette, Deck(back + 0.03, room - 0.15, half, z)),
    ]


# ------------------------------------------------------------------ trailers


def _trailer_box(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    """A tall box, ribbed like a container or with a band, at times with a cooler on its front."""
    height, half, paint = spread(rng, 3.9, 0.18), deck.half, palette.paint()
    if rng.random() < 0.4:
        ribs = [
            cuboid((x, -half - 0.03, deck.z - 0.05), (x + 0.1, half + 0.03, height - 0.02))
            for x in np.linspace(deck.back + 0.05, deck.front - 0.15, 7)
        ]
        relief = joined(*ribs)
    else:
        relief = cuboid((deck.back + 0.2, -half - 0.01, deck.z + 0.3), (deck.front - 0.2, half + 0.01, deck.z + 0.9))
    parts = [
        box((deck.back, -half, deck.z), (deck.front, half, height), paint),
        solid(relief, palette.accent(paint)),
        solid(back_doors(deck.back, half, deck.z, height - 0.1), palette.metal()),
    ]
    if rng.random() < 0.4:
        x = deck.front - 0.05
        cooler = frustum((x, x + 0.45, 0.7 * half, height - 1.9), (x, x + 0.35, 0.7 * half, height - 0.2))
        parts.append(solid(cooler, palette.trim()))
    return parts


def _trailer_bed(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    """A flat bed with a front wall and four heaps of goods from the back on."""
    half, z = deck.half, deck.z
    bed = joined(
        cuboid((deck.back, -half, z), (deck.front, half, z + 0.18)),
        cuboid((deck.front - 0.1, -half, z), (deck.front, half, z + 1.6)),
    )
    step = rng.uniform(0.25, 0.95) * (deck.front - deck.back - 0.5) / 4
    tallest = rng.uniform(0.5, 2.2)
    goods = []
    for index, tall in enumerate(rng.uniform(0.5, 1.0, 4)):
        x = deck.back + 0.2 + index * step
        goods.append(cuboid((x + 0.08, -0.8 * half, z + 0.15), (x + step, 0.8 * half, z + 0.2 + tallest * tall)))
    paint = palette.paint()
    return [solid(bed, palette.accent(paint)), solid(joined(*goods), paint)]


def _trailer_tank(rng: np.random.Generator, palette: Palette, deck: Deck) -> list[Part]:
    radius = min(spread(rng, 1.1, 0.05), deck.half - 0.1)
    center, paint = deck.z + radius - 0.15, palette.paint()
    cap = tube([(deck.back + 0.06, 0, center), (deck.back + 0.35, 0, center)], [0.6 * radius, 0.97 * radius], sides=8)
    top = center + radius
    walk = cuboid((deck.back + 1.0, -0.3, top - 0.05), (deck.front - 1.5, 0.3, top + 0.12))
    guards = cuboid((deck.back + 0.5, -deck.half, deck.z - 0.2), (deck.back + 4.2, deck.half, deck.z + 0.02))
    return [
        cylinder((deck.back + 0.3, 0, center), (deck.front - 0.25, 0, center), radius, paint),
        solid(joined(cap, walk, guards), palette.accent(paint)),
    ]


@dataclass(frozen=True)
class TrailerBody:
    """A kind of trailer: mean and deviation of its length, its load, and whether a drawbar pulls it or a fifth wheel carries it."""

    length: tuple[float, float]
    load: Load
    drawbar: bool


TRAILERS = (
    (0.5, TrailerBody((13.2, 1.0), _trailer_box, drawbar=False)),
    (0.14, TrailerBody((12.8, 0.8), _trailer_bed, drawbar=False)),
    (0.16, TrailerBody((13.3, 0.7), _trailer_tank, drawbar=False)),
    (0.12, TrailerBody((9.6, 1.0), _trailer_box, drawbar=True)),
    (0.08, TrailerBody((9.6, 1.0), _trailer_bed, drawbar=True)),
)


def trailer(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A trailer without what pulls it: no cab, wheels at the back, on landing legs or with a drawbar."""
    body = one_of(rng, TRAILERS)
    length, half = spread(rng, *body.length), spread(rng, 2.88, 0.12) / 2 - 0.03
    back, front, z = -length / 2, length / 2, 1.2
    radius = spread(rng, 0.5, 0.02)
    if body.drawbar:
        axles = [back + 1.5, front - 2.6]
        deck = Deck(back, front - 1.2, half, z)
        support = _drawbar(deck, front)
    else:
        axles = [back + 1.1, back + 2.3, back + 3.5][: 2 if rng.random() < 0.5 else 3]
        deck = Deck(back, front, half, z)
        support = _landing_legs(front - 0.24 * length, deck)
    rail = cuboid((back + 0.05, -0.45 * half, z - 0.28), (deck.front - 0.3, 0.45 * half, z))
    underrun = cuboid((back, -0.97 * half, 0.5), (back + 0.1, 0.97 * half, 0.68))
    hangers = pair((back + 0.3, 0.35 * half, 0.6), (back + 0.45, 0.45 * half, z))
    return [
        *body.load(rng, palette, deck),
        solid(joined(rail, underrun, hangers, support), palette.trim()),
        *wheels(axles, radius, 0.4, half - 0.02, palette.tyre()),
        solid(hubs(axles, radius, half - 0.02), palette.metal()),
        solid(pair((back - 0.025, 0.6 * half, 0.72), (back + 0.06, 0.92 * half, 0.95)), palette.lamp_back()),
    ]


def _landing_legs(x: float, deck: Deck) -> Mesh:
    legs = pair((x, 0.6 * deck.half, 0.0), (x + 0.15, 0.72 * deck.half, deck.z))
    feet = pair((x - 0.1, 0.55 * deck.half, 0.0), (x + 0.25, 0.77 * deck.half, 0.06))
    return joined(legs, feet)


def _drawbar(deck: Deck, front: float) -> Mesh:
    return both_sides(tube([(deck.front - 0.2, 0.4 * deck.half, 0.85), (front, 0.04, 0.7)], 0.07, sides=4))
