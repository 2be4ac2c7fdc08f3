"""The rig as a whole: what it sees around the robot, and how it compares with the rig the model was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bevdistill_ros.doctor.facts import CameraFacts, Facts
from bevdistill_ros.doctor.findings import NOTE, OK, WARNING, Finding
from bevdistill_ros.doctor.intrinsics import view_angle
from bevdistill_ros.doctor.mounting import direction
from bevdistill_ros.geometry import Camera, invert, transform_points
from bevdistill_ros.training_rig import RigCamera, rig_of

RADIUS = 10.0  # m
GAP_DEG = 5
"""Narrower gaps between two cameras hide nothing."""
LEAST_OVERLAP = 0.8
"""Share of the directions that the training's rig saw; below it is a warning."""
MOST_TURN_DEG, MOST_HEIGHT_M, MOST_ZOOM = 15.0, 0.5, 1.3
"""By which a camera may differ from one of the training's without a word: direction, height, ratio of the angles of view."""


def seen_directions(cameras: tuple[CameraFacts, ...], radius: float = RADIUS) -> np.ndarray:
    """(360,) how many cameras see the ground at ``radius`` metres from the base frame's origin, by whole degrees
    counter-clockwise from forward."""
    return _seen(_views(cameras).values(), radius)


def _views(cameras: tuple[CameraFacts, ...]) -> dict[str, RigCamera]:
    """The cameras whose pose and lens are known, by name."""
    return {
        c.name: RigCamera(c.intrinsics.camera, c.base_T_camera @ c.intrinsics.frame_T_image)
        for c in cameras
        if c.base_T_camera is not None and c.intrinsics is not None
    }


def _seen(views: Iterable[RigCamera], radius: float) -> np.ndarray:
    angles = np.radians(np.arange(360))
    ground = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(360)], axis=-1)
    count = np.zeros(360, int)
    for view in views:
        lens: Camera = view.camera
        pixels, depth = lens.project(transform_points(invert(view.base_T_camera), ground))
        with np.errstate(invalid="ignore"):
            inside = (pixels >= -0.5).all(axis=-1) & (pixels <= (lens.width - 0.5, lens.height - 0.5)).all(axis=-1)
        count += inside & (depth > 0)
    return count


def gaps(seen: np.ndarray) -> list[tuple[int, int]]:
    """The ranges of unseen directions in degrees, (first, last) counter-clockwise; they may go through 360."""
    if seen.all():
        return []
    if not seen.any():
        return [(0, 359)]
    starts = [i for i in range(360) if not seen[i] and seen[i - 1]]
    ranges = []
    for start in starts:
        length = next(n for n in range(1, 361) if seen[(start + n) % 360])
        ranges.append((start, start + length - 1))
    return ranges


def check_coverage(facts: Facts) -> list[Finding]:
    """What the cameras see around the robot."""
    if not any(camera.base_T_camera is not None and camera.intrinsics is not None for camera in facts.cameras):
        return []
    seen = seen_directions(facts.cameras)
    blind = [f"{_side(low)} to {_side(high)}" for low, high in gaps(seen > 0) if high - low + 1 >= GAP_DEG]
    what = f"the ground {RADIUS:.0f} m away is seen in {int((seen > 0).sum())} of 360 degrees"
    if not blind:
        return [Finding(OK, "coverage", "rig", f"{what}, by two cameras in {int((seen > 1).sum())}")]
    what += f"; blind from {', from '.join(blind)}, counter-clockwise"
    return [Finding(NOTE, "coverage", "rig", what, "nothing is detected there: is that how the cameras are mounted?")]


def check_training_rig(facts: Facts) -> list[Finding]:
    """This rig against the one that the model was trained on, as far as its file tells: names, number, and views."""
    trained, cameras = facts.model.cameras, facts.settings.cameras
    if not trained:
        return []
    try:
        rig = rig_of(facts.model.training)
    except ValueError as error:
        return [Finding(NOTE, "training_rig", "rig", f"what the file tells of the training's rig is none: {error}")]
    untold = "" if rig else "; the file holds no poses of the training's rig: only names and number are compared"
    views = _compare_views(_views(facts.cameras), rig)
    if len(cameras) < len(trained):
        what = f"{len(cameras)} cameras, trained on {len(trained)} ({', '.join(trained)}){untold}"
        advice = "fewer cameras, fewer and less certain boxes: evaluate --missing-cameras measures how much"
        return [Finding(WARNING, "training_rig", "rig", what, advice), *views]
    strange = sorted(set(cameras) - {name.lower() for name in trained} - set(trained))
    if strange or len(cameras) > len(trained):
        what = f"cameras {', '.join(cameras)}, trained on {', '.join(trained)}{untold}"
        advice = (
            "any names do; the more the views differ from the training's, the worse the boxes: fine-tune on own bags"
        )
        return [Finding(NOTE, "training_rig", "rig", what, advice), *views]
    return [Finding(OK, "training_rig", "rig", f"the training's {len(trained)} cameras by name{untold}"), *views]


def _compare_views(now: dict[str, RigCamera], then: dict[str, RigCamera]) -> list[Finding]:
    """What the two rigs' views have in common on the ground, and each camera against the trained one that looks most alike."""
    if not now or not then:
        return []
    here, there = _seen(now.values(), RADIUS) > 0, _seen(then.values(), RADIUS) > 0
    both, known = int((here & there).sum()), int(there.sum())
    what = f"{both} of the {known} degrees in which the training's rig saw the ground {RADIUS:.0f} m away are seen here"
    if here[~there].any():
        what += f", and {int((here & ~there).sum())} in which it saw nothing"
    strange = [text for name, view in now.items() if (text := _unlike(name, view, then))]
    if both < LEAST_OVERLAP * known:
        advice = (
            "where the training saw and this rig does not, nothing is found: mount the cameras as there, or fine-tune"
        )
        return [Finding(WARNING, "training_views", "rig", "; ".join([what, *strange]), advice)]
    if strange:
        advice = (
            "the network knows other views: measure it on own bags (convert, label, evaluate), or fine-tune on them"
        )
        return [Finding(NOTE, "training_views", "rig", "; ".join([what, *strange]), advice)]
    return [Finding(OK, "training_views", "rig", what)]


def _unlike(name: str, view: RigCamera, then: dict[str, RigCamera]) -> str:
    """In what a camera differs from the trained one whose optical axis is nearest to its own; empty if it does not."""
    axis = view.base_T_camera[:3, 2]
    nearest = max(then, key=lambda other: float(axis @ then[other].base_T_camera[:3, 2]))
    other = then[nearest]
    turn = np.degrees(np.arccos(np.clip(axis @ other.base_T_camera[:3, 2], -1, 1)))
    lower = view.base_T_camera[2, 3] - other.base_T_camera[2, 3]
    angles = view_angle(view.camera), view_angle(other.camera)
    differences = []
    if turn > MOST_TURN_DEG:
        differences.append(f"looks {turn:.0f} degrees away from it")
    if abs(lower) > MOST_HEIGHT_M:
        differences.append(f"is {abs(lower):.1f} m {'higher' if lower > 0 else 'lower'}")
    if max(angles) > MOST_ZOOM * min(angles):
        differences.append(f"sees {angles[0]:.0f} degrees, not {angles[1]:.0f}")
    return f"{name} is nearest to {nearest}, but {', '.join(differences)}" if differences else ""


def _side(degrees: int) -> str:
    """A direction, counter-clockwise from forward, in words."""
    return direction((degrees + 180) % 360 - 180)
