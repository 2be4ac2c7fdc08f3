"""Cars and pick-ups; see ``objects`` for what such a function returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    both_sides,
    box,
    cuboid,
    frustum,
    hull,
    joined,
    loft,
    solid,
    tube,
)
from bevdistill_ros.training.world.vehicle_pieces import CAR_MIRROR, hubs, pair, wheels


@dataclass(frozen=True)
class CarBody:
    """A kind of car. Positions along x are shares of the length from the back, heights shares of the height, all else metres.

    Attributes:
        length, width, height: mean and deviation.
        belt: height of the windows' lower edge.
        nose: height of the bonnet's front edge.
        tail: height of the boot's rear edge.
        cowl, roof_front: where the windscreen begins and ends.
        roof_back, window_back: where the rear window begins and ends.
        pillar: half thickness of the rearmost pillar.
        lean: half width of the roof as a share of the body's.
        clearance: z of the lower edge.
        wheel: radius.
        tall_lamps: whether the back lamps stand upright.
    """

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    belt: float
    nose: float
    tail: float
    cowl: float
    roof_front: float
    roof_back: float
    window_back: float
    pillar: float
    lean: float
    clearance: float
    wheel: float
    tall_lamps: bool


SEDAN = CarBody(
    length=(4.7, 0.25), width=(1.92, 0.06), height=(1.5, 0.05), belt=0.63, nose=0.50, tail=0.62, cowl=0.70, roof_front=0.54,
    roof_back=0.27, window_back=0.12, pillar=0.08, lean=0.76, clearance=0.2, wheel=0.32, tall_lamps=False,
)  # fmt: skip
HATCHBACK = CarBody(
    length=(4.1, 0.25), width=(1.88, 0.06), height=(1.56, 0.06), belt=0.60, nose=0.50, tail=0.58, cowl=0.74, roof_front=0.55,
    roof_back=0.11, window_back=0.03, pillar=0.13, lean=0.8, clearance=0.2, wheel=0.31, tall_lamps=True,
)  # fmt: skip
SUV = CarBody(
    length=(4.65, 0.28), width=(2.03, 0.07), height=(1.82, 0.1), belt=0.60, nose=0.53, tail=0.60, cowl=0.70, roof_front=0.58,
    roof_back=0.08, window_back=0.03, pillar=0.13, lean=0.8, clearance=0.28, wheel=0.38, tall_lamps=True,
)  # fmt: skip
VAN = CarBody(
    length=(5.0, 0.3), width=(2.05, 0.07), height=(2.02, 0.14), belt=0.55, nose=0.42, tail=0.55, cowl=0.86, roof_front=0.70,
    roof_back=0.03, window_back=0.01, pillar=0.13, lean=0.8, clearance=0.24, wheel=0.35, tall_lamps=True,
)  # fmt: skip
CARS = ((0.35, SEDAN), (0.2, HATCHBACK), (0.32, SUV), (0.13, VAN))


def car(rng: np.random.Generator, palette: Palette) -> list[Part]:
    body = one_of(rng, CARS)
    length, width, height = spread(rng, *body.length), spread(rng, *body.width), spread(rng, *body.height)
    half, low = width / 2 - CAR_MIRROR, body.clearance
    belt, nose, tail = np.array([body.belt, body.nose, body.tail]) * height + rng.uniform(-0.03, 0.03, 3)
    cowl, roof_front = body.cowl + rng.uniform(-0.02, 0.02), body.roof_front + rng.uniform(-0.02, 0.02)

    def at(share: float) -> float:
        return (share - 0.5) * length

    shell = hull(
        [
            (at(0.0), 0.88 * half, low + 0.12, tail - 0.12),
            (at(0.02), 0.94 * half, low + 0.03, tail),
            (at(min(body.window_back + 0.06, 0.2)), half, low, belt + 0.01),
            (at(cowl - 0.02), half, low, belt + 0.01),
            (at(0.95), 0.96 * half, low, nose + 0.03),
            (at(0.99), 0.88 * half, low + 0.04, nose - 0.04),
            (at(1.0), 0.82 * half, low + 0.08, nose - 0.16),
        ]
    )
    windows = frustum(
        (at(body.window_back), at(cowl), 0.9 * half, belt),
        (at(body.roof_back), at(roof_front), body.lean * half, height - 0.06),
    )
    radius, axles = body.wheel * spread(rng, 1.0, 0.05), [at(0.19), at(0.815)]
    if body.tall_lamps:
        back = pair((at(-0.004), 0.7 * half, tail - 0.27), (at(0.03), 0.92 * half, tail + 0.03))
    else:
        back = pair((at(-0.004), 0.55 * half, tail - 0.24), (at(0.03), 0.92 * half, tail - 0.09))
    front = pair((at(0.955), 0.5 * half, nose - 0.19), (at(1.0) + 0.01, 0.86 * half, nose - 0.05))
    paint, trim = palette.paint(), palette.trim()
    return [
        solid(shell, paint),
        solid(windows, palette.glass()),
        solid(_roof(body, at, cowl, roof_front, half, belt, height), palette.accent(paint)),
        *wheels(axles, radius, 0.22, half + 0.01, palette.tyre()),
        solid(hubs(axles, radius, half + 0.01), palette.metal()),
        solid(front, palette.lamp_front()),
        solid(back, palette.lamp_back()),
        box((at(0.9), -0.45 * half, low + 0.1), (at(1.0) + 0.012, 0.45 * half, nose - 0.14), trim),
        solid(_bumpers(at, half, low), trim),
        solid(pair((at(cowl - 0.07), 0.9 * half, belt), (at(cowl - 0.03), width / 2, belt + 0.15)), paint),
        box((at(0.0) - 0.015, -0.26, low + 0.32), (at(0.05), 0.26, low + 0.44), palette.plate()),
    ]


def _bumpers(at: Callable[[float], float], half: float, low: float) -> Mesh:
    """Dark lower edges in front and behind, and sills between the wheels."""
    back = cuboid((at(0.0) - 0.012, -0.8 * half, low + 0.02), (at(0.06), 0.8 * half, low + 0.2))
    front = cuboid((at(0.95), -0.75 * half, low), (at(1.0) + 0.006, 0.75 * half, low + 0.09))
    sills = cuboid((at(0.28), -half, low - 0.03), (at(0.72), half, low + 0.1))
    return joined(back, front, sills)


def _roof(
    body: CarBody,
    at: Callable[[float], float],
    cowl: float,
    roof_front: float,
    half: float,
    belt: float,
    height: float,
) -> Mesh:
    """The roof and the three pillars of each side, a little outside of the windows."""
    back, front = at(body.roof_back), at(roof_front)
    plate = frustum(
        (back - 0.04, front + 0.04, (body.lean + 0.03) * half, height - 0.08),
        (back + 0.06, front - 0.12, (body.lean - 0.1) * half, height),
    )
    middle_above, middle_below = 0.55 * front + 0.45 * back, 0.5 * at(cowl) + 0.5 * at(body.window_back)
    inwards = body.pillar - 0.03
    bars = []
    for above, below, thick in (
        (front, at(cowl), 0.05),
        (middle_above, middle_below, 0.05),
        (back + inwards, at(body.window_back) + inwards, body.pillar),
    ):
        ends = ((below, 0.9 * half, belt), (above, body.lean * half, height - 0.07))
        bars.append(
            loft(
                [
                    [
                        (x - thick, y - 0.06, z),
                        (x + thick, y - 0.06, z),
                        (x + thick, y + 0.012, z),
                        (x - thick, y + 0.012, z),
                    ]
                    for x, y, z in ends
                ]
            )
        )
    return joined(plate, *(both_sides(bar) for bar in bars))


def pickup(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A car in front, an open bed behind."""
    length, width, height = spread(rng, 5.5, 0.25), spread(rng, 2.05, 0.06), spread(rng, 1.88, 0.07)
    half, low, belt, nose = width / 2 - CAR_MIRROR, 0.38, 0.61 * height, 0.57 * height
    cowl, roof_front = 0.71 + rng.uniform(-0.02, 0.02), 0.61 + rng.uniform(-0.02, 0.02)
    roof_back = 0.38 if rng.random() < 0.6 else 0.48  # two rows of seats or one

    def at(share: float) -> float:
        return (share - 0.5) * length

    bed = at(roof_back - 0.04)
    shell = hull(
        [
            (bed, half, low, belt),
            (at(cowl), half, low, belt),
            (at(0.95), 0.97 * half, low, nose + 0.03),
            (at(0.99), 0.92 * half, low + 0.05, nose - 0.03),
            (at(1.0), 0.88 * half, low + 0.1, nose - 0.14),
        ]
    )
    walls = joined(
        both_sides(cuboid((at(0.0), 0.88 * half, low + 0.1), (bed + 0.02, 0.98 * half, belt - 0.04))),
        cuboid((at(0.0), -0.9 * half, low + 0.15), (at(0.012), 0.9 * half, belt - 0.05)),
    )
    floor = box((at(0.01), -0.9 * half, low + 0.1), (bed, 0.9 * half, low + 0.38), palette.trim())
    windows = frustum(
        (at(roof_back - 0.02), at(cowl), 0.9 * half, belt), (at(roof_back), at(roof_front), 0.8 * half, height - 0.06)
    )
    plate = frustum(
        (at(roof_back) - 0.05, at(roof_front) + 0.04, 0.83 * half, height - 0.08),
        (at(roof_back) + 0.04, at(roof_front) - 0.1, 0.7 * half, height),
    )
    bars = [
        tube([(at(below), 0.87 * half, belt), (at(above), 0.78 * half, height - 0.07)], 0.08, sides=4)
        for below, above in ((cowl, roof_front), (roof_back, roof_back))
    ]
    radius, axles = spread(rng, 0.4, 0.02), [at(0.2), at(0.82)]
    grille = cuboid((at(0.9), -0.5 * half, low + 0.14), (at(1.0) + 0.012, 0.5 * half, nose - 0.12))
    bumper = cuboid((at(0.0) - 0.06, -0.9 * half, low), (at(0.02), 0.9 * half, low + 0.16))
    front = pair((at(0.96), 0.55 * half, nose - 0.2), (at(1.0) + 0.01, 0.9 * half, nose - 0.05))
    back = pair((at(0.0) - 0.02, 0.86 * half, belt - 0.42), (at(0.02), 0.98 * half + 0.005, belt - 0.08))
    paint = palette.paint()
    return [
        solid(shell, paint),
        solid(walls, paint),
        floor,
        solid(windows, palette.glass()),
        solid(joined(plate, *(both_sides(bar) for bar in bars)), palette.accent(paint)),
        *wheels(axles, radius, 0.25, half + 0.01, palette.tyre()),
        solid(hubs(axles, radius, half + 0.01), palette.metal()),
        solid(front, palette.lamp_front()),
        solid(back, palette.lamp_back()),
        solid(joined(grille, bumper), palette.trim()),
        solid(pair((at(cowl - 0.06), 0.9 * half, belt), (at(cowl - 0.025), width / 2, belt + 0.17)), paint),
    ]
