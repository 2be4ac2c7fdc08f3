"""What may be chosen of a drive; everything else follows from its seed."""

from __future__ import annotations

from dataclasses import dataclass

from bevdistill_ros.errors import UsageError

WORLD = 1
"""Raised whenever the same seed gives another drive than before, so that a dataset is never made of two worlds unawares."""

SWEEPS = ("none", "lidar", "all")
COLOURS = ("natural", "shuffled", "grey")


@dataclass(frozen=True)
class DriveOptions:
    """Settings of a drive.

    Attributes:
        duration_s: seconds from the first keyframe to the last; there is a keyframe every half second.
        sweeps: readings between keyframes: 'none', 'lidar' (20 Hz) or 'all' (and cameras at 12 Hz).
        image_width: pixels; images have 16:9 as nuScenes' have.
        colours: 'natural'; 'shuffled': every part of every object has a colour drawn anew from all colours, so that nothing
            but shape tells what it is; 'grey': grey-scale pictures. Shapes, places and motions are the same in all three.
    """

    duration_s: float = 20.0
    sweeps: str = "none"
    image_width: int = 704
    colours: str = "natural"

    def __post_init__(self) -> None:
        if not 0.5 <= self.duration_s <= 60:
            raise UsageError(f"duration {self.duration_s:g} s: must be between 0.5 and 60 s")
        if self.sweeps not in SWEEPS:
            raise UsageError(f"sweeps '{self.sweeps}': must be one of {', '.join(SWEEPS)}")
        if self.colours not in COLOURS:
            raise UsageError(f"colours '{self.colours}': must be one of {', '.join(COLOURS)}")
        if self.image_width % 16 or not 160 <= self.image_width <= 1600:
            raise UsageError(f"image width {self.image_width}: must be a multiple of 16 between 160 and 1600")

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image_width, self.image_width * 9 // 16
