"""The first reading of a bag: what is in it when, without its pixels and points.

What stays in memory is a stamp a reading, a pose a transform and the CameraInfos that differ: some kilobytes a second of recording.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bevdistill_ros.camera_info import Intrinsics, intrinsics_from_info
from bevdistill_ros.camera_offsets import period_of
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.convert import annotations
from bevdistill_ros.training.convert.bag import Bag, read_header
from bevdistill_ros.training.convert.drops import Drops
from bevdistill_ros.training.convert.frames import Frames
from bevdistill_ros.training.convert.rig_file import Rig

IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
CLOUDS = ("sensor_msgs/msg/PointCloud2",)
INFOS = ("sensor_msgs/msg/CameraInfo",)
ODOMETRY = ("nav_msgs/msg/Odometry",)
TF, TF_STATIC = "/tf", "/tf_static"

JUMP = 10**9
"""ns that a sensor's stamps must go back by for its clock to have jumped."""


@dataclass
class Stream:
    """The messages of one topic.

    Attributes:
        stamps: ns; ascending, each once, after ``finish``.
        frames: (stamp, header.frame_id) of the first message and of those with another one than before.
    """

    stamps: array = field(default_factory=lambda: array("q"))
    frames: list[tuple[int, str]] = field(default_factory=list)

    def add(self, stamp: int, frame: str) -> None:
        """Add a message."""
        self.stamps.append(stamp)
        if not self.frames or self.frames[-1][1] != frame:
            self.frames.append((stamp, frame))

    def finish(self) -> int:
        """Sort; returns how many stamps there were twice."""
        unique = np.unique(np.array(self.stamps, np.int64))
        twice = len(self.stamps) - len(unique)
        self.stamps = array("q", unique.tobytes())
        return twice

    def frame_at(self, stamp: int) -> str:
        """header.frame_id at a time."""
        return next((frame for since, frame in reversed(self.frames) if since <= stamp), self.frames[0][1])

    def nearest(self, stamp: int) -> int | None:
        """The stamp nearest to a time."""
        after = bisect_right(self.stamps, stamp)
        around = self.stamps[max(after - 1, 0) : after + 1]
        return min(around, key=lambda found: abs(found - stamp), default=None)

    @property
    def period(self) -> int | None:
        """ns between messages; None for fewer than two."""
        return period_of(self.stamps)


@dataclass
class Part:
    """A stretch of a bag in which no clock jumps back: mostly all of it.

    Attributes:
        start, stop: log times (ns); it ends before ``stop``, or with the bag (None).
        frames: transforms.
        streams: by topic, of cameras, LiDARs and annotations.
        infos: by channel, (stamp, what it says) of the first CameraInfo and of those that say something else than before.
    """

    start: int
    frames: Frames
    stop: int | None = None
    streams: dict[str, Stream] = field(default_factory=dict)
    infos: dict[str, list[tuple[int, Intrinsics]]] = field(default_factory=dict)

    def intrinsics(self, channel: str, stamp: int) -> Intrinsics:
        """How a camera images at a time: as the last CameraInfo before it says, or else the first."""
        infos = self.infos[channel]
        return next((intrinsics for since, intrinsics in reversed(infos) if since <= stamp), infos[0][1])


def check_topics(bag: Bag, rig: Rig) -> None:
    """Raise UserError unless the bag has every topic that the rig file names, of the right type."""
    wanted: list[tuple[str, str, tuple[str, ...]]] = []
    for channel, camera in rig.cameras.items():
        wanted.append((f"cameras.{channel}.image", camera.image, IMAGES))
        wanted.append((f"cameras.{channel}.info", camera.info_topic, INFOS))
    wanted += [(f"lidars.{channel}.topic", lidar.topic, CLOUDS) for channel, lidar in rig.lidars.items()]
    if rig.poses.odometry:
        wanted.append(("poses.odometry", rig.poses.odometry, ODOMETRY))
    for where, topic, kinds in wanted:
        _check_topic(bag, where, topic, kinds)
    if rig.annotations.topic in bag.types:  # a bag without labels is no fault
        _check_topic(bag, "annotations.topic", rig.annotations.topic, annotations.KINDS)
    if not rig.poses.odometry and TF not in bag.types:
        raise UserError(
            f"{bag.path}: has no topic {TF}, so nobody knows where the vehicle was; name an odometry topic in the rig "
            "file (poses.odometry)"
        )


