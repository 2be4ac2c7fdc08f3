"""What a benchmark is fed with: the pictures of a rig at one moment, from nowhere, a dataset or a bag."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import EGO_R_OPTICAL, Camera, ego_ref_T_cam, make_transform, rotation_z

SYNTHETIC_SIZE = (1600, 900)
"""Width, height, as of nuScenes' cameras."""

CAMERAS = 6
FIELD_OF_VIEW_DEG = 70.0
HEIGHT_M = 1.6
JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False)
class RigSet:
    """The pictures of all cameras at one moment.

    Attributes:
        names: of the cameras.
        pictures: of each camera: encoded, or decoded pixels (h, w, 3) uint8 BGR.
        cameras: calibration of each.
        ego_T_cam: (N, 4, 4), base frame at the reference time.
    """

    names: tuple[str, ...]
    pictures: tuple[bytes | np.ndarray, ...]
    cameras: tuple[Camera, ...]
    ego_T_cam: np.ndarray

    @property
    def encoded_bytes(self) -> int:
        """Of all pictures, as they arrive."""
        return sum(len(p) if isinstance(p, bytes) else p.nbytes for p in self.pictures)


def camera_ring(width: int, height: int) -> tuple[Camera, np.ndarray]:
    """Six cameras all around, evenly: the calibration that each has, and ego_T_cam (6, 4, 4)."""
    focal = width / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG / 2))
    K = np.array([[focal, 0.0, width / 2 - 0.5], [0.0, focal, height / 2 - 0.5], [0.0, 0.0, 1.0]])
    turns = [2 * math.pi * i / CAMERAS for i in range(CAMERAS)]
    poses = [make_transform(rotation_z(turn) @ EGO_R_OPTICAL, (0.0, 0.0, HEIGHT_M)) for turn in turns]
    return Camera(K, width, height), np.stack(poses)


def synthetic_sets(count: int, size: tuple[int, int] = SYNTHETIC_SIZE, seed: int = 0) -> list[RigSet]:
    """Six cameras all around, whose JPEGs take about as many bytes as those of a street."""
    rng = np.random.default_rng(seed)
    camera, ego_T_cam = camera_ring(*size)
    names = tuple(f"cam_{i}" for i in range(CAMERAS))
    return [
        RigSet(names, tuple(_jpeg(_picture(size, rng)) for _ in names), (camera,) * CAMERAS, ego_T_cam)
        for _ in range(count)
    ]


def _picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Something with large shapes and small ones, as pictures have."""
    picture = np.full((size[1], size[0], 3), 110.0, np.float32)
    # Each finer grid is weaker: a photograph's contrast falls with its frequency.
    for cells, contrast in ((4, 40.0), (16, 25.0), (64, 14.0), (256, 5.0)):
        rows = max(2, cells * size[1] // size[0])
        coarse = rng.normal(0.0, contrast, (rows, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def dataset_sets(root: Path, version: str | None, preferred: Sequence[str], count: int) -> list[RigSet]:
    """The first keyframes of a dataset in the nuScenes schema, with the cameras ``preferred`` where it has them all, else its own.

    Raises:
        UserError: it is no such dataset, or a picture is missing.
    """
    from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes

    nusc = open_nuscenes(root, version)
    channels = {sensor["channel"] for sensor in nusc.sensor if sensor["modality"] == "camera"}
    chosen = tuple(preferred) if preferred and set(preferred) <= channels else None
    samples = NuScenesSamples(nusc, choose_samples(nusc)[:count], (), None, chosen)
    sets = []
    for index in range(len(samples)):
        geometry, records = samples.geometry(index), samples.records(index)
        places = [i for i, name in enumerate(samples.cameras) if name in records]
        names = tuple(samples.cameras[i] for i in places)
        pictures = tuple(_read(Path(nusc.dataroot) / records[name]["filename"]) for name in names)
        cameras = tuple(samples.camera(records[name]) for name in names)
        sets.append(RigSet(names, pictures, cameras, geometry.ego_T_cam[places]))
    return _all_alike(sets, str(root))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def bag_sets(path: Path, rig_file: Path | None, count: int) -> list[RigSet]:
    """The first keyframes of a bag.

    Args:
        rig_file: names the topics, as for ``convert``; None: they are guessed.

    Raises:
        UserError: it is no bag, or has no such topic, calibration or transforms.
    """
    from bevdistill_ros.files import parse_yaml
    from bevdistill_ros.images import raw_image
    from bevdistill_ros.plain_data import from_dict
    from bevdistill_ros.training.convert.bag import Bag, read_header
    from bevdistill_ros.training.convert.drops import Drops
    from bevdistill_ros.training.convert.guess import guess
    from bevdistill_ros.training.convert.plan import Geometry, Keyframe, plan
    from bevdistill_ros.training.convert.rig_file import Rig, load_rig
    from bevdistill_ros.training.convert.scan import scan

    rig = load_rig(rig_file) if rig_file else from_dict(Rig, parse_yaml(guess([path])), f"{path}: its rig")
    topics = {camera.image: channel for channel, camera in rig.cameras.items()}
    names = tuple(rig.cameras)
    with Bag(path) as bag:
        drops = Drops()
        keyframes: list[tuple[Geometry, Keyframe]] = []
        for part in scan(bag, rig, drops):
            geometry = Geometry(part, rig)
            for scene in plan(geometry, drops, "none", str(bag.path)):
                keyframes += [(geometry, keyframe) for keyframe in scene.keyframes]
        keyframes = keyframes[:count]
        if not keyframes:
            reasons = "; ".join(f"{row['where']}: {row['reason']}" for row in drops.rows()[:1])
            raise UserError(f"{path}: holds no set of images of all cameras{': ' + reasons if reasons else ''}")
        wanted = {(channel, keyframe.readings[channel]) for _, keyframe in keyframes for channel in names}
        found: dict[tuple[str, int], bytes | np.ndarray] = {}
        for topic, _, data in bag.messages(topics):
            key = (topics[topic], read_header(data)[0])
            if key in wanted and key not in found:
                message = bag.deserialise(topic, data)
                try:
                    found[key] = raw_image(message) if hasattr(message, "encoding") else bytes(message.data)
                except ValueError as error:
                    raise UserError(f"{path}: {topic}: {error}") from None
                if len(found) == len(wanted):
                    break
    sets = []
    for geometry, keyframe in keyframes:
        stamps = [keyframe.readings[name] for name in names]
        at_reference = geometry.vehicle(stamps[0])
        poses = [
            ego_ref_T_cam(at_reference, geometry.vehicle(stamp), geometry.mounting(name, stamp))
            for name, stamp in zip(names, stamps)
        ]
        cameras = tuple(geometry.camera(name, stamp) for name, stamp in zip(names, stamps))
        pictures = tuple(found[name, stamp] for name, stamp in zip(names, stamps))
        sets.append(RigSet(names, pictures, cameras, np.stack(poses)))
    return _all_alike(sets, str(path))


def _all_alike(sets: Iterable[RigSet], where: str) -> list[RigSet]:
    """Those with the most cameras: times of fewer would be of something else."""
    sets = list(sets)
    most = max((len(one.names) for one in sets), default=0)
    if not most:
        raise UserError(f"{where}: holds no set of images")
    return [one for one in sets if len(one.names) == most]
