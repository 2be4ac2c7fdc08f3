"""Construction machines; see ``objects`` for what such a function returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bevdistill_ros.geometry import rotation_z
from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Material, Palette
from bevdistill_ros.training.world.shapes import (
    Part,
    both_sides,
    box,
    cuboid,
    cylinder,
    extruded,
    frustum,
    hull,
    joined,
    loft,
    moved,
    scaled,
    solid,
    tube,
)
from bevdistill_ros.training.world.vehicle_pieces import back_lamps, hubs, pair, truck_cab, wheels


def _tracks(length: float, height: float, half: float, width: float, material: Material) -> Part:
    """A pair of crawler tracks, bevelled at both ends."""
    end, bevel = length / 2, 0.3 * height
    profile = [(-end + 2 * bevel, 0), (end - 2 * bevel, 0), (end - 0.3 * bevel, 0.35 * height), (end, 0.6 * height)]
    profile += [
        (end - bevel, height),
        (-end + bevel, height),
        (-end, 0.6 * height),
        (-end + 0.3 * bevel, 0.35 * height),
    ]
    return solid(both_sides(extruded(profile, half - width, half)), material)


def _driver_cab(low: Sequence[float], high: Sequence[float], paint: Material, palette: Palette) -> list[Part]:
    """A tall cab of glass under a roof, with corner posts; its front leans back."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    middle, half = (y0 + y1) / 2, (y1 - y0) / 2
    lean = 0.22 * (x1 - x0)
    pane = loft(
        [
            [
                (x0 + 0.03, y0 + 0.03, z),
                (front - 0.03, y0 + 0.03, z),
                (front - 0.03, y1 - 0.03, z),
                (x0 + 0.03, y1 - 0.03, z),
            ]
            for front, z in ((x1, z0 + 0.3 * (z1 - z0)), (x1 - lean, z1 - 0.05))
        ]
    )
    foot = cuboid((x0, y0, z0), (x1, y1, z0 + 0.32 * (z1 - z0)))
    roof = cuboid((x0 - 0.03, middle - half - 0.02, z1 - 0.1), (x1 - lean + 0.08, middle + half + 0.02, z1))
    posts = [
        tube([(below, y, z0 + 0.3 * (z1 - z0)), (above, y, z1 - 0.05)], 0.06, sides=4)
        for below, above in ((x0 + 0.04, x0 + 0.04), (x1 - 0.04, x1 - lean - 0.02))
        for y in (y0 + 0.03, y1 - 0.03)
    ]
    return [solid(pane, palette.glass()), solid(joined(foot, roof, *posts), paint)]


def excavator(rng: np.random.Generator, palette: Palette) -> list[Part]:
    scale = spread(rng, 0.92, 0.12)
    paint, trim = palette.paint(), palette.trim()
    accent = palette.accent(paint)
    slew = rng.uniform(-0.5, 0.5)
    lift, fold, curl = rng.uniform(0.35, 1.0), rng.uniform(-2.4, -1.4), rng.uniform(-0.9, 0.1)
    boom, stick = 3.4, 2.0
    foot = np.array([0.75, 0.0, 1.55])

    def reach(start: np.ndarray, length: float, angle: float) -> np.ndarray:
        return start + length * np.array([np.cos(angle), 0.0, np.sin(angle)])

    knee = reach(foot, 0.55 * boom, lift + 0.35)
    elbow = reach(knee, 0.5 * boom, lift - 0.4)
    wrist = reach(elbow, stick, max(lift - 0.4 + fold, -1.75))
    if wrist[2] < 0.6:
        wrist = wrist * [1, 1, 0] + [0, 0, 0.6]
    bucket_angle = -1.6 + curl
    tip = reach(wrist, 0.85, bucket_angle)
    tip[2] = max(tip[2], 0.02)
    outwards = np.array([-np.sin(bucket_angle), 0.0, np.cos(bucket_angle)]) * 0.55
    bucket = loft(
        [
            np.array([wrist + outwards * 0.3, tip, (wrist + tip) / 2 - outwards * 0.7, wrist - outwards * 0.5])
            + [0, y, 0]
            for y in (-0.5, 0.5)
        ]
    )
    house = [
        solid(
            hull(
                [(-1.75, 1.05, 1.0, 1.75), (-1.55, 1.2, 0.95, 1.95), (-0.7, 1.25, 0.95, 2.0), (0.95, 1.2, 0.95, 1.45)]
            ),
            paint,
        ),
        solid(frustum((-1.95, -1.3, 1.15, 0.98), (-1.85, -1.3, 1.1, 1.8)), accent),
        *_driver_cab((-0.35, 0.4, 1.1), (1.15, 1.25, 2.85), paint, palette),
        solid(tube([foot, knee, elbow], [0.2, 0.27, 0.17], sides=4), accent),
        solid(
            tube(
                [reach(elbow, -0.35, float(np.arctan2(*(wrist - elbow)[[2, 0]]))), elbow, wrist],
                [0.12, 0.2, 0.13],
                sides=4,
            ),
            accent,
        ),
        solid(bucket, trim),
        solid(
            joined(
                both_sides(tube([foot + [0.25, 0.32, -0.2], knee + [0, 0.26, -0.1]], 0.07, sides=4)),
                tube([knee + [-0.1, 0, 0.3], elbow + [-0.2, 0, 0.35]], 0.08, sides=4),
            ),
            palette.metal(),
        ),
    ]
    carriage = [
        _tracks(3.7, 0.85, 1.4, 0.55, palette.tyre()),
        box((-0.9, -0.95, 0.35), (0.9, 0.95, 0.98), trim),
        box((1.5, -1.0, 0.35), (1.62, 1.0, 0.7), trim),
    ]
    return scaled(carriage + moved(house, rotation_z(slew), (0, 0, 0)), scale)


