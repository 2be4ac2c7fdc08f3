"""One scene of a bag: its images and sweeps are written as their messages come, its rows when the last has come."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import invert
from bevdistill_ros.training.convert import annotations
from bevdistill_ros.training.convert.annotations import Box, Classes, Message
from bevdistill_ros.training.convert.bag import Bag
from bevdistill_ros.training.convert.drops import Drops
from bevdistill_ros.training.convert.frames import NoPoseThen, Unconnected
from bevdistill_ros.training.convert.pictures import Pictures
from bevdistill_ros.training.convert.plan import Geometry, Keyframe, Scene
from bevdistill_ros.training.convert.point_clouds import compensated, count_inside, read_cloud
from bevdistill_ros.training.data.nuscenes_tables import Layout, ShardWriter, token

LAYOUT = Layout("v1.0-bags", "scenes", "scene")


@dataclass(frozen=True)
class Reading:
    """What became of an image or a sweep: its file and its size in pixels, or why there is none; and what to know of it."""

    filename: str = ""
    size: tuple[int, int] = (0, 0)
    problem: str = ""
    note: str = ""


class SceneWriter:
    """Writes one scene.

    Args:
        root: the dataset's folder.
        name: of the scene.
        bag: what its messages come from.
        geometry: of the scene's part of the bag.
        scene: what is wanted of it.
        classes: for the annotations' labels; counts the unknown ones.

    Attributes:
        wanted: (topic, stamp) of the readings and annotation messages that have not come yet.
    """

    def __init__(self, root: Path, name: str, bag: Bag, geometry: Geometry, scene: Scene, classes: Classes) -> None:
        self.root, self.name, self.bag, self.geometry, self.scene = root, name, bag, geometry, scene
        rig = geometry.rig
        self._channel_of = {topic: channel for channel, topic in rig.topics.items()}
        self._key = {(c, stamp) for keyframe in scene.keyframes for c, stamp in keyframe.readings.items()}
        self._between = {(c, stamp) for c, stamps in scene.between.items() for stamp in stamps}
        self.wanted = {(rig.topics[channel], stamp) for channel, stamp in self._key | self._between}
        self.wanted |= {(rig.annotations.topic, stamp) for k in scene.keyframes for stamp in k.annotations}
        self._classes = classes
        self._shard: ShardWriter | None = None
        self._readings: dict[tuple[str, int], Future[Reading]] = {}
        self._messages: dict[int, Message] = {}
        self._drops = Drops()

    def annotate(self, stamp: int, frame: str, message: Any) -> None:
        """Take an annotation message."""
        rig, topic = self.geometry.rig, self.geometry.rig.annotations.topic
        self.wanted.discard((topic, stamp))
        config = rig.annotations
        unusable = self._classes.unusable
        boxes = annotations.read_boxes(self.bag.types[topic], message, config, self._classes)
        if self._classes.unusable > unusable:
            self._drops.add(topic, "annotation", "no usable box", stamp, self._classes.unusable - unusable)
        for label, count in self._classes.unknown.items():
            self._drops.add(topic, "annotation", f"label '{label}' is not in the rig file's classes", stamp, count)
        self._classes.unknown.clear()
        source = config.frame or frame or rig.base_frame
        try:
            global_T_source = self.geometry.part.frames.lookup(rig.global_frame, source, stamp)
        except (NoPoseThen, Unconnected) as error:
            self._drops.add(topic, "annotation message", str(error), stamp)
            return
        self._messages[stamp] = Message(stamp, tuple(annotations.in_frame(box, global_T_source) for box in boxes))

    def read(self, topic: str, stamp: int, submit: Callable[[Callable[[], Reading]], Future[Reading]], data: bytes,
             pictures: Pictures) -> None:  # fmt: skip
        """Take an image or a point cloud; ``submit`` has the work done elsewhere."""
        self.wanted.discard((topic, stamp))
        shard = self._begin()
        channel = self._channel_of[topic]

        def work() -> Reading:
            return self._make(shard, channel, topic, stamp, data, pictures)

        self._readings[channel, stamp] = submit(work)

    def _begin(self) -> ShardWriter:
        if self._shard is None:
            self._shard = ShardWriter(self.root, LAYOUT, self.name)
            self._shard.begin(self.geometry.rig.topics)
        return self._shard

    def _make(
        self, shard: ShardWriter, channel: str, topic: str, stamp: int, data: bytes, pictures: Pictures
    ) -> Reading:
        """Write a reading's file."""
        key, note = (channel, stamp) in self._key, ""
        try:
            message = self.bag.deserialise(topic, data)
            if channel in self.geometry.rig.cameras:
                camera = self.geometry.camera(channel, stamp)
                content, suffix = pictures.jpeg(message, camera), ".jpg"
                size = (camera.width, camera.height)
            else:
                points, note = self._points(channel, stamp, message)
                content, suffix, size = points.tobytes(), ".pcd.bin", (0, 0)
        except (UserError, ValueError, NoPoseThen) as error:
            return Reading(problem=str(error))
        return Reading(shard.put(channel, _rounded(stamp), content, suffix=suffix, keyframe=key), size, note=note)

    def _points(self, channel: str, stamp: int, message: Any) -> tuple[np.ndarray, str]:
        """(N, 5) little-endian float32, as nuScenes' .pcd.bin, and what to know of them."""
        cloud = read_cloud(message, stamp)
        points = cloud.points
        if cloud.times is not None and self.geometry.rig.lidars[channel].compensate:

            def global_T_lidar(after: int) -> np.ndarray:
                # As mounted at the stamp: what is known then is what the dataset says.
                return self.geometry.vehicle(stamp + after) @ mounting

            mounting = self.geometry.mounting(channel, stamp)
            points = compensated(cloud, global_T_lidar)
        return points.astype(
            "<f4"
        ), "not brought to one time: its points' times are not of this sweep" if cloud.strange else ""

    def complete(self, split: str, settings: dict[str, Any]) -> Drops | None:
        """Write the rows, which makes the scene part of the dataset. Returns what is missing, if nothing of it is whole."""
        shard = self._begin()
        readings = {key: future.result() for key, future in self._readings.items()}
        keyframes = [keyframe for keyframe in self.scene.keyframes if self._is_whole(keyframe, readings)]
        kept = {(c, stamp) for keyframe in keyframes for c, stamp in keyframe.readings.items()}
        for key, reading in readings.items():
            if reading.note:
                self._drops.add(self.geometry.rig.topics[key[0]], "compensation", reading.note, key[1])
            if key in self._between:
                if reading.problem:
                    self._drops.add(self.geometry.rig.topics[key[0]], "sweep", reading.problem, key[1])
                else:
                    kept.add(key)
            elif key not in kept and reading.filename:
                (self.root / reading.filename).unlink()
        if not keyframes:
            return self._drops
        ok, png = cv2.imencode(".png", np.zeros((1, 1), np.uint8))  # no map is known, but tools want a picture
        assert ok
        shard.add_map(png.tobytes())
        self._add_readings(shard, keyframes, {key: readings[key] for key in kept})
        for number, keyframe in enumerate(keyframes):
            shard.add_sample(shard.token("sample", number), _rounded(keyframe.stamp))
            if keyframe.annotations:
                self._add_annotations(shard, shard.token("sample", number), keyframe, readings)
        duration = (keyframes[-1].stamp - keyframes[0].stamp) * 1e-9
        description = f"{self.bag.name}, {duration:.1f} s"
        shard.complete(split, description, settings, self.bag.name, dropped=self._drops.rows())
        return None

    def _is_whole(self, keyframe: Keyframe, readings: dict[tuple[str, int], Reading]) -> bool:
        for channel, stamp in keyframe.readings.items():
            reading = readings.get((channel, stamp), Reading(problem="gone when the bag was read again"))
            if reading.problem:
                self._drops.add(self.geometry.rig.topics[channel], "keyframe", f"{channel}: {reading.problem}", stamp)
                return False
        if keyframe.annotations and not any(stamp in self._messages for stamp in keyframe.annotations):
            topic = self.geometry.rig.annotations.topic
            self._drops.add(topic, "keyframe", "no annotations at its time", keyframe.stamp)
            return False
        return True

    def _add_readings(
        self, shard: ShardWriter, keyframes: list[Keyframe], readings: dict[tuple[str, int], Reading]
    ) -> None:
        sample_of = {
            (c, stamp): number for number, keyframe in enumerate(keyframes) for c, stamp in keyframe.readings.items()
        }
        for channel, stamp in keyframes[0].readings.items():  # in the rig file's order, which becomes the dataset's
            self._calibration(shard, channel, stamp)
        ends = np.array([keyframe.stamp for keyframe in keyframes])
        for channel, stamp in sorted(readings, key=lambda key: (key[1], key[0])):
            reading = readings[channel, stamp]
            # Between keyframes: the one that comes next.
            number = sample_of.get((channel, stamp), min(int(np.searchsorted(ends, stamp)), len(ends) - 1))
            shard.add_reading(
                channel,
                _rounded(stamp),
                reading.filename,
                size=reading.size,
                keyframe=(channel, stamp) in sample_of,
                sample=shard.token("sample", number),
                calibration=self._calibration(shard, channel, stamp),
                global_T_ego=self.geometry.vehicle(stamp),
            )

    def _calibration(self, shard: ShardWriter, channel: str, stamp: int) -> str:
        """Token of the calibration at a time; another one whenever it has changed."""
        mounting = self.geometry.mounting(channel, stamp)
        camera = channel in self.geometry.rig.cameras
        K = self.geometry.camera(channel, stamp).K if camera else None
        record = shard.token(
            "calibrated_sensor", channel, mounting.round(9).tolist(), None if K is None else K.tolist()
        )
        shard.add_calibration(record, channel, "camera" if camera else "lidar", mounting, K)
        return record

    def _add_annotations(
        self, shard: ShardWriter, sample: str, keyframe: Keyframe, readings: dict[tuple[str, int], Reading]
    ) -> None:
        around = [self._messages[stamp] for stamp in keyframe.annotations if stamp in self._messages]
        boxes, lost = annotations.at_keyframe(around, keyframe.stamp)
        if lost:
            topic = self.geometry.rig.annotations.topic
            self._drops.add(
                topic, "annotation", "not in the messages on both sides of the keyframe", keyframe.stamp, lost
            )
        clouds = [self._cloud(channel, keyframe, readings) for channel in self.geometry.rig.lidars]
        seen: set[str] = set()
        for number, box in enumerate(boxes):
            identity = f"{box.category}/{box.identity}" if box.identity else f"{sample}/{number}"
            if identity in seen:
                self._drops.add(
                    self.geometry.rig.annotations.topic, "annotation", "its id a second time", keyframe.stamp
                )
                continue
            seen.add(identity)
            shard.add_annotation(
                token(sample, "annotation", number),
                shard.token("instance", identity),
                box.category,
                center=box.pose[:3, 3],
                size=box.size,
                rotation=box.pose[:3, :3],
                lidar_points=sum(_inside(box, points, global_T_lidar) for points, global_T_lidar in clouds),
            )

    def _cloud(
        self, channel: str, keyframe: Keyframe, readings: dict[tuple[str, int], Reading]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A LiDAR's points (N, 3) of a keyframe, read back, and its pose."""
        stamp = keyframe.readings[channel]
        file = self.root / readings[channel, stamp].filename
        points = np.fromfile(file, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
        return points, self.geometry.vehicle(stamp) @ self.geometry.mounting(channel, stamp)


def _inside(box: Box, points: np.ndarray, global_T_lidar: np.ndarray) -> int:
    return count_inside(points, invert(box.pose) @ global_T_lidar, box.size)


def _rounded(stamp: int) -> int:
    """A stamp as nuScenes' tables can hold it, in whole us."""
    return stamp // 1000 * 1000
