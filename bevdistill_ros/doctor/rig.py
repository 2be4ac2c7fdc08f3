"""The rig as a whole: what it sees around the robot, and how it compares with the rig the model was trained on."""

from __future__ import annotations

import numpy as np

from bevdistill_ros.doctor.facts import CameraFacts, Facts
from bevdistill_ros.doctor.findings import NOTE, OK, WARNING, Finding
from bevdistill_ros.doctor.mounting import direction
from bevdistill_ros.geometry import invert, transform_points

RADIUS = 10.0  # m
GAP_DEG = 5
"""Narrower gaps between two cameras hide nothing."""


def seen_directions(cameras: tuple[CameraFacts, ...], radius: float = RADIUS) -> np.ndarray:
    """(360,) how many cameras see the ground at ``radius`` metres from the base frame's origin, by whole degrees
    counter-clockwise from forward."""
    angles = np.radians(np.arange(360))
    ground = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(360)], axis=-1)
    count = np.zeros(360, int)
    for camera in cameras:
        if camera.base_T_camera is None or camera.intrinsics is None:
            continue
        pose, lens = camera.base_T_camera @ camera.intrinsics.frame_T_image, camera.intrinsics.camera
        pixels, depth = lens.project(transform_points(invert(pose), ground))
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
    """This rig against the one that the model was trained on, as far as its file tells: names and number."""
    trained, cameras = facts.model.cameras, facts.settings.cameras
    if not trained:
        return []
    untold = "the file holds no poses of the training's rig: only names and number are compared"
    if len(cameras) < len(trained):
        what = f"{len(cameras)} cameras, trained on {len(trained)} ({', '.join(trained)}); {untold}"
        advice = "fewer cameras, fewer and less certain boxes: evaluate --missing-cameras measures how much"
        return [Finding(WARNING, "training_rig", "rig", what, advice)]
    strange = sorted(set(cameras) - {name.lower() for name in trained} - set(trained))
    if strange or len(cameras) > len(trained):
        what = f"cameras {', '.join(cameras)}, trained on {', '.join(trained)}; {untold}"
        advice = (
            "any names do; the more the views differ from the training's, the worse the boxes: fine-tune on own bags"
        )
        return [Finding(NOTE, "training_rig", "rig", what, advice)]
    return [Finding(OK, "training_rig", "rig", f"the training's {len(trained)} cameras by name; {untold}")]


def _side(degrees: int) -> str:
    """A direction, counter-clockwise from forward, in words."""
    return direction((degrees + 180) % 360 - 180)
