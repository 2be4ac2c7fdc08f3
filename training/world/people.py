"""Pedestrians, and riders for cycles; see ``objects`` for what such a function returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bevdistill_ros.training.world.draws import one_of, spread
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.shapes import (
    Mesh,
    Part,
    cuboid,
    ellipsoid,
    frustum,
    joined,
    panel,
    solid,
    tube,
    turned,
)

# ------------------------------------------------------------------ pedestrians


def _swing(length: float, angle: float) -> np.ndarray:
    """A limb that hangs down from its joint and is swung forward by an angle."""
    return length * np.array([np.sin(angle), 0.0, -np.cos(angle)])


def _head(center: np.ndarray, size: float, cap: bool, palette: Palette) -> list[Part]:
    """Face, hair behind it and perhaps a peaked cap; ``size`` is half the head's height."""
    covered = center + [-0.2 * size, 0, 0.18 * size]
    parts = [
        ellipsoid(center, (0.82 * size, 0.64 * size, size), palette.skin()),
        ellipsoid(covered, (0.78 * size, 0.74 * size, 0.88 * size), palette.cloth() if cap else palette.hair()),
    ]
    if cap:
        x, z = center[0], center[2]
        peak = panel(
            [
                (x + far * size, y * size, z + up * size)
                for far, y, up in ((0, 0.6, 0.6), (0, -0.6, 0.6), (1.5, -0.45, 0.4), (1.5, 0.45, 0.4))
            ],
            0.1 * size,
        )
        parts.append(solid(peak, palette.cloth()))
    return parts


def _pedestrian(rng: np.random.Generator, palette: Palette, height: float, head: float, build: float) -> list[Part]:
    """A person on foot.

    Args:
        head: height of the head as a share of the height.
        build: width relative to an average adult of the same height.
    """
    walking = rng.random() < 0.7
    stride = rng.uniform(0.2, 0.5) if walking else rng.uniform(0.0, 0.08)
    lean = rng.uniform(0.0, 0.1) if walking else rng.uniform(-0.03, 0.03)
    first = 1 if rng.random() < 0.5 else -1
    hem = one_of(rng, ((0.6, None), (0.22, 0.3), (0.18, 0.34)))  # of a coat or skirt, as a share of the height
    arms_out, bent = rng.uniform(0.1, 0.25), rng.uniform(0.15, 0.6)
    backpack, handbag = one_of(rng, ((0.5, (False, False)), (0.22, (True, False)), (0.28, (False, True))))
    cap = rng.random() < 0.3
    bare_arms = rng.random() < 0.25

    hip_z, shoulder_z = 0.52 * height, 0.97 * (1 - head) * height
    b = build * height
    legs, shoes, arms, hands = [], [], [], []
    for side in (-1, 1):
        ahead = side == first
        swing = stride if ahead else -0.8 * stride
        shin = swing - (0.15 if ahead else 0.9) * stride
        hip = np.array([0.0, side * 0.052 * b, hip_z])
        knee = hip + _swing(0.245 * height, swing)
        ankle = knee + _swing(0.23 * height, shin)
        legs.append(tube([hip, knee, ankle], [0.058 * b, 0.045 * b, 0.033 * b]))
        toe = _swing(1.0, shin + np.pi / 2 - 0.1)
        down = np.array([0.0, 0.0, 0.012 * height])
        shoes.append(
            tube([ankle - 0.04 * b * toe - down, ankle + 0.11 * height * toe - 1.8 * down], [0.04 * b, 0.028 * b])
        )

        joint = np.array([np.sin(lean) * (shoulder_z - hip_z), side * 0.112 * b, shoulder_z - 0.03 * height])
        angle = -0.9 * swing + lean
        elbow = joint + _swing(0.165 * height, angle) + [0, side * arms_out * 0.15 * height, 0]
        wrist = elbow + _swing(0.145 * height, angle + bent)
        palm = wrist + _swing(0.055 * height, angle + bent)
        top = joint + [0.0, -0.006 * side * b, 0.03 * b]
        arms.append(tube([top, joint, elbow, wrist], [0.02 * b, 0.042 * b, 0.034 * b, 0.026 * b]))
        hands.append(tube([wrist, palm], [0.022 * b, 0.03 * b]))

    sway = np.sin(lean)
    outline = [
        (hip_z - 0.03 * height, 0.064, 0.094),
        (hip_z + 0.04 * height, 0.066, 0.096),
        (0.5 * (hip_z + shoulder_z), 0.062, 0.09),
        (shoulder_z - 0.08 * height, 0.074, 0.112),
        (shoulder_z - 0.015 * height, 0.055, 0.104),
        (shoulder_z + 0.03 * height, 0.03, 0.036),
    ]
    if hem is not None:
        outline[0] = (hem * height, max(0.07, 0.055 + 0.14 * stride), 0.105)
    torso = turned([(z, sway * (z - hip_z), depth * b, half * b) for z, depth, half in outline])
    size = head * height / 2
    center = np.array([sway * (height - hip_z) + 0.01 * height, 0.0, height - size])
    cloth = palette.cloth()
    parts = [
        solid(torso, cloth),
        solid(joined(*legs), palette.cloth()),
        solid(joined(*shoes), palette.trim()),
        solid(joined(*arms), palette.skin() if bare_arms else palette.accent(cloth)),
        solid(joined(*hands), palette.skin()),
        *_head(center, size, cap, palette),
    ]
    if backpack:
        z, x = shoulder_z - 0.03 * height, sway * (shoulder_z - hip_z) - 0.05 * b
        back = frustum((x - 0.13 * b, x, 0.085 * b, z - 0.25 * height), (x - 0.08 * b, x, 0.065 * b, z))
        parts.append(solid(back, palette.cloth()))
    elif handbag:
        (x, y, z), reach = palm, 0.1 * height
        low, high = (x - reach, y - 0.035 * height, z - 0.17 * height), (x + reach, y + 0.035 * height, z)
        parts.append(solid(cuboid(low, high), palette.cloth()))
    return parts


