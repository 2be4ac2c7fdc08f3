"""The catalogue of objects: one random object of a nuScenes category, with its exact size.

The modules it draws from have a function for each category, that returns the pieces of one object: wheels or feet on the ground, x
forward, y left, anywhere along x and y. Shape comes from ``rng`` alone, colour from the palette alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bevdistill_ros.training.world.buses import bus
from bevdistill_ros.training.world.cars import car
from bevdistill_ros.training.world.cones_and_barriers import barrier, traffic_cone
from bevdistill_ros.training.world.construction import construction_vehicle
from bevdistill_ros.training.world.cycles import bicycle, motorcycle
from bevdistill_ros.training.world.palette import Palette
from bevdistill_ros.training.world.people import adult, child
from bevdistill_ros.training.world.shapes import Part, extent
from bevdistill_ros.training.world.trucks import trailer, truck


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """An object. Its frame: origin on the ground below the middle of its box, x its heading, y left, z up.

    Attributes:
        category: of nuScenes.
        size: (3,) length, width, height: the exact extent of all parts together.
        parts: within x +-length/2, y +-width/2, z 0..height.
        with_rider: whether someone sits on it; cycles only.
    """

    category: str
    size: np.ndarray
    parts: tuple[Part, ...]
    with_rider: bool


CATEGORIES: dict[str, Callable[[np.random.Generator, Palette], list[Part]]] = {
    "vehicle.car": car,
    "vehicle.truck": truck,
    "vehicle.bus.rigid": bus,
    "vehicle.trailer": trailer,
    "vehicle.construction": construction_vehicle,
    "human.pedestrian.adult": adult,
    "human.pedestrian.child": child,
    "movable_object.trafficcone": traffic_cone,
    "movable_object.barrier": barrier,
}
CYCLES: dict[str, Callable[[np.random.Generator, Palette, bool], list[Part]]] = {
    "vehicle.motorcycle": motorcycle,
    "vehicle.bicycle": bicycle,
}


def make_object(category: str, rng: np.random.Generator, palette: Palette, with_rider: bool = False) -> ObjectModel:
    """A random object.

    Args:
        category: a key of CATEGORIES or CYCLES.
        rng: of the shape; the palette has its own, so that one seed gives one shape under any palette.
        with_rider: for cycles only.
    """
    if category in CYCLES:
        parts = CYCLES[category](rng, palette, with_rider)
    elif with_rider:
        raise ValueError(f"{category} has no rider")
    else:
        parts = CATEGORIES[category](rng, palette)
    lows, highs = np.array([extent(part) for part in parts]).transpose(1, 0, 2)
    low, high = lows.min(axis=0), highs.max(axis=0)
    origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    placed = tuple(replace(part, position=part.position - origin) for part in parts)
    return ObjectModel(category, high - low, placed, with_rider)
