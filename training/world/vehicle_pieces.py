"""Pieces that vehicles share. x forward, y left, wheels on the ground at z = 0; see ``shapes``."""

from __future__ import annotations

from collections.abc import Sequence

from bevdistill_ros.training.world.palette import Material, Palette
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    both_sides,
    cuboid,
    cylinder,
    hull,
    joined,
    loft,
    panel,
    solid,
    tube,
)

CAR_MIRROR = 0.09
TRUCK_MIRROR = 0.2
"""Metres by which a mirror stands out of the body, on each side."""


def wheels(xs: Sequence[float], radius: float, width: float, half: float, tyre: Material) -> list[Part]:
    """A pair of wheels at every x, their outer faces at y = +-half."""
    return [
        cylinder((x, side * (half - width), radius), (x, side * half, radius), radius, tyre)
        for x in xs
        for side in (-1, 1)
    ]


def hubs(xs: Sequence[float], radius: float, half: float) -> Mesh:
    """Wheel discs, as six-sided axles that end just outside of wheels whose outer faces are at y = +-half."""
    end = half + 0.006
    return joined(*[tube([(x, -end, radius), (x, end, radius)], 0.55 * radius) for x in xs])


def pair(low: Sequence[float], high: Sequence[float]) -> Mesh:
    """A small box on the left and its mirror image: lamps, mirrors."""
    return both_sides(cuboid(low, high))


def back_lamps(back: float, half: float, low: float, palette: Palette) -> Part:
    return solid(pair((back - 0.02, 0.6 * half, low), (back + 0.06, 0.92 * half, low + 0.2)), palette.lamp_back())


def back_doors(back: float, half: float, low: float, high: float) -> Mesh:
    """Bars and frame of the back doors of a box, so that its back differs from its front."""
    bars = [
        cuboid((back - 0.03, y - 0.03, low), (back + 0.02, y + 0.03, high)) for y in (-0.55 * half, 0.0, 0.55 * half)
    ]
    return joined(*bars, cuboid((back - 0.02, -0.97 * half, low - 0.02), (back + 0.02, 0.97 * half, low + 0.1)))


def windscreen(low: tuple[float, float, float], high: tuple[float, float, float], thickness: float) -> Mesh:
    """A pane across the front between two edges, each (x, half width, z)."""
    (x0, w0, z0), (x1, w1, z1) = low, high
    return panel([(x0, -w0, z0), (x0, w0, z0), (x1, w1, z1), (x1, -w1, z1)], thickness)


def truck_cab(
    back: float, front: float, half: float, low: float, height: float, slant: float, paint: Material, palette: Palette
) -> list[Part]:
    """A cab over the engine between two x: body, windows, mirrors, grille, front lamps.

    Args:
        low: z of the lower edge.
        height: z of the roof.
        slant: metres by which the windscreen's upper edge lies behind the front.
    """
    belt, rake = low + 0.5 * (height - low), 0.06
    shell = hull(
        [
            (back, half, low, height - 0.05),
            (front - slant - 0.25, half, low, height),
            (front - slant, 0.98 * half, low, height - 0.05),
            (front - rake, 0.96 * half, low, belt),
            (front, 0.94 * half, low + 0.1, belt - 0.12),
        ],
        top=0.93,
    )
    ahead = 0.015  # of the body, so that it is seen
    screen = windscreen(
        (front - rake + ahead, 0.82 * half, belt + 0.04), (front - slant + ahead, 0.78 * half, height - 0.16), 0.05
    )
    sides = loft(
        [
            [
                (back + 0.25, y, belt),
                (front - rake - 0.25, y, belt),
                (front - slant - 0.15, 0.97 * y, height - 0.2),
                (back + 0.25, 0.97 * y, height - 0.2),
            ]
            for y in (-half - 0.01, half + 0.01)
        ]
    )
    mirrors = pair((front - slant - 0.05, half, belt), (front - slant + 0.08, half + TRUCK_MIRROR, belt + 0.45))
    grille = cuboid((front - 0.3, -0.6 * half, low + 0.25), (front + 0.012, 0.6 * half, belt - 0.15))
    bumper = cuboid((front - 0.3, -0.95 * half, low - 0.1), (front + 0.03, 0.95 * half, low + 0.16))
    lamps = pair((front - 0.2, 0.62 * half, low + 0.2), (front + 0.02, 0.9 * half, low + 0.38))
    return [
        solid(shell, paint),
        solid(joined(screen, sides), palette.glass()),
        solid(joined(mirrors, grille, bumper), palette.trim()),
        solid(lamps, palette.lamp_front()),
    ]
