"""A drive of the world, simulated while it is read (see ``drive.Drive``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from bevdistill_ros.geometry import make_transform, rotation_z, transform_points
from bevdistill_ros.training.world import rig as rigs
from bevdistill_ros.training.world.drive import Annotation, Image, Keyframe, Reading, Sweep
from bevdistill_ros.training.world.ground import paint_ground
from bevdistill_ros.training.world.layout import make_layout
from bevdistill_ros.training.world.lidar import scan
from bevdistill_ros.training.world.options import DriveOptions
from bevdistill_ros.training.world.palette import NaturalPalette, ShuffledPalette
from bevdistill_ros.training.world.scene import CameraRenderer, Scene
from bevdistill_ros.training.world.scenery import make_scenery
from bevdistill_ros.training.world.traffic import Actor, make_traffic, travel_speed
from bevdistill_ros.training.world.visibility import SurfacePoints, seen_points
from bevdistill_ros.training.world.weather import make_lens, make_weather, paint_sky, vary

ANNOTATED = 80.0
"""Metres from the ego within which objects are annotated."""

_ORIGIN_NS = 1_700_000_000 * 10**9  # of the first keyframe; in 2023, so that the stamps look like a clock's


@dataclass(frozen=True)
class _Event:
    """A reading to be: stamp in ns of the drive, place among readings of one stamp, channel (None: a sweep), keyframe."""

    stamp: int
    rank: int
    channel: str | None
    keyframe: bool


class Simulation:
    """One drive through a quarter of its own.

    Args:
        name: of the scene.
        seed: everything follows from it and the options; colours and sizes of images change no shape, place or motion.
        options: see ``DriveOptions``.
    """

    def __init__(self, name: str, seed: tuple[int, ...], options: DriveOptions) -> None:
        self.name, self.options = name, options
        streams = np.random.SeedSequence(list(seed)).spawn(8)
        plan, paint, scenery, traffic, look, rig, self._noise, colours = streams
        plan, rng = np.random.default_rng(plan), np.random.default_rng(traffic)
        palette = (ShuffledPalette if options.colours == "shuffled" else NaturalPalette)(np.random.default_rng(colours))
        duration = options.duration_s
        self.keyframes = int(duration * 10**9) // rigs.PERIOD_NS + 1

        speed = travel_speed(plan)
        layout = make_layout(plan, speed * duration)
        ground = paint_ground(layout, np.random.default_rng(paint))
        self.traffic = make_traffic(layout, speed, duration, rng, palette)
        self.map_mask = ground.drivable
        look = np.random.default_rng(look)
        self._weather = make_weather(look)
        sky = paint_sky(self._weather, look)
        lens = make_lens(look, options.colours == "grey")
        width, height = options.image_size
        self._rig = rigs.make_rig(np.random.default_rng(rig), width, height)
        self.cameras, self.ego_T_lidar = self._rig.cameras, self._rig.ego_T_lidar
        self._lenses = {channel: vary(lens, look) for channel in self.cameras}
        self._sway = look.uniform(0, 2 * np.pi, 4)
        buildings = make_scenery(layout, ground.drivable, np.random.default_rng(scenery), palette)
        self.scene = Scene(layout, ground, buildings, self.traffic, self._weather, sky, self._rig)
        self._surface = SurfacePoints(self.traffic.actors, np.random.default_rng(0))
        self.description = (
            f"{self._weather.name}, {len(self.traffic.actors)} objects, {len(layout.streets)} streets, "
            f"ego at {speed:.1f} m/s"
        )

    def pose(self, stamp: int) -> np.ndarray:
        """global_T_ego (4, 4): along the lane, with a little pitch and roll."""
        t = (stamp - _ORIGIN_NS) * 1e-9
        (x, y), yaw = self.traffic.ego.at(t)
        a, b, c, d = self._sway
        pitch = np.radians(0.25) * (np.sin(2.1 * t + a) + 0.4 * np.sin(7.3 * t + b))
        roll = np.radians(0.2) * (np.sin(1.7 * t + c) + 0.4 * np.sin(5.9 * t + d))
        cp, sp, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        tilt = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        return make_transform(rotation_z(float(yaw)) @ tilt, (x, y, 0.0))

    def readings(self) -> Iterator[Reading]:
        """All readings in order of their stamps."""
        width, height = self.options.image_size
        renderer = CameraRenderer(self.scene, width, height, self._weather)
        try:
            seen: dict[int, np.ndarray] = {}
            for event in self._events():
                # Each reading has its own noise, whatever else is read.
                rng = np.random.default_rng(
                    [*self._noise.generate_state(4), event.stamp // 1000 - _ORIGIN_NS // 1000 + 10**9, event.rank]
                )
                if event.channel is not None:
                    yield self._image(renderer, event, seen, rng)
                else:
                    sweep, _ = self._sweep(event.stamp, event.keyframe, rng)
                    yield sweep
                    if event.keyframe:
                        yield Keyframe(event.stamp, self._annotate(event.stamp, sweep, seen))
                        seen = {}
        finally:
            renderer.close()

    def _events(self) -> list[_Event]:
        """Stamps of everything, in order; the first keyframe's images and sweep come first."""
        events = []
        ranks = {channel: rank for rank, channel in enumerate(rigs.CAMERAS)}
        for key in range(self.keyframes):
            end = _ORIGIN_NS + key * rigs.PERIOD_NS
            frames = rigs.CAMERA_FRAMES if self.options.sweeps == "all" and key else 1
            for frame in range(frames):
                for channel, (_, _, _, before_us) in rigs.CAMERAS.items():
                    stamp = end - frame * rigs.PERIOD_NS // rigs.CAMERA_FRAMES // 1000 * 1000 - before_us * 1000
                    events.append(_Event(stamp, ranks[channel], channel, frame == 0))
            for sweep in range(rigs.SWEEPS if self.options.sweeps != "none" and key else 1):
                events.append(_Event(end - sweep * rigs.SWEEP_NS, len(ranks), None, sweep == 0))
        return sorted(events, key=lambda event: (event.stamp, event.rank))

    def _image(
        self, renderer: CameraRenderer, event: _Event, seen: dict[int, np.ndarray], rng: np.random.Generator
    ) -> Image:
        camera, ego_T_cam = self.cameras[event.channel]
        global_T_ego = self.pose(event.stamp)
        t = (event.stamp - _ORIGIN_NS) * 1e-9
        self.scene.set_time(t, global_T_ego)
        picture = self._lenses[event.channel].expose(renderer.render(event.channel), rng)
        if event.keyframe:
            states = self._near(t, global_T_ego)
            for index, points in seen_points(
                self.scene, self._surface, states, camera, global_T_ego @ ego_T_cam
            ).items():
                seen[index] = seen.get(index, False) | points
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        return Image(event.channel, event.stamp, jpeg, event.keyframe)

    def sweep(self, stamp: int) -> tuple[Sweep, np.ndarray]:
        """A turn of the LiDAR that ends at any time of the drive, and the number of the object (M,) that each point lies on,
        -1 for none. Its noise is not that of ``readings``."""
        return self._sweep(stamp, False, np.random.default_rng(0))

    def _sweep(self, stamp: int, keyframe: bool, rng: np.random.Generator) -> tuple[Sweep, np.ndarray]:
        def pose(since_start: int) -> np.ndarray:
            return self.pose(since_start + _ORIGIN_NS)

        sweep, actors = scan(self.scene, pose, self.ego_T_lidar, stamp - _ORIGIN_NS, keyframe, rng)
        return replace(sweep, stamp=stamp), actors

    def _near(self, t: float, global_T_ego: np.ndarray) -> dict[int, tuple[np.ndarray, float]]:
        """Position and yaw of the actors to annotate, by index."""
        states = {}
        for index, actor in enumerate(self.traffic.actors):
            position, yaw = actor.motion.at(t)
            if np.hypot(*(position - global_T_ego[:2, 3])) < ANNOTATED:
                states[index] = (np.array(position), float(yaw))
        return states

    def _annotate(self, stamp: int, sweep: Sweep, seen: dict[int, np.ndarray]) -> tuple[Annotation, ...]:
        t = (stamp - _ORIGIN_NS) * 1e-9
        global_T_ego = self.pose(stamp)
        points = transform_points(global_T_ego @ self.ego_T_lidar, sweep.deskewed)
        points = points[np.argsort(points[:, 0])]
        annotations = []
        for index, (position, yaw) in self._near(t, global_T_ego).items():
            actor = self.traffic.actors[index]
            velocity = actor.motion.velocity(t)
            size = actor.model.size
            radius = np.hypot(size[0], size[1]) / 2
            first, last = np.searchsorted(points[:, 0], (position[0] - radius, position[0] + radius))
            inside = points_in_box(points[first:last], position, yaw, size)
            annotations.append(
                Annotation(
                    instance=index,
                    category=actor.model.category,
                    center=np.array([*position, size[2] / 2]),
                    size=size,
                    yaw=yaw,
                    velocity=velocity,
                    attribute=attribute(actor, float(np.hypot(*velocity))),
                    visibility=float(np.mean(seen[index])) if index in seen else 0.0,
                    lidar_points=int(inside.sum()),
                )
            )
        return tuple(annotations)


def points_in_box(points: np.ndarray, position: np.ndarray, yaw: float, size: np.ndarray) -> np.ndarray:
    """(M,) bool of points (M, 3) inside a box that stands on the ground at ``position`` (2,)."""
    local = (points[:, :2] - position) @ rotation_z(yaw)[:2, :2]
    return (np.abs(local) <= size[:2] / 2).all(1) & (points[:, 2] >= 0) & (points[:, 2] <= size[2])


def attribute(actor: Actor, speed: float) -> str:
    """nuScenes attribute of an object by what it is and does; '' for categories without any."""
    kind = actor.model.category.split(".")
    moving = speed > 0.2
    if kind[0] == "movable_object":
        return ""
    if kind[0] == "human":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if kind[1] in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if actor.model.with_rider else "cycle.without_rider"
    return "vehicle.moving" if moving else ("vehicle.parked" if actor.parked else "vehicle.stopped")
