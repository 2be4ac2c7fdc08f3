"""Traffic cones and barriers; see ``objects`` for what such a function returns.

As in nuScenes, a barrier's length, along its heading, is its thin side.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    both_sides,
    box,
    cuboid,
    cylinder,
    extruded,
    frustum,
    joined,
    loft,
    solid,
    tube,
    turned,
)

# ------------------------------------------------------------------ cones


def _disc(low: float, high: float, low_radius: float, high_radius: float, sides: int = 12) -> Mesh:
    """An upright piece of a cone between two z."""
    return turned([(low, 0, low_radius, low_radius), (high, 0, high_radius, high_radius)], sides)


def _cone(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A cone with one band, on a square foot."""
    height = spread(rng, 0.97, 0.15)
    size = 0.5 + 0.5 * height
    foot, low, top = rng.uniform(0.21, 0.23) * size, 0.15 * size, 0.03

    def radius(z: float) -> float:
        return low + (top - low) * (z - 0.04) / (height - 0.04)

    band = height * rng.uniform(0.42, 0.5), height * rng.uniform(0.66, 0.76)
    paint = palette.paint()
    base = frustum((-foot, foot, foot, 0.0), (-foot + 0.02, foot - 0.02, foot - 0.02, 0.045))
    return [
        solid(_disc(0.04, height, low, top), paint),
        solid(_disc(*band, radius(band[0]) + 0.006, radius(band[1]) + 0.006), palette.accent(paint)),
        solid(base, palette.trim() if rng.random() < 0.5 else paint),
    ]