def adult(rng: np.random.Generator, palette: Palette) -> list[Part]:
    return _pedestrian(rng, palette, spread(rng, 1.76, 0.09), 0.135, spread(rng, 1.12, 0.1))


def child(rng: np.random.Generator, palette: Palette) -> list[Part]:
    height = rng.uniform(0.95, 1.5)
    return _pedestrian(rng, palette, height, 0.21 - 0.06 * (height - 0.95), spread(rng, 1.12, 0.08))


# ------------------------------------------------------------------ riders


def _bent(start: np.ndarray, end: np.ndarray, upper: float, lower: float, towards: Sequence[float]) -> list[np.ndarray]:
    """Joints of a limb of two bones from ``start`` towards ``end``, its elbow or knee on the side of ``towards``.

    Where the bones are too short, they are stretched.
    """
    line = end - start
    distance = float(np.linalg.norm(line))
    stretch = max(1.0, distance / (0.995 * (upper + lower)))
    upper, lower = stretch * upper, stretch * lower
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    line = line / distance
    aside = np.array(towards, float)
    aside -= (aside @ line) * line
    aside /= np.linalg.norm(aside)
    return [start, start + along * line + np.sqrt(max(upper**2 - along**2, 0.0)) * aside, end]


def rider(
    rng: np.random.Generator,
    palette: Palette,
    seat: np.ndarray,
    grip: np.ndarray,
    pedals: tuple[np.ndarray, np.ndarray],
    lean: float,
    helmet: bool,
) -> list[Part]:
    """A person on a saddle.

    Args:
        seat: (3,) where the hip is.
        grip: (3,) the left grip; the right one is its mirror image.
        pedals: (3,), (3,) the left and the right foot.
        lean: of the back, radians forward.
    """
    scale = spread(rng, 1.0, 0.05)
    up = np.array([np.sin(lean), 0.0, np.cos(lean)])
    shoulder = seat + 0.5 * scale * up
    legs, shoes, arms, hands = [], [], [], []
    for side, foot in zip((1, -1), pedals):
        hip = seat + [0.0, side * 0.1, 0.0]
        legs.append(tube(_bent(hip, foot, 0.44, 0.43, (1.0, side * 0.15, 0.3)), [0.1, 0.075, 0.055]))
        shoes.append(tube([foot + [-0.07, 0, -0.02], foot + [0.19, 0, -0.04]], [0.06, 0.045]))
        joint = shoulder + [0.0, side * 0.19, -0.03]
        hand = grip * [1, side, 1]
        bones = _bent(joint, hand, 0.3 * scale, 0.27 * scale, (-0.3, side * 0.6, -1.0))
        arms.append(tube(bones, [0.07, 0.055, 0.042]))
        hands.append(tube([hand - [0.05, 0, 0], hand + [0.05, 0, 0]], 0.045))
    outline = [(-0.08, 0.14, 0.18), (0.2, 0.12, 0.16), (0.4, 0.13, 0.2), (0.5, 0.1, 0.19), (0.56, 0.05, 0.06)]
    upright = turned([(scale * z, 0.0, depth, half) for z, depth, half in outline])
    across = np.array([np.cos(lean), 0.0, -np.sin(lean)])  # x of the upright torso, leaning
    torso = Mesh(seat + upright.vertices @ np.stack([across, [0.0, 1.0, 0.0], up]), upright.faces)
    cloth = palette.cloth()
    center = shoulder + 0.2 * up + [0.03, 0.0, 0.02]
    if helmet:
        head = [
            ellipsoid(center, (0.15, 0.135, 0.155), palette.paint()),
            ellipsoid(center + [0.05, 0.0, 0.0], (0.125, 0.11, 0.06), palette.glass()),
        ]
    else:
        head = _head(center, 0.12, rng.random() < 0.5, palette)
    return [
        solid(torso, cloth),
        solid(joined(*legs), palette.cloth()),
        solid(joined(*arms), palette.accent(cloth)),
        solid(joined(*shoes, *hands), palette.trim()),
        *head,
    ]
