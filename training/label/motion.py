"""How things of each detection class move, as far as following them needs to know, and which classes are taken for one another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Motion:
    """Motion and measurement noise of a class; standard deviations.

    Attributes:
        position: of a detected centre, seen from above, m.
        speed: of the first velocity along the heading, about 0, m/s; 0 where nothing moves.
        drift: of the first velocity across the heading, m/s.
        change: of the velocity over one second, m/s.
    """

    position: float
    speed: float
    drift: float
    change: float

    @property
    def moves(self) -> bool:
        """Whether things of this class move at all."""
        return self.speed > 0


KINDS = {
    ("car", "truck", "bus", "trailer", "construction_vehicle"): Motion(position=0.5, speed=6.0, drift=0.5, change=1.5),
    # turns on the spot: no heading to rely on
    ("pedestrian",): Motion(position=0.3, speed=1.2, drift=1.2, change=0.5),
    ("motorcycle", "bicycle"): Motion(position=0.3, speed=4.0, drift=0.5, change=1.0),
    ("traffic_cone",): Motion(position=0.4, speed=0.0, drift=0.0, change=0.0),
    ("barrier",): Motion(position=0.4, speed=0.0, drift=0.0, change=0.0),
}
"""Classes that a teacher takes for one another, and that move alike: they are followed together, and all keyframes of one decide
which it is."""

MOTIONS = {name: motion for names, motion in KINDS.items() for name in names}
"""By detection class."""
