"""A drive in closed form: what the writers' tests expect can be computed by hand. Worker processes import it, too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.geometry import (
    Camera,
    invert,
    make_transform,
    rotation_from_quaternion,
    rotation_z,
    transform_points,
)
from bevdistill_ros.training.world.drive import Annotation, Image, Keyframe, Reading, Sweep
from bevdistill_ros.training.world.options import DriveOptions

START = 1_700_000_000_123_456_000  # ns; not at a multiple of the pose period
PERIOD = 500_000_000
SPEED = 5.0
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
EXPOSED_BEFORE = {"CAM_FRONT": 35_500_000, "CAM_BACK": 10_400_000}  # ns before the keyframe
TURN = 50_000_000  # ns that the LiDAR takes

# category, attribute, centre at START, size (length, width, height), yaw, speed along it, visibility, LiDAR points, keyframes
OBJECTS = [
    ("vehicle.car", "vehicle.moving", (30.0, 24.0, 0.8), (4.5, 1.9, 1.6), 0.1, 4.0, 0.95, 12, (0, 1, 2)),
    ("vehicle.truck", "vehicle.parked", (25.0, 12.0, 1.5), (7.0, 2.5, 3.0), -2.0, 0.0, 0.30, 0, (0, 1, 2)),
    ("human.pedestrian.adult", "pedestrian.moving", (22.0, 28.0, 0.9), (0.7, 0.6, 1.8), 1.5, 1.2, 0.50, 3, (0, 2)),
    ("movable_object.barrier", "", (28.0, 16.0, 0.5), (0.5, 2.5, 1.0), 0.7, 0.0, 0.70, 5, (1,)),
    ("animal", "", (18.0, 22.0, 0.3), (0.6, 0.3, 0.5), 0.0, 0.0, 1.00, 2, (0, 1, 2)),
]


class FakeDrive:
    """Along x at 5 m/s, turning, climbing and leaning; two cameras, a LiDAR that meets nothing but objects."""

    def __init__(self, name: str, seed: tuple[int, ...], options: DriveOptions) -> None:
        self.name, self.options = name, options
        self.description = f"A straight road, seed {seed}"
        self.rng = np.random.default_rng(seed)
        self.keyframes = int(options.duration_s * 2) + 1
        K = np.array([[40.0, 0.0, 31.5], [0.0, 40.0, 17.5], [0.0, 0.0, 1.0]])
        self.cameras = {
            "CAM_FRONT": (Camera(K, 64, 36), make_transform(OPTICAL, (1.7, 0.0, 1.5))),
            "CAM_BACK": (Camera(K, 64, 36), make_transform(rotation_z(np.pi) @ OPTICAL, (0.0, 0.1, 1.6))),
        }
        self.ego_T_lidar = make_transform(rotation_z(-np.pi / 2), (0.9, 0.0, 1.8))
        self.map_mask = np.zeros((400, 600), bool)
        self.map_mask[150:250] = True  # the road: 15 <= y < 25

    def pose(self, stamp: int) -> np.ndarray:
        t = (stamp - START) * 1e-9
        tilt = rotation_from_quaternion((0.02, -0.01 + 0.004 * t, 0.0, 1.0))
        return make_transform(rotation_z(0.1 * t) @ tilt, (10 + SPEED * t, 20.0, 0.05 * t))

    def annotations(self, stamp: int) -> list[Annotation]:
        """Of all objects, whether annotated at that keyframe or not."""
        t = (stamp - START) * 1e-9
        found = []
        for number, (category, attribute, center, size, yaw, speed, seen, points, _) in enumerate(OBJECTS):
            velocity = speed * np.array([np.cos(yaw), np.sin(yaw)])
            where = np.array(center) + [*(velocity * t), 0.0]
            found.append(Annotation(number, category, where, np.array(size), yaw, velocity, attribute, seen, points))
        return found

    def readings(self) -> Iterator[Reading]:
        first_keyframe = START + PERIOD
        events = []
        for index in range(self.keyframes):
            stamp = first_keyframe + index * PERIOD
            for channel, before in EXPOSED_BEFORE.items():
                frames = 6 if self.options.sweeps == "all" else 1
                for k in range(frames):  # 12 Hz, in whole microseconds
                    events.append((stamp - before - k * 83_333_000, 0, channel, k == 0))
            for k in range(1 if self.options.sweeps == "none" else 10):
                events.append((stamp - k * TURN, 1, "", k == 0))
            events.append((stamp, 2, str(index), True))
        for stamp, rank, text, key in sorted(events):
            if rank == 0:
                yield Image(text, stamp, self._jpeg(), key)
            elif rank == 1:
                yield self._sweep(stamp, key)
            else:
                present = [a for a, row in zip(self.annotations(stamp), OBJECTS) if int(text) in row[-1]]
                yield Keyframe(stamp, tuple(present))

    def _jpeg(self) -> bytes:
        pixels = self.rng.integers(0, 255, (36, 64, 3)).astype(np.uint8)
        return cv2.imencode(".jpg", pixels)[1].tobytes()

    def _sweep(self, stamp: int, key: bool) -> Sweep:
        places, own, times = [], [], []
        for annotation in self.annotations(stamp):
            n = annotation.lidar_points
            local = self.rng.uniform(-0.45, 0.45, (n, 3)) * annotation.size
            in_global = local @ rotation_z(annotation.yaw).T + annotation.center
            places.append(transform_points(invert(self.pose(stamp) @ self.ego_T_lidar), in_global))
            for point in in_global:
                before = int(self.rng.integers(0, TURN))
                times.append(-before * 1e-9)
                own.append(transform_points(invert(self.pose(stamp - before) @ self.ego_T_lidar), point))
        ring = np.arange(len(own)) % 32
        points = np.column_stack([own, self.rng.uniform(0, 255, len(own)), ring]).astype(np.float32)
        return Sweep(stamp, points, np.array(times, np.float32), np.vstack(places).astype(np.float32), key)


def simulate(name: str, seed: tuple[int, ...], options: DriveOptions) -> FakeDrive:
    """The drive as it should be."""
    return FakeDrive(name, seed, options)


class _BrokenDrive(FakeDrive):
    def readings(self) -> Iterator[Reading]:
        for count, reading in enumerate(super().readings()):
            yield reading
            if count == 5:
                self.break_down()


class _Raising(_BrokenDrive):
    def break_down(self) -> None:
        raise RuntimeError("out of tarmac")


class _Killed(_BrokenDrive):
    def break_down(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _Endless(_BrokenDrive):
    def break_down(self) -> None:
        Path(os.environ["FAKE_DRIVE_STUCK"]).touch()
        signal.pause()


def simulate_faults(name: str, seed: tuple[int, ...], options: DriveOptions) -> FakeDrive:
    """Drive 1 raises an error, drive 2 loses its process; the others are well."""
    return {1: _Raising, 2: _Killed}.get(seed[-1], FakeDrive)(name, seed, options)


def simulate_endless(name: str, seed: tuple[int, ...], options: DriveOptions) -> FakeDrive:
    """Drive 1 never ends, and says so by making the file FAKE_DRIVE_STUCK."""
    return {1: _Endless}.get(seed[-1], FakeDrive)(name, seed, options)


def no_backend() -> str:
    """Nothing is drawn."""
    return "disable"


def report_twice(job: int, report: Callable[[Any], None]) -> None:
    """Work for ``run_jobs``."""
    report((f"{job} begins", os.getpid()))
    report((f"{job} ends", os.getpid()))


def hold_folder(folder: Path, report: Callable[[Any], None]) -> None:
    """Work that has a folder while it lasts, which is until it is stopped."""
    folder.mkdir()
    try:
        report(os.getpid())
        while True:
            signal.pause()
    finally:
        folder.rmdir()