def _check_topic(bag: Bag, where: str, topic: str, kinds: tuple[str, ...]) -> None:
    if topic not in bag.types:
        there = ", ".join(sorted(name for name, kind in bag.types.items() if kind in kinds)) or "none"
        raise UserError(f"{bag.path}: has no topic {topic} ({where} in the rig file); of its type it has {there}")
    if bag.types[topic] not in kinds:
        raise UserError(
            f"{bag.path}: {topic} ({where} in the rig file) is a {bag.types[topic]}, not {' or '.join(kinds)}"
        )
    if not bag.counts[topic]:
        raise UserError(f"{bag.path}: {topic} ({where} in the rig file) has no messages")


def scan(bag: Bag, rig: Rig, drops: Drops, progress: Callable[[int], None] = lambda time: None) -> list[Part]:
    """Read a bag once. ``progress`` is told the log time (ns) of what has been read.

    Raises:
        UserError: a topic is missing, or nothing on it is of use.
    """
    check_topics(bag, rig)
    scanner = _Scanner(bag, rig, drops)
    for topic, time, data in bag.messages(scanner.topics):
        scanner.take(topic, time, data)
        progress(time)
    return scanner.finish()


class _Scanner:
    def __init__(self, bag: Bag, rig: Rig, drops: Drops) -> None:
        self.bag, self.rig, self.drops = bag, rig, drops
        self.sensors = set(rig.topics.values())
        self.channel_of_info = {camera.info_topic: channel for channel, camera in rig.cameras.items()}
        extra = {topic for topic in (TF, TF_STATIC, rig.poses.odometry, rig.annotations.topic) if topic in bag.types}
        self.topics = self.sensors | set(self.channel_of_info) | extra
        frames = Frames(round(rig.poses.max_gap_ms * 1e6), round(rig.poses.max_extrapolation_ms * 1e6))
        self.parts = [Part(bag.start, frames)]
        self._last: dict[str, int] = {}
        self._info_bytes: dict[str, bytes] = {}
        self._info_errors: dict[str, str] = {}
        self._poses: list[tuple[str, str, int, tuple[float, ...]]] = []
        self._poses_since = -(2**62)
        self._odometry_child = self._child_of_odometry()

    def _child_of_odometry(self) -> str:
        """The frame whose pose the odometry topic tells; '' without one."""
        topic = self.rig.poses.odometry
        for _, _, data in self.bag.messages({topic} & self.topics):
            return self.bag.deserialise(topic, data).child_frame_id.removeprefix("/") or self.rig.base_frame
        return ""

    def take(self, topic: str, time: int, data: bytes) -> None:
        if topic in self.sensors:
            self._reading(topic, time, data)
        elif topic in self.channel_of_info:
            self._info(topic, data)
        elif topic in (TF, TF_STATIC):
            self._transforms(topic, time, data)
        elif topic == self.rig.poses.odometry:
            self._odometry(topic, time, data)
        else:
            self._annotation(topic, time, data)

    def _reading(self, topic: str, time: int, data: bytes) -> None:
        stamp, frame = read_header(data)
        if stamp == 0:
            self.drops.add(topic, "reading", "zero header.stamp", 0)
            return
        self._watch(topic, time, stamp)
        self.parts[-1].streams.setdefault(topic, Stream()).add(stamp, frame)

    def _watch(self, topic: str, time: int, stamp: int) -> None:
        """See whether a sensor's clock has gone back. Its neighbours' do so within the same second of the recording."""
        last, self._last[topic] = self._last.get(topic, stamp), stamp
        if stamp >= last - JUMP:
            return
        part = self.parts[-1]
        if time - part.start > JUMP or len(self.parts) == 1:
            part.stop = time
            self.parts.append(
                Part(time, part.frames.copy_static(), infos={c: rows[-1:] for c, rows in part.infos.items()})
            )
            self.drops.add(topic, "clock", "header.stamp jumps back; what follows is converted apart", stamp)
            if time - self._poses_since <= JUMP:
                for pose in self._poses:
                    self.parts[-1].frames.add(*pose, static=False)
        elif (stream := part.streams.pop(topic, None)) is not None:
            self.drops.add(topic, "reading", "recorded while the clock jumped", stream.stamps[0], len(stream.stamps))

    def _info(self, topic: str, data: bytes) -> None:
        channel = self.channel_of_info[topic]
        content = bytes(data[12:])  # all but the stamp
        if self._info_bytes.get(channel) == content:
            return
        self._info_bytes[channel] = content
        stamp, _ = read_header(data)
        try:
            intrinsics = intrinsics_from_info(self.bag.deserialise(topic, data), self.rig.cameras[channel].rectified)
        except ValueError as error:
            self._info_errors.setdefault(channel, str(error))
            self.drops.add(topic, "camera_info", str(error), stamp)
            return
        self.parts[-1].infos.setdefault(channel, []).append((stamp, intrinsics))

    def _transforms(self, topic: str, time: int, data: bytes) -> None:
        for transform in self.bag.deserialise(topic, data).transforms:
            child = transform.child_frame_id.removeprefix("/")
            if child == self._odometry_child:
                continue
            t, q = transform.transform.translation, transform.transform.rotation
            self._pose(topic, time, transform.header, child, (t.x, t.y, t.z, q.x, q.y, q.z, q.w), topic == TF_STATIC)

    def _odometry(self, topic: str, time: int, data: bytes) -> None:
        message = self.bag.deserialise(topic, data)
        p, q = message.pose.pose.position, message.pose.pose.orientation
        self._pose(topic, time, message.header, self._odometry_child, (p.x, p.y, p.z, q.x, q.y, q.z, q.w), False)

    def _pose(self, topic: str, time: int, header: Any, child: str, pose: tuple[float, ...], static: bool) -> None:
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        if not static:
            # Poses mostly come before the first reading with the new clock. That alone proves a jump: a transform may just be late.
            last, self._last[child] = self._last.get(child, stamp), stamp
            if stamp < last - JUMP and time - self._poses_since > JUMP:
                self._poses_since, self._poses = time, []
            if time - self._poses_since <= JUMP:
                self._poses.append((header.frame_id, child, stamp, pose))
        problem = self.parts[-1].frames.add(header.frame_id, child, stamp, pose, static)
        if problem:
            self.drops.add(topic, "transform", problem, stamp)

    def _annotation(self, topic: str, time: int, data: bytes) -> None:
        kind = self.bag.types[topic]
        message = self.bag.deserialise(topic, data) if kind == annotations.MARKERS else None
        stamp, frame = annotations.stamp_of(kind, data, message, time)
        if stamp == 0:
            self.drops.add(topic, "annotation message", "zero header.stamp", 0)
            return
        self.parts[-1].streams.setdefault(topic, Stream()).add(stamp, frame)

    def finish(self) -> list[Part]:
        for topic in self.sensors:
            if not any(topic in part.streams for part in self.parts):
                raise UserError(
                    f"{self.bag.path}: {topic}: every header.stamp is zero, so the readings cannot be placed in time: the "
                    "driver must fill it"
                )
        for topic, channel in self.channel_of_info.items():
            if not any(channel in part.infos for part in self.parts):
                raise UserError(f"{self.bag.path}: {topic}: no CameraInfo is of use: {self._info_errors[channel]}")
        for part in self.parts:
            part.frames.finish()
            for topic, stream in part.streams.items():
                if twice := stream.finish():
                    self.drops.add(topic, "reading", "the same header.stamp a second time", stream.stamps[0], twice)
        return self.parts
