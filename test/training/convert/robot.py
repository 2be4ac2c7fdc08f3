"""A robot in closed form, and bags of it: what a conversion must give can be computed by hand, and any message can be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.geometry import (
    Camera,
    invert,
    make_transform,
    quaternion_from_rotation,
    rotation_z,
    transform_points,
)
from bevdistill_ros.training.data.bags import BagWriter
from bevdistill_ros.training.data.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    POINT_CLOUD,
    TF,
    Messages,
    TruthBox,
)

MS = 1_000_000
START = 1_700_000_000_000_000_000
SPEED, TURN = 4.0, 0.1
WIDTH, HEIGHT = 64, 48
K = np.array([[50.0, 0.0, 31.5], [0.0, 50.0, 23.5], [0.0, 0.0, 1.0]])
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
MOUNTINGS = {
    "cam_front": make_transform(OPTICAL, (1.7, 0.0, 1.5)),
    "cam_back": make_transform(rotation_z(np.pi) @ OPTICAL, (-0.5, 0.1, 1.6)),
    "lidar": make_transform(rotation_z(-np.pi / 2), (0.9, 0.0, 1.8)),
}
EXPOSED = {"cam_front": -30, "cam_back": 10}  # ms about each sweep
LANDMARKS = np.random.default_rng(7).uniform((-30, -30, 0), (40, 30, 3), (300, 3))
SIZE = np.array([4.0, 2.0, 1.5])

RIG = f"""
cameras:
  CAM_FRONT: {{image: /cam_front/image_raw/compressed, offset_ms: {EXPOSED["cam_front"]}}}
  CAM_BACK: {{image: /cam_back/image_raw/compressed, offset_ms: {EXPOSED["cam_back"]}}}
lidars:
  LIDAR_TOP: {{topic: /points}}
annotations: {{topic: /annotations}}
"""


def vehicle(stamp: int) -> np.ndarray:
    """map_T_base."""
    t = (stamp - START) * 1e-9
    yaw = TURN * t
    return make_transform(rotation_z(yaw), (SPEED / TURN * np.sin(yaw), SPEED / TURN * (1 - np.cos(yaw)), 0.0))


def car(stamp: int) -> np.ndarray:
    """map_T_car: it turns through the direction in which yaw jumps from pi to -pi."""
    t = (stamp - START) * 1e-9
    return make_transform(rotation_z(np.pi - 0.2 + 0.3 * t), (12.0 - 3.0 * t, 5.0, 0.8))


@dataclass
class Event:
    """A message to be recorded; bytes are serialised already."""

    log: int
    topic: str
    msgtype: str
    message: Any


Change = Callable[[list[Event], Messages], list[Event]]


def record(
    path: Path,
    sweeps: int = 16,
    storage: str = "mcap",
    change: Change = lambda events, _: events,
    start: int = START,
    latched: tuple[str, ...] = ("/tf_static",),
) -> Path:
    """Write a bag: two cameras, a LiDAR and annotations at 10 Hz, transforms at 50 Hz. ``change`` spoils or replaces messages."""
    bag = BagWriter(path, storage)
    events = sorted(change(_events(bag.messages, sweeps, start), bag.messages), key=lambda event: event.log)
    with bag:
        for topic, msgtype in dict.fromkeys((event.topic, event.msgtype) for event in events):
            bag.add_topic(topic, msgtype, latched=topic in latched)
        for event in events:
            if isinstance(event.message, bytes):
                bag.write_cdr(event.topic, event.log, event.message)
            else:
                bag.write(event.topic, event.log, event.message)
    return path


def _events(make: Messages, sweeps: int, start: int) -> list[Event]:
    def transform(stamp: int, parent: str, child: str, T: np.ndarray) -> Any:
        return make.transform(stamp, parent, child, T[:3, 3], quaternion_from_rotation(T[:3, :3]))

    static = [transform(start, "base_link", name, T) for name, T in MOUNTINGS.items()]
    events = [Event(start - 200 * MS, "/tf_static", TF, make.tf(static))]
    last = start + (sweeps - 1) * 100 * MS
    for stamp in range(start - 200 * MS, last + 100 * MS, 20 * MS):
        events.append(Event(stamp, "/tf", TF, make.tf([transform(stamp, "map", "base_link", vehicle(stamp))])))
    for index in range(sweeps):
        stamp = start + index * 100 * MS
        for name, offset in EXPOSED.items():
            at = stamp + offset * MS
            events.append(Event(at, f"/{name}/camera_info", CAMERA_INFO, make.camera_info(at, name, K, WIDTH, HEIGHT)))
            image = make.compressed_image(at, name, jpeg(index), "jpeg")
            events.append(Event(at, f"/{name}/image_raw/compressed", COMPRESSED_IMAGE, image))
        points = np.column_stack([*measured(stamp), times()]).astype("<f4")
        cloud = make.point_cloud(stamp, "lidar", ("x", "y", "z", "intensity", "ring", "time"), points.tobytes())
        events.append(Event(stamp, "/points", POINT_CLOUD, cloud))
        events.append(annotation(make, stamp))
    return events


def annotation(make: Messages, stamp: int) -> Event:
    """The car's box."""
    base_T_car = invert(vehicle(stamp)) @ car(stamp)
    box = TruthBox("car", "car-1", base_T_car[:3, 3], base_T_car[:3, :3], SIZE)
    return Event(stamp, "/annotations", DETECTIONS, make.truth(stamp, "base_link", [box]))


