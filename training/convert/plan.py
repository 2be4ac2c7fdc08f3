"""Which readings of a bag become keyframes, which scenes they make, and what lies between them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Camera
from bevdistill_ros.training.convert.drops import Drops
from bevdistill_ros.training.convert.frames import NoPoseThen, Unconnected
from bevdistill_ros.training.convert.rig_file import Rig
from bevdistill_ros.training.convert.scan import Part, Stream

WIDEST_TOLERANCE = 50_000_000
"""ns that a reading may be from its nominal time where the rig file says nothing."""

SAME_SWEEP = 1_000_000
"""ns. An annotation's stamp so close to a sweep's is of that sweep."""


@dataclass(frozen=True)
class Keyframe:
    """A sample to be.

    Attributes:
        stamp: ns, of the reference's reading.
        readings: stamp of every channel's reading.
        annotations: stamps of the messages before and after it (one, where it is at that very time); none where the bag has none.
    """

    stamp: int
    readings: dict[str, int]
    annotations: tuple[int, ...] = ()


@dataclass
class Scene:
    """Keyframes in order of time, and the stamps of the readings between them, by channel."""

    keyframes: list[Keyframe]
    between: dict[str, array] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """Stamp of the first message that is needed."""
        first = self.keyframes[0]
        return min([*first.readings.values(), *first.annotations, *(s[0] for s in self.between.values() if s)])


@dataclass(frozen=True)
class Geometry:
    """Where everything is in a part of a bag."""

    part: Part
    rig: Rig

    def vehicle(self, stamp: int) -> np.ndarray:
        """global_T_ego (4, 4). Raises Unconnected or NoPoseThen."""
        return self.part.frames.lookup(self.rig.global_frame, self.rig.base_frame, stamp)

    def mounting(self, channel: str, stamp: int) -> np.ndarray:
        """ego_T_sensor (4, 4). Raises Unconnected or NoPoseThen."""
        frame = self.rig.frame(channel) or self.part.streams[self.rig.topics[channel]].frame_at(stamp)
        if not frame:
            raise Unconnected("header.frame_id is empty; name the frame in the rig file")
        mounting = self.part.frames.lookup(self.rig.base_frame, frame, stamp)
        if channel in self.rig.cameras:
            mounting = mounting @ self.part.intrinsics(channel, stamp).frame_T_image
        return mounting

    def camera(self, channel: str, stamp: int) -> Camera:
        """How a camera images."""
        return self.part.intrinsics(channel, stamp).camera


def plan(geometry: Geometry, drops: Drops, sweeps: str, where: str) -> list[Scene]:
    """The scenes of a part of a bag.

    Args:
        sweeps: readings between keyframes to keep: 'none', 'lidar' or 'all'.
        where: the bag, for messages.

    Raises:
        UserError: a frame that the rig file or a message names is not joined with the vehicle.
    """
    part, rig = geometry.part, geometry.rig
    missing = [topic for topic in rig.topics.values() if topic not in part.streams]
    missing += [camera.info_topic for channel, camera in rig.cameras.items() if channel not in part.infos]
    if missing:
        drops.add(missing[0], "stretch", "has nothing between two jumps of the clock", part.start)
        return []
    _check_frames(geometry, where)
    marked = part.streams.get(rig.annotations.topic)
    reference = part.streams[rig.topics[rig.reference]]
    keyframes = []
    used: dict[str, int] = {}
    for stamp in choose_references(reference, marked, round(1e9 / rig.keyframes.rate)):
        keyframe = _keyframe(geometry, stamp, marked, used, drops)
        if keyframe is not None:
            keyframes.append(keyframe)
            used = keyframe.readings
    scenes = _scenes(keyframes, rig)
    for scene in scenes:
        _fill(scene, geometry, sweeps, drops)
    return scenes


def _check_frames(geometry: Geometry, where: str) -> None:
    """Raise UserError where no transforms join what must be joined."""
    part, rig = geometry.part, geometry.rig
    stamp = part.streams[rig.topics[rig.reference]].stamps[0]
    try:
        geometry.vehicle(stamp)
    except Unconnected as error:
        raise UserError(
            f"{where}: the vehicle's pose is not known (global_frame, base_frame in the rig file): {error}"
        ) from None
    except NoPoseThen:
        pass
    for channel, topic in rig.topics.items():
        try:
            geometry.mounting(channel, part.streams[topic].stamps[0])
        except Unconnected as error:
            raise UserError(f"{where}: {topic}: the mounting of {channel} is not known: {error}") from None
        except NoPoseThen:
            pass
    marked = part.streams.get(rig.annotations.topic)
    frame = rig.annotations.frame or (marked.frames[0][1] if marked else "")
    if frame:
        try:
            part.frames.lookup(rig.global_frame, frame, stamp)
        except Unconnected as error:
            raise UserError(f"{where}: {rig.annotations.topic}: the boxes cannot be placed: {error}") from None
        except NoPoseThen:
            pass


def choose_references(reference: Stream, annotated: Stream | None, period: int) -> list[int]:
    """Stamps of the keyframes: readings of the reference, about a period apart, annotated ones before others."""
    stamps = np.array(reference.stamps, np.int64)
    marked = np.zeros(len(stamps), bool)
    if annotated is not None:
        near = [annotated.nearest(int(stamp)) for stamp in stamps]
        marked = np.array([found is not None and abs(found - s) <= SAME_SWEEP for found, s in zip(near, stamps)])
    chosen = [int(np.argmax(marked)) if marked.any() else 0]
    while True:
        target = stamps[chosen[-1]] + period
        low, high = np.searchsorted(stamps, (target - period // 4, target + period // 4 + 1))
        low = max(int(low), chosen[-1] + 1)
        if low < high:
            # An annotated reading is preferred to any that is not.
            chosen.append(min(range(low, int(high)), key=lambda i: (not marked[i], abs(stamps[i] - target))))
        elif low < len(stamps):
            chosen.append(low)
        else:
            break
    return [int(stamps[i]) for i in chosen]


def _keyframe(
    geometry: Geometry, stamp: int, marked: Stream | None, used: dict[str, int], drops: Drops
) -> Keyframe | None:
    """The keyframe at a reading of the reference; None, and counted, where it would not be complete."""
    rig, part = geometry.rig, geometry.part
    readings = {}
    for channel, topic in rig.topics.items():
        found = stamp if channel == rig.reference else _reading(part.streams[topic], stamp, rig, channel)
        if found is None or found == used.get(channel):
            drops.add(topic, "keyframe", f"{channel} has no reading near its time", stamp)
            return None
        try:
            geometry.vehicle(found)
            geometry.mounting(channel, found)
        except (NoPoseThen, Unconnected) as error:
            drops.add(topic, "keyframe", f"at the reading of {channel}: {error}", stamp)
            return None
        readings[channel] = found
    if marked is None:
        return Keyframe(stamp, readings)
    around = _around(marked, stamp)
    if not around or (len(around) == 2 and around[1] - around[0] > rig.annotations.max_gap_ms * 1e6):
        drops.add(rig.annotations.topic, "keyframe", "no annotations at its time", stamp)
        return None
    return Keyframe(stamp, readings, around)


def _reading(stream: Stream, stamp: int, rig: Rig, channel: str) -> int | None:
    """Stamp of a channel's reading for a keyframe."""
    target = stamp + rig.offset(channel)
    tolerance = round(rig.keyframes.tolerance_ms * 1e6)
    if not tolerance:
        tolerance = min((stream.period or 2 * WIDEST_TOLERANCE) // 2, WIDEST_TOLERANCE)
    found = stream.nearest(target)
    return found if found is not None and abs(found - target) <= tolerance else None


def _around(marked: Stream, stamp: int) -> tuple[int, ...]:
    """Stamps of the annotations that tell of a time: one at it, or one on either side; none outside."""
    nearest = marked.nearest(stamp)
    if nearest is not None and abs(nearest - stamp) <= SAME_SWEEP:
        return (nearest,)
    after = bisect_left(marked.stamps, stamp)
    if 0 < after < len(marked.stamps):
        return marked.stamps[after - 1], marked.stamps[after]
    return ()


def _scenes(keyframes: list[Keyframe], rig: Rig) -> list[Scene]:
    scenes: list[Scene] = []
    for keyframe in keyframes:
        if scenes:
            first, last = scenes[-1].keyframes[0].stamp, scenes[-1].keyframes[-1].stamp
            # A microsecond more: 60 s of keyframes are one scene of 60 s.
            near = keyframe.stamp - last <= rig.keyframes.max_gap_s * 1e9
            if near and keyframe.stamp - first <= rig.keyframes.max_scene_s * 1e9 + 1000:
                scenes[-1].keyframes.append(keyframe)
                continue
        scenes.append(Scene([keyframe]))
    return scenes


def _fill(scene: Scene, geometry: Geometry, sweeps: str, drops: Drops) -> None:
    """Find the readings between keyframes: from one period before the first to the last."""
    rig = geometry.rig
    start = scene.keyframes[0].stamp - round(1e9 / rig.keyframes.rate)
    stop = scene.keyframes[-1].stamp
    kept = {"none": [], "lidar": [*rig.lidars], "all": [*rig.cameras, *rig.lidars]}[sweeps]
    for channel in kept:
        topic = rig.topics[channel]
        taken = {keyframe.readings[channel] for keyframe in scene.keyframes}
        scene.between[channel] = array("q")
        stamps = geometry.part.streams[topic].stamps
        for stamp in stamps[bisect_right(stamps, start) : bisect_right(stamps, stop)]:
            if stamp not in taken:
                try:
                    geometry.vehicle(stamp)
                    geometry.mounting(channel, stamp)
                except (NoPoseThen, Unconnected) as error:
                    drops.add(topic, "sweep", str(error), stamp)
                else:
                    scene.between[channel].append(stamp)