def wheel_loader(rng: np.random.Generator, palette: Palette) -> list[Part]:
    scale = spread(rng, 0.92, 0.1)
    paint, trim = palette.paint(), palette.trim()
    accent = palette.accent(paint)
    raised, tilt = rng.uniform(0.0, 1.0), rng.uniform(-0.3, 0.6)
    pivot = np.array([1.0, 0.0, 1.75])
    angle = -0.62 + 0.9 * raised
    hinge = pivot + 2.1 * np.array([np.cos(angle), 0, np.sin(angle)])
    c, s = np.cos(tilt), np.sin(tilt)
    outline = np.array([(0.0, 0.35), (-0.05, -0.3), (1.05, -0.38), (0.6, 0.45)]) @ np.array([[c, s], [-s, c]])
    outline += hinge[[0, 2]]
    outline[:, 1] += max(0.03 - outline[:, 1].min(), 0.0)
    shovel = extruded([tuple(p) for p in outline], -1.35, 1.35)
    arms = joined(
        both_sides(
            tube(
                [pivot + [0, 0.45, 0], (pivot + hinge) / 2 + [0, 0.45, 0.12], hinge + [0.1, 0.45, 0]],
                [0.15, 0.17, 0.12],
                sides=4,
            )
        ),
        tube([pivot + [0, 0, 0.1], hinge + [0.1, 0, 0.3]], 0.09, sides=4),
    )
    radius, axles = 0.75, (-1.6, 1.35)
    return scaled(
        [
            solid(
                hull([(-3.0, 0.9, 0.85, 1.75), (-2.8, 1.0, 0.7, 2.0), (-1.2, 1.05, 0.7, 2.1), (-0.1, 0.95, 0.7, 1.7)]),
                paint,
            ),
            solid(hull([(0.0, 0.35, 0.7, 1.4), (0.6, 0.6, 0.6, 2.0), (1.9, 0.6, 0.6, 1.5)]), trim),
            *_driver_cab((-1.1, -0.75, 1.6), (0.35, 0.75, 3.25), paint, palette),
            solid(arms, accent),
            solid(shovel, palette.metal()),
            *wheels(axles, radius, 0.6, 1.25, palette.tyre()),
            solid(hubs(axles, radius, 1.25), accent),
            solid(pair((-3.03, 0.55, 1.1), (-2.9, 0.85, 1.3)), palette.lamp_back()),
            solid(pair((0.3, 0.5, 2.95), (0.42, 0.72, 3.15)), palette.lamp_front()),
            box((-2.3, 0.45, 1.9), (-2.15, 0.6, 2.6), trim),
        ],
        scale,
    )


def roller(rng: np.random.Generator, palette: Palette) -> list[Part]:
    scale = spread(rng, 0.92, 0.1)
    paint, trim = palette.paint(), palette.trim()
    drum, wheel = 0.75, 0.72
    posts = [tube([(x, y, 1.4), (x, y, 2.85)], 0.06, sides=4) for x in (-0.75, 0.55) for y in (-0.8, 0.8)]
    frame = joined(
        cuboid((0.55, -1.2, 0.75), (2.75, -1.08, 1.05)),
        cuboid((0.55, 1.08, 0.75), (2.75, 1.2, 1.05)),
        cuboid((2.6, -1.2, 0.7), (2.78, 1.2, 1.1)),
        cuboid((0.45, -1.2, 0.7), (0.7, 1.2, 1.35)),
    )
    return scaled(
        [
            cylinder((1.75, -1.05, drum), (1.75, 1.05, drum), drum, palette.metal()),
            solid(frame, palette.accent(paint)),
            solid(
                hull(
                    [
                        (-2.75, 0.8, 0.75, 1.35),
                        (-2.5, 0.95, 0.65, 1.75),
                        (-0.9, 0.95, 0.65, 1.85),
                        (-0.75, 0.95, 0.65, 1.3),
                    ]
                ),
                paint,
            ),
            solid(hull([(-0.9, 0.95, 0.7, 1.3), (0.6, 0.9, 0.7, 1.3)]), paint),
            solid(joined(*posts, cuboid((-0.95, -0.95, 2.8), (0.85, 0.95, 2.92))), paint),
            solid(
                joined(
                    cuboid((-0.6, -0.3, 1.3), (-0.1, 0.3, 1.5)),
                    cuboid((-0.7, -0.3, 1.3), (-0.55, 0.3, 2.0)),
                    tube([(0.5, 0, 1.25), (0.2, 0, 1.75)], 0.12, sides=4),
                ),
                trim,
            ),
            *wheels((-1.75,), wheel, 0.5, 1.05, palette.tyre()),
            solid(hubs((-1.75,), wheel, 1.05), trim),
            solid(pair((-2.78, 0.5, 1.0), (-2.7, 0.75, 1.15)), palette.lamp_back()),
        ],
        scale,
    )


