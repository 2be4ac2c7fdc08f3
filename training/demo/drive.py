"""The drive of the demo: made once, as a dataset and as a bag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.world import generate
from bevdistill_ros.training.world.rendering import choose_backend

SPLIT = "demo"
"""A drive's content depends on its split's name: this one is the demo's alone, so nobody trains on it."""


@dataclass(frozen=True)
class DemoDrive:
    """Where a drive lies.

    Attributes:
        scene: its name.
        dataset: root of the dataset in the nuScenes schema that holds it.
        bag: the same drive as a bag.
    """

    scene: str
    dataset: Path
    bag: Path


def make_drive(
    output: Path,
    seed: int,
    duration_s: float,
    image_width: int,
    simulate: generate.Simulate = generate.mujoco_drive,
    backend: Callable[[], str] = choose_backend,
) -> DemoDrive:
    """Make the drive below ``output``, or find it there.

    Args:
        simulate, backend: as of ``generate.main``.

    Raises:
        UserError: nothing can draw here, or the drive cannot be made or written, or is there with other settings.
    """
    scene = f"{SPLIT}-{seed}-0000"
    drive = DemoDrive(scene, output / "dataset", output / "bags" / scene)
    options = {
        "--output": drive.dataset,
        "--bags": drive.bag.parent,
        "--split": SPLIT,
        "--seed": seed,
        "--drives": 1,
        "--duration": duration_s,
        "--image-width": image_width,
        "--sweeps": "all",
        "--workers": 1,
    }
    words = [str(word) for option in options.items() for word in option]
    if generate.main(words, simulate, backend) != 0:
        raise UserError("the drive could not be made; the lines above say why")
    return drive