def jpeg(index: int) -> bytes:
    """A picture, another one for each index."""
    coarse = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))[1].tobytes()


def times() -> np.ndarray:
    """Seconds from the sweep's stamp at which each landmark is measured."""
    return np.round(np.linspace(-0.08, 0.0, 5), 3)[np.arange(len(LANDMARKS)) % 5]


def measured(stamp: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks in the LiDAR's frame at their own times; intensity; ring."""
    xyz = np.empty_like(LANDMARKS)
    for t in np.unique(times()):
        mine = times() == t
        lidar_T_map = invert(vehicle(stamp + round(t * 1e9)) @ MOUNTINGS["lidar"])
        xyz[mine] = transform_points(lidar_T_map, LANDMARKS[mine])
    index = np.arange(len(LANDMARKS))
    return xyz, (index % 200).astype(np.float64), (index % 32).astype(np.float64)


def at_rest(stamp: int) -> np.ndarray:
    """Landmarks in the LiDAR's frame at the stamp."""
    return transform_points(invert(vehicle(stamp) @ MOUNTINGS["lidar"]), LANDMARKS)


def distorted_camera() -> Camera:
    """A lens that moves pixels by several pixels at the border."""
    return Camera(K, WIDTH, HEIGHT, "plumb_bob", np.array([-0.5, 0.15, 0.001, -0.001, 0.0]))


def picture(camera: Camera) -> np.ndarray:
    """(h, w, 3) uint8 BGR: what a camera sees of a world that is a smooth pattern of directions, another one in each colour."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = camera.rays(np.stack([columns, rows], -1).astype(np.float64))
    x, y = rays[..., 0], rays[..., 1]
    channels = [128 + 90 * np.sin(5 * x), 128 + 90 * np.cos(4 * y), 128 + 90 * np.sin(4 * (x + y))]
    return np.nan_to_num(np.stack(channels, -1)).round().clip(0, 255).astype(np.uint8)


def raw(make: Messages, stamp: int, frame: str, encoding: str, pixels: np.ndarray, pad: int = 0) -> Event:
    """An Image event; rows are padded by ``pad`` bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    message = make.make(
        IMAGE,
        header=make.header(stamp, frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )
    return Event(stamp, f"/{frame}/image_raw", IMAGE, message)