def bulldozer(rng: np.random.Generator, palette: Palette) -> list[Part]:
    scale = spread(rng, 1.0, 0.1)
    paint, trim = palette.paint(), palette.trim()
    raised = rng.uniform(0.0, 0.5)
    blade = loft(
        [
            [
                (2.45, y, raised + 0.02),
                (2.75, y, raised + 0.02),
                (2.6, y, raised + 0.65),
                (2.75, y, raised + 1.25),
                (2.55, y, raised + 1.25),
            ]
            for y in (-1.6, 1.6)
        ]
    )
    arms = both_sides(tube([(0.3, 1.4, 0.55), (2.5, 1.4, raised + 0.4)], 0.13, sides=4))
    ripper = joined(
        cuboid((-2.6, -0.6, 0.6), (-1.9, 0.6, 0.95)),
        *[cuboid((-2.6, y, 0.05), (-2.4, y + 0.12, 0.7)) for y in (-0.5, 0.4)],
    )
    return scaled(
        [
            _tracks(3.9, 1.1, 1.3, 0.55, palette.tyre()),
            solid(
                hull(
                    [
                        (-1.9, 0.72, 0.55, 1.7),
                        (-0.1, 0.72, 0.45, 1.7),
                        (0.0, 0.6, 0.45, 1.95),
                        (1.95, 0.5, 0.5, 1.8),
                        (2.1, 0.48, 0.55, 1.6),
                    ]
                ),
                paint,
            ),
            *_driver_cab((-1.4, -0.72, 1.6), (0.15, 0.72, 3.05), paint, palette),
            solid(blade, palette.accent(paint)),
            solid(arms, paint),
            solid(ripper, trim),
            cylinder((0.9, 0.25, 1.8), (0.9, 0.25, 2.6), 0.08, trim),
        ],
        scale,
    )


def mobile_crane(rng: np.random.Generator, palette: Palette) -> list[Part]:
    length, half = spread(rng, 9.6, 0.6), 1.25
    front, back = length / 2, -length / 2
    paint = palette.paint()
    accent, trim = palette.accent(paint), palette.trim()
    rise = rng.uniform(0.02, 0.12)
    pivot, boom = np.array([back + 1.6, 0.0, 2.5]), length - 0.7
    tip = pivot + boom * np.array([np.cos(rise), 0, np.sin(rise)])
    axles = [back + 1.3, back + 2.7, front - 3.2, front - 1.8]
    return [
        *truck_cab(front - 1.4, front, 0.95 * half, 0.5, 2.15, 0.3, paint, palette),
        box((back, -half, 0.95), (front - 1.3, half, 1.35), trim),
        solid(hull([(back + 0.1, 0.95, 1.4, 2.3), (back + 0.5, 1.1, 1.35, 2.55), (back + 3.6, 1.1, 1.35, 2.2)]), paint),
        *_driver_cab((back + 2.6, 0.3, 1.4), (back + 4.0, 1.2, 2.95), paint, palette),
        solid(tube([pivot, (pivot + 2 * tip) / 3, tip], [0.42, 0.36, 0.26], sides=4), accent),
        *wheels(axles[1::2], 0.6, 0.45, half, palette.tyre()),
        solid(joined(*[tube([(x, -half, 0.6), (x, half, 0.6)], 0.6, sides=10) for x in axles[::2]]), palette.tyre()),
        back_lamps(back, half, 1.0, palette),
    ]


MACHINES = ((0.32, excavator), (0.28, wheel_loader), (0.14, roller), (0.14, bulldozer), (0.12, mobile_crane))


def construction_vehicle(rng: np.random.Generator, palette: Palette) -> list[Part]:
    return one_of(rng, MACHINES)(rng, palette)
