"""What a drive of the world yields: readings in order of time. The writers of datasets and bags know only this.

Frames and units are those of ``bevdistill_ros.geometry``: metres, radians, integer nanoseconds; the global frame of a drive
has z up, its ground at z = 0 and its map between (0, 0) and the map's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bevdistill_ros.geometry import Camera

LIDAR = "LIDAR_TOP"


@dataclass(frozen=True, eq=False)
class Image:
    """A camera's picture.

    Attributes:
        channel: nuScenes name of the camera, 'CAM_FRONT'.
        stamp: time of exposure, ns.
        jpeg: the encoded picture, of the drive's camera's size.
        keyframe: whether it is the channel's picture of the keyframe that comes next.
    """

    channel: str
    stamp: int
    jpeg: bytes
    keyframe: bool


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of the LiDAR.

    Attributes:
        stamp: END of the turn, ns.
        points: (M, 5) float32 x, y, z, intensity (0..255), ring (0 is the lowest beam); x, y, z in the sensor's frame at the time
            at which each point was measured, as a driver publishes them.
        times: (M,) float32 seconds from ``stamp`` to each point's time: negative or zero.
        deskewed: (M, 3) float32 positions in the sensor's frame at ``stamp``, the ego's motion during the turn taken out.
        keyframe: whether it is the sweep of the keyframe that comes next.
    """

    stamp: int
    points: np.ndarray
    times: np.ndarray
    deskewed: np.ndarray
    keyframe: bool


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object at a keyframe.

    Attributes:
        instance: number of the object within the drive: the same in all keyframes.
        category: nuScenes category, 'vehicle.car'.
        center: (3,) global frame, of the box's gravity centre.
        size: (3,) length, width, height.
        yaw: heading in the global frame. Boxes stand upright.
        velocity: (2,) in the global frame, m/s.
        attribute: nuScenes attribute, 'vehicle.moving'; '' where the category has none.
        visibility: share of the object, as it would be seen without anything else in the world, that the six cameras see; 0..1.
        lidar_points: points of the keyframe's (deskewed) sweep inside the box.
    """

    instance: int
    category: str
    center: np.ndarray
    size: np.ndarray
    yaw: float
    velocity: np.ndarray
    attribute: str
    visibility: float
    lidar_points: int


@dataclass(frozen=True, eq=False)
class Keyframe:
    """The annotated moment that ends the keyframe's sweep; follows its images and its sweep."""

    stamp: int
    annotations: tuple[Annotation, ...]


Reading = Image | Sweep | Keyframe


class Drive(Protocol):
    """A drive, simulated while it is read.

    Attributes:
        name: of the nuScenes scene, unique within a dataset.
        description: one line: place, weather, traffic.
        cameras: by channel, CAM_FRONT first: intrinsics and the mounting ``ego_T_cam`` (4, 4).
        ego_T_lidar: (4, 4).
        map_mask: (rows, columns) bool, drivable ground at MAP_RESOLUTION; row 0 is at the map's largest y, as nuScenes keeps it.
        keyframes: how many the drive has.
    """

    name: str
    description: str
    cameras: dict[str, tuple[Camera, np.ndarray]]
    ego_T_lidar: np.ndarray
    map_mask: np.ndarray
    keyframes: int

    def pose(self, stamp: int) -> np.ndarray:
        """global_T_ego (4, 4) at any time of the drive."""
        ...

    def readings(self) -> Iterator[Reading]:
        """All readings in order of their stamps."""
        ...


MAP_RESOLUTION = 0.1
"""Metres a pixel of ``Drive.map_mask``."""
