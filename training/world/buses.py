"""Buses; see ``objects`` for what such a function returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.shapes import Part, box, cuboid, hull, joined, solid
from bevdistill_ros.training.world.vehicle_pieces import TRUCK_MIRROR, hubs, pair, wheels, windscreen


@dataclass(frozen=True)
class BusBody:
    """A kind of bus. Lengths are metres.

    Attributes:
        length, height: mean and deviation.
        sill: z of the side windows' lower edge.
        belt: z of the windscreen's lower edge.
        slant: by how much the windscreen's upper edge lies behind its lower one.
        bonnet: length of the engine's bonnet in front of the tall body; 0 for none.
        front_axle, back_axle: distances from the front and from the back.
        twin: whether there are two back axles.
        doors: where doors begin on the right side, as shares of the length from the front.
        unit: whether an air conditioner sits on the roof.
    """

    length: tuple[float, float]
    height: tuple[float, float]
    sill: float
    belt: float
    slant: float
    bonnet: float
    front_axle: float
    back_axle: float
    twin: bool
    doors: tuple[float, ...]
    unit: bool


CITY = BusBody(
    length=(11.8, 0.7), height=(3.35, 0.15), sill=1.35, belt=1.15, slant=0.15, bonnet=0.0, front_axle=2.7, back_axle=3.1,
    twin=False, doors=(0.13, 0.52), unit=True,
)  # fmt: skip
COACH = BusBody(
    length=(12.3, 0.7), height=(3.75, 0.12), sill=1.85, belt=1.15, slant=0.7, bonnet=0.0, front_axle=2.9, back_axle=3.3,
    twin=True, doors=(0.17,), unit=False,
)  # fmt: skip
SCHOOL = BusBody(
    length=(9.2, 0.8), height=(3.1, 0.12), sill=1.55, belt=1.5, slant=0.25, bonnet=1.4, front_axle=1.0, back_axle=2.7,
    twin=False, doors=(0.33,), unit=False,
)  # fmt: skip
BUSES = ((0.55, CITY), (0.25, COACH), (0.2, SCHOOL))


def bus(rng: np.random.Generator, palette: Palette) -> list[Part]:
    body = one_of(rng, BUSES)
    length, height = spread(rng, *body.length), spread(rng, *body.height)
    half, low = spread(rng, 2.93, 0.1) / 2 - TRUCK_MIRROR, 0.32
    back, front = -length / 2, length / 2
    cab, slant, belt = front - body.bonnet, body.slant + rng.uniform(0, 0.1), body.belt
    roof_end = cab - slant
    shell = hull(
        [
            (back, 0.97 * half, low + 0.15, height - 0.12),
            (back + 0.15, half, low, height),
            (roof_end - 0.2, half, low, height),
            (roof_end, half, low, height - 0.06),
            (cab - 0.04, 0.97 * half, low, belt),
            (cab, 0.95 * half, low + 0.08, belt - 0.15),
        ],
        top=0.95,
    )
    top = height - 0.42
    panes = [
        windscreen((cab - 0.02, 0.88 * half, belt + 0.05), (roof_end + 0.015, 0.86 * half, height - 0.35), 0.06),
        cuboid((back + 0.25, -half - 0.012, body.sill), (roof_end - 0.55, half + 0.012, top)),
        cuboid((back - 0.015, -0.7 * half, body.sill + 0.2), (back + 0.1, 0.7 * half, height - 0.5)),
    ]
    for share in body.doors:
        x = front - share * length
        panes.append(cuboid((x, -half - 0.025, low + 0.1), (x + 1.0, -half + 0.1, height - 0.4)))
    posts = [
        cuboid((x - 0.05, -half - 0.022, body.sill), (x + 0.05, half + 0.022, top))
        for x in np.linspace(back + 0.25, roof_end - 0.55, 8 if length > 10 else 6)
    ]
    radius = spread(rng, 0.5, 0.02)
    axles = [front - body.front_axle, back + body.back_axle] + ([back + body.back_axle - 1.3] if body.twin else [])
    ear = cab - 0.04 - slant * 0.6 / (height - belt)  # where the windscreen is at the mirrors' height
    dark = [
        pair((ear - 0.12, 0.9 * half, belt + 0.6), (ear + 0.14, half + TRUCK_MIRROR, belt + 1.15)),
        cuboid((front - 0.3, -0.9 * half, low), (front + 0.02, 0.9 * half, low + 0.22)),
    ]
    if body.bonnet:
        bonnet = hull(
            [
                (cab - 0.2, 0.8 * half, low + 0.15, belt + 0.05),
                (front - 0.2, 0.72 * half, low + 0.15, belt - 0.08),
                (front, 0.66 * half, low + 0.2, belt - 0.3),
            ]
        )
        shell = joined(shell, bonnet)
        dark.append(cuboid((front - 0.3, -0.38 * half, low + 0.25), (front + 0.012, 0.38 * half, belt - 0.35)))
        lamps = (0.42 * half, 0.62 * half)
    else:  # the sign with the line's number
        dark.append(cuboid((roof_end, -0.8 * half, height - 0.3), (roof_end + 0.06, 0.8 * half, height - 0.08)))
        lamps = (0.6 * half, 0.88 * half)
    paint = palette.paint()
    stripe = (roof_end - 0.3, half + 0.008, body.sill)
    parts = [
        solid(shell, paint),
        solid(joined(*panes), palette.glass()),
        solid(joined(*posts), paint),
        box((back + 0.05, -stripe[1], stripe[2] - 0.5), (stripe[0], stripe[1], stripe[2] - 0.2), palette.accent(paint)),
        *wheels(axles, radius, 0.3, half + 0.01, palette.tyre()),
        solid(hubs(axles, radius, half + 0.01), palette.metal()),
        solid(pair((back - 0.02, 0.68 * half, 0.75), (back + 0.06, 0.92 * half, 1.2)), palette.lamp_back()),
        solid(joined(*dark), palette.trim()),
        solid(pair((front - 0.3, lamps[0], 0.72), (front + 0.025, lamps[1], 0.92)), palette.lamp_front()),
    ]
    if body.unit:
        x, paint_of_unit = back + rng.uniform(0.3, 0.6) * length, palette.accent(paint)
        parts.append(box((x - 1.2, -0.6 * half, height - 0.02), (x + 1.2, 0.6 * half, height + 0.22), paint_of_unit))
    return parts