def _delineator(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A slender post with two bands and a knob, on a wide round foot."""
    height, radius, foot = spread(rng, 1.15, 0.1), rng.uniform(0.045, 0.065), rng.uniform(0.19, 0.24)
    wide = radius + 0.008
    bands = [_disc(z * height, z * height + 0.12, wide, wide, sides=8) for z in (0.55, 0.73)]
    knob = turned(
        [
            (0.93 * height, 0, radius, radius),
            (0.97 * height, 0, 1.5 * radius, 1.5 * radius),
            (height, 0, radius, radius),
        ]
    )
    base = turned([(0.0, 0, foot, foot), (0.06, 0, 0.9 * foot, 0.9 * foot), (0.14, 0, 0.35 * foot, 0.35 * foot)])
    paint = palette.paint()
    return [
        cylinder((0, 0, 0.03), (0, 0, 0.95 * height), radius, paint),
        solid(joined(*bands, knob), palette.accent(paint)),
        solid(base, palette.trim()),
    ]


def _drum(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A barrel of four stepped rings with a handle."""
    height, radius = spread(rng, 1.02, 0.05), rng.uniform(0.24, 0.28)
    levels = np.linspace(0.08, height, 5)
    rings = [
        _disc(low, high, share * radius + 0.015, share * radius)
        for (low, high), share in zip(pairwise(levels), (0.94, 0.84, 0.74, 0.64))
    ]
    handle = cuboid((-0.02, -0.09, height - 0.02), (0.02, 0.09, height + 0.09))
    paint = palette.paint()
    return [
        solid(joined(*rings[0::2]), paint),
        solid(joined(*rings[1::2], handle), palette.accent(paint)),
        solid(_disc(0.0, 0.08, 1.12 * radius, 1.05 * radius), palette.trim()),
    ]


CONES = ((0.66, _cone), (0.2, _delineator), (0.14, _drum))


def traffic_cone(rng: np.random.Generator, palette: Palette) -> list[Part]:
    return one_of(rng, CONES)(rng, palette)


# ------------------------------------------------------------------ barriers


def _half_width(rng: np.random.Generator, mean: float) -> float:
    return spread(rng, mean, 0.12) * rng.uniform(0.85, 1.1)


def _planks(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """Two planks in alternating fields, on a pair of trestles."""
    half, height, foot = _half_width(rng, 1.15), spread(rng, 1.02, 0.06), rng.uniform(0.22, 0.32)
    legs = [
        tube([(side * foot, y, 0.0), (0.0, y, 0.97 * height)], 0.035, sides=4)
        for y in (-0.75 * half, 0.75 * half)
        for side in (-1, 1)
    ]
    fields = list(pairwise(np.linspace(-half, half, 6)))
    upper, lower = (
        [cuboid((-0.05, left, z - 0.11), (0.05, right, z + 0.11)) for left, right in fields]
        for z in (height - 0.11, 0.5 * height)
    )
    paint = palette.paint()
    return [
        solid(joined(*upper[0::2], *lower[1::2]), paint),
        solid(joined(*upper[1::2], *lower[0::2]), palette.accent(paint)),
        solid(joined(*legs), palette.metal()),
    ]


def _concrete(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A wall whose foot is wider, with a stripe near its top."""
    half, height, foot = _half_width(rng, 1.5), spread(rng, 0.92, 0.05), spread(rng, 0.3, 0.02)
    neck, top = 0.5 * foot, 0.28 * foot
    lower = [(-foot, 0), (foot, 0), (foot, 0.08), (neck, 0.35), (-neck, 0.35), (-foot, 0.08)]
    upper = [(-neck, 0.35), (neck, 0.35), (top, height), (-top, height)]
    stripe = cuboid((-0.36 * foot, -0.97 * half, height - 0.2), (0.36 * foot, 0.97 * half, height - 0.08))
    paint = palette.paint()
    return [
        solid(joined(extruded(lower, -half, half), extruded(upper, -half, half)), paint),
        solid(stripe, palette.accent(paint)),
    ]


def _water_filled(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """Two plastic blocks side by side, on feet."""
    half, height, foot = _half_width(rng, 1.05), spread(rng, 0.95, 0.08), spread(rng, 0.25, 0.02)
    outline = ((foot, 0.0, 0.07), (0.95 * foot, 0.0, 0.35), (0.5 * foot, 0.04, 0.5), (0.42 * foot, 0.06, height))

    def block(right: float, left: float) -> Mesh:
        return loft(
            [[(-x, right + s, z), (x, right + s, z), (x, left - s, z), (-x, left - s, z)] for x, s, z in outline]
        )

    feet = [cuboid((-foot - 0.02, y - 0.2, 0.0), (foot + 0.02, y + 0.2, 0.1)) for y in (-0.6 * half, 0.6 * half)]
    paint = palette.paint()
    return [
        solid(block(-half, -0.02), paint),
        solid(block(0.02, half), palette.accent(paint)),
        solid(joined(*feet, _disc(height - 0.02, height + 0.05, 0.06, 0.05, sides=6)), palette.trim()),
    ]


def _guard_rail(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A rail with two ridges on one side of its posts, on a foot plate."""
    half, height = _half_width(rng, 1.6), spread(rng, 0.85, 0.05)
    ridges = [
        extruded([(0.06, z), (0.15, z + 0.07), (0.06, z + 0.15)], -half, half) for z in (height - 0.33, height - 0.15)
    ]
    web = cuboid((0.03, -half, height - 0.33), (0.07, half, height))
    posts = [
        cuboid((-0.08, y - 0.06, 0.0), (0.05, y + 0.06, height - 0.05)) for y in np.linspace(-0.8 * half, 0.8 * half, 3)
    ]
    paint = palette.paint()
    return [
        solid(joined(*ridges, web), paint),
        solid(joined(*posts), palette.accent(paint)),
        box((-0.16, -half, 0.0), (0.16, half, 0.04), palette.trim()),
    ]


def _fence(rng: np.random.Generator, palette: Palette) -> list[Part]:
    """A crowd fence of bars on two flat feet, with a sign."""
    half, height = _half_width(rng, 1.15), spread(rng, 1.1, 0.05)
    frame = joined(
        both_sides(tube([(0, half - 0.03, 0.05), (0, half - 0.03, height)], 0.035, sides=4)),
        cuboid((-0.03, -half, height - 0.05), (0.03, half, height)),
        cuboid((-0.03, -half, 0.2), (0.03, half, 0.25)),
    )
    bars = [cuboid((-0.014, y - 0.014, 0.2), (0.014, y + 0.014, height)) for y in np.linspace(-half, half, 10)[1:-1]]
    feet = both_sides(cuboid((-0.28, 0.8 * half - 0.03, 0.0), (0.28, 0.8 * half + 0.03, 0.05)))
    paint = palette.paint()
    return [
        solid(frame, paint),
        solid(joined(*bars), paint),
        solid(feet, palette.metal()),
        box((-0.02, -0.35 * half, 0.55), (0.02, 0.35 * half, height - 0.1), palette.accent(paint)),
    ]


BARRIERS = ((0.27, _planks), (0.25, _concrete), (0.2, _water_filled), (0.13, _guard_rail), (0.15, _fence))


def barrier(rng: np.random.Generator, palette: Palette) -> list[Part]:
    return one_of(rng, BARRIERS)(rng, palette)
