"""A nuScenes scene as a rosbag2 bag: what a robot that drove it would have recorded.

``<cam>`` is the channel in lower case: CAM_FRONT is recorded on /cam_front/..., in the frame cam_front.

    /<cam>/image_raw/compressed  sensor_msgs/CompressedImage: the file's own bytes; or, with ``raw``,
    /<cam>/image_raw             sensor_msgs/Image, bgr8
    /<cam>/camera_info           sensor_msgs/CameraInfo with every image; nuScenes' images are undistorted, so D is zero
    /<lidar>/points              sensor_msgs/PointCloud2, the file's own bytes: x, y, z (m, sensor frame), intensity,
                                 ring, all float32; a LiDAR's stamp is the END of its turn
    /annotations                 vision_msgs/Detection3DArray in base_link at every keyframe: objects of the detection
                                 classes only; id is the instance token
    /tf_static                   base_link -> each camera and LiDAR
    /tf                          map -> base_link: the ego pose of EVERY sensor reading; each image has one at its stamp

Header stamps are nuScenes' microseconds times 1000, and log times equal them. nuScenes' ego frame is base_link (x
forward, y left, z up) and its camera frames are optical, so no axes change; its quaternions are (w, x, y, z), ROS's
(x, y, z, w).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import (
    invert,
    make_transform,
    rotation_from_quaternion,
    transform_points,
)
from bevdistill_ros.images import check_image_size
from bevdistill_ros.training.data.bags import BagWriter
from bevdistill_ros.training.data.inside import inside
from bevdistill_ros.training.data.messages import (
    BASE_FRAME,
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    FIXED_FRAME,
    IMAGE,
    POINT_CLOUD,
    TF,
    Messages,
    TruthBox,
)

if TYPE_CHECKING:
    from nuscenes import NuScenes

POINT_FIELDS = ("x", "y", "z", "intensity", "ring")  # float32 each, in the order of nuScenes' .pcd.bin files


@dataclass(frozen=True)
class Options:
    """What goes into the bag.

    Attributes:
        storage: 'mcap' or 'sqlite3'.
        raw: decoded bgr8 images instead of the files' compressed bytes.
        cameras: channels to write, in any case ('CAM_FRONT', 'cam_front'); empty for all.
        keyframes_only: leave out the camera and LiDAR readings between keyframes (ego poses stay).
        repeat: how often the scene is written, each time ``period`` ns later: images, poses and annotations alike.
        period: see ``repeat``; longer than the scene.
        force: replace a bag that is there.
    """

    storage: str = "mcap"
    raw: bool = False
    cameras: tuple[str, ...] = ()
    keyframes_only: bool = False
    repeat: int = 1
    period: int = 500_000_000
    force: bool = False


@dataclass(frozen=True)
class _Event:
    """A message to be: its stamp (ns), place among messages of one stamp, topic, and how to build it for a stamp."""

    stamp: int
    rank: int
    topic: str
    build: Callable[[int], Any]


# Among equal stamps: transforms come before what needs them, calibration before its image.
_STATIC, _POSE, _INFO, _IMAGE, _POINTS, _ANNOTATION = range(6)


def choose_scenes(nuscenes: NuScenes, names: Sequence[str]) -> list[dict]:
    """Scene records by name, in the order given; all scenes for no names.

    Raises:
        UserError: a name is not in the tables.
    """
    by_name = {scene["name"]: scene for scene in nuscenes.scene}
    if unknown := [name for name in names if name not in by_name]:
        some = ", ".join(sorted(by_name)[:12]) + (", ..." if len(by_name) > 12 else "")
        raise UserError(f"{nuscenes.table_root}: no scene '{unknown[0]}'; there are {len(by_name)}: {some}")
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(nuscenes.scene)


def write_scene(
    nuscenes: NuScenes, scene: dict, output: Path, options: Options, progress: Callable[[int, int], None] | None = None
) -> dict:
    """Write one scene as the bag ``output`` (a directory that appears when it is complete).

    ``progress(done, total)`` is called after each message. Returns the summary that docs/bags.md describes.

    Raises:
        UserError: tables or files that cannot be what they claim to be; the message names them.
    """
    with BagWriter(output, options.storage, force=options.force) as bag:
        plan = _Plan(nuscenes, scene, options, bag.messages)
        for topic, msgtype in plan.topics.items():
            bag.add_topic(topic, msgtype, latched=topic == "/tf_static")
        total = len(plan.events) * options.repeat
        done = 0
        for index in range(options.repeat):
            shift = index * options.period
            for event in plan.events:
                if event.rank == _STATIC and index:
                    continue
                bag.write(event.topic, event.stamp + shift, event.build(event.stamp + shift))
                done += 1
                if progress:
                    progress(done, total)
        first = plan.events[0].stamp
        last = plan.events[-1].stamp + (options.repeat - 1) * options.period
        return {
            "bag": str(output),
            "scene": scene["name"],
            "storage": options.storage,
            "start_ns": first,
            "end_ns": last,
            "duration_s": (last - first) / 1e9,
            "messages": dict(bag.counts),
            "unmapped_annotations": dict(sorted(plan.unmapped.items())),
        }


class _Plan:
    """The messages of a scene in order of time, from the tables alone; files are opened when a message is built."""

    def __init__(self, nuscenes: NuScenes, scene: dict, options: Options, messages: Messages) -> None:
        self.nuscenes = nuscenes
        self.make = messages
        self.topics: dict[str, str] = {}
        self.events: list[_Event] = []
        self.unmapped: Counter[str] = Counter()

        samples = sorted(
            (s for s in nuscenes.sample if s["scene_token"] == scene["token"]), key=lambda s: s["timestamp"]
        )
        tokens = {sample["token"] for sample in samples}
        readings = sorted(
            (r for r in nuscenes.sample_data if r["sample_token"] in tokens),
            key=lambda r: (r["timestamp"], r["channel"]),
        )
        if not readings:
            raise UserError(f"{nuscenes.table_root}: scene '{scene['name']}' has no sensor data")
        if (
            options.repeat > 1
            and (span := 1000 * (readings[-1]["timestamp"] - readings[0]["timestamp"])) >= options.period
        ):
            raise UserError(
                f"scene '{scene['name']}' lasts {span / 1e9:.3f} s: repeating it needs a longer --period than "
                f"{options.period / 1e9:.3f} s"
            )
        poses = self._poses(readings)
        used = self._choose(readings, options)
        for stamp, pose in poses.items():
            self._pose(stamp, pose)
        for reading in used:
            if reading["sensor_modality"] == "camera":
                self._image(reading, options.raw)
            else:
                self._points(reading)
        for sample in samples:
            self._annotations(sample, poses)
        self._static(used)
        self.events.sort(key=lambda event: (event.stamp, event.rank, event.topic))

    def _add(self, stamp: int, rank: int, topic: str, msgtype: str, build: Callable[[int], Any]) -> None:
        self.topics.setdefault(topic, msgtype)
        self.events.append(_Event(stamp, rank, topic, build))

    def _poses(self, readings: list[dict]) -> dict[int, dict]:
        """Ego poses of all readings by stamp (ns), in order of time, one a stamp."""
        poses: dict[int, dict] = {}
        for reading in readings:
            pose = self.nuscenes.get("ego_pose", reading["ego_pose_token"])
            known = poses.setdefault(1000 * reading["timestamp"], pose)
            if not np.allclose(known["translation"], pose["translation"], atol=0.01):
                raise UserError(
                    f"{self.nuscenes.table_root}/ego_pose.json: {known['token']} and {pose['token']} are two places at "
                    f"one time, {reading['timestamp']} us"
                )
        return poses

    def _choose(self, readings: list[dict], options: Options) -> list[dict]:
        """The camera and LiDAR readings that the options ask for."""
        cameras = {r["channel"] for r in readings if r["sensor_modality"] == "camera"}
        wanted = {name.upper() for name in options.cameras} or cameras
        if unknown := sorted(wanted - cameras):
            raise UserError(
                f"camera '{unknown[0]}' is not in the scene; it has {', '.join(sorted(cameras)) or 'no cameras'}"
            )
        lidars = {r["channel"] for r in readings if r["sensor_modality"] == "lidar"}
        return [
            r for r in readings if r["channel"] in wanted | lidars and (r["is_key_frame"] or not options.keyframes_only)
        ]

    def _pose(self, stamp: int, pose: dict) -> None:
        def build(at: int) -> Any:
            transform = self.make.transform(at, FIXED_FRAME, BASE_FRAME, pose["translation"], _xyzw(pose))
            return self.make.tf([transform])

        self._add(stamp, _POSE, "/tf", TF, build)

    def _static(self, readings: list[dict]) -> None:
        """base_link -> sensor for every channel used. A channel has one mounting: static transforms hold throughout."""
        mountings: dict[str, dict] = {}
        for reading in readings:
            mounting = self.nuscenes.get("calibrated_sensor", reading["calibrated_sensor_token"])
            known = mountings.setdefault(reading["channel"], mounting)
            if known["translation"] != mounting["translation"] or known["rotation"] != mounting["rotation"]:
                raise UserError(
                    f"{self.nuscenes.table_root}/calibrated_sensor.json: {reading['channel']} is mounted in two ways "
                    f"in one scene ({known['token']}, {mounting['token']})"
                )

        def build(at: int) -> Any:
            transforms = [
                self.make.transform(at, BASE_FRAME, channel.lower(), mounting["translation"], _xyzw(mounting))
                for channel, mounting in sorted(mountings.items())
            ]
            return self.make.tf(transforms)

        self._add(min(event.stamp for event in self.events), _STATIC, "/tf_static", TF, build)

    def _file(self, reading: dict) -> Path:
        where = f"{self.nuscenes.table_root}/sample_data.json: filename"
        return inside(self.nuscenes.dataroot, reading["filename"], where)

    def _image(self, reading: dict, raw: bool) -> None:
        frame = reading["channel"].lower()
        stamp = 1000 * reading["timestamp"]
        width, height = reading["width"], reading["height"]
        path = self._file(reading)
        mounting = self.nuscenes.get("calibrated_sensor", reading["calibrated_sensor_token"])
        K = np.array(mounting["camera_intrinsic"], dtype=np.float64)
        if K.shape != (3, 3):
            raise UserError(
                f"{self.nuscenes.table_root}/calibrated_sensor.json: {mounting['token']} ({reading['channel']}) has no "
                "3x3 camera_intrinsic"
            )

        def build_info(at: int) -> Any:
            return self.make.camera_info(at, frame, K, width, height)

        def build_compressed(at: int) -> Any:
            return self.make.compressed_image(at, frame, *read_image_file(path, width, height))

        def build_raw(at: int) -> Any:
            return self.make.image(at, frame, _decode(path, width, height))

        self._add(stamp, _INFO, f"/{frame}/camera_info", CAMERA_INFO, build_info)
        if raw:
            self._add(stamp, _IMAGE, f"/{frame}/image_raw", IMAGE, build_raw)
        else:
            self._add(stamp, _IMAGE, f"/{frame}/image_raw/compressed", COMPRESSED_IMAGE, build_compressed)

    def _points(self, reading: dict) -> None:
        frame = reading["channel"].lower()
        path = self._file(reading)
        step = 4 * len(POINT_FIELDS)

        def build(at: int) -> Any:
            data = _read(path)
            if len(data) % step:
                raise UserError(f"{path}: {len(data)} bytes are not whole points of {step} bytes; the file is damaged")
            return self.make.point_cloud(at, frame, POINT_FIELDS, data)

        self._add(1000 * reading["timestamp"], _POINTS, f"/{frame}/points", POINT_CLOUD, build)

    def _annotations(self, sample: dict, poses: dict[int, dict]) -> None:
        """The annotated boxes of a keyframe in base_link at its time, with their whole rotation (roll, pitch too)."""
        from nuscenes.eval.detection.utils import category_to_detection_name

        stamp = 1000 * sample["timestamp"]
        base_T_map = invert(_pose_at(poses, stamp, f"{self.nuscenes.table_root}/sample.json: {sample['token']}"))
        boxes: list[TruthBox] = []
        for token in sample["anns"]:
            annotation = self.nuscenes.get("sample_annotation", token)
            name = category_to_detection_name(annotation["category_name"])
            if name is None:
                self.unmapped[annotation["category_name"]] += 1
                continue
            center = transform_points(base_T_map, np.array(annotation["translation"]))
            rotation = base_T_map[:3, :3] @ rotation_from_quaternion(_xyzw(annotation))
            width, length, height = annotation["size"]
            boxes.append(TruthBox(name, annotation["instance_token"], center, rotation, [length, width, height]))

        def build(at: int) -> Any:
            return self.make.truth(at, BASE_FRAME, boxes)

        self._add(stamp, _ANNOTATION, "/annotations", DETECTIONS, build)


def read_image_file(path: Path, width: int, height: int) -> tuple[bytes, str]:
    """The bytes of an image file, unchanged, and their format ('jpeg' or 'png'), without decoding it.

    Raises:
        UserError: the file is missing, is neither format, is cut off, or is not ``width`` x ``height`` pixels.
    """
    data = _read(path)
    if data.startswith(b"\xff\xd8"):
        image_format, size = "jpeg", _jpeg_size(data)
        complete = data.rfind(b"\xff\xd9", -4096) > 0  # some writers pad behind the end marker
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        image_format, size = "png", (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        complete = b"IEND" in data[-64:]
    else:
        raise UserError(f"{path}: neither a JPEG nor a PNG image ({len(data)} bytes); the file is damaged")
    if size is None or not complete:
        raise UserError(f"{path}: the {image_format} image is cut off ({len(data)} bytes); the file is damaged")
    if size != (width, height):
        raise UserError(
            f"{path}: the image has {size[0]}x{size[1]} pixels, its table (sample_data.json) says {width}x{height}"
        )
    return data, image_format


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's frame header; None where there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # any start of frame
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _decode(path: Path, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 BGR pixels of an image file."""
    import cv2

    data, _ = read_image_file(path, width, height)
    try:
        check_image_size(width, height)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape != (height, width, 3):
        raise UserError(f"{path}: the image cannot be decoded; the file is damaged")
    return pixels


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; is this part of the dataset downloaded?") from error


def _xyzw(record: dict) -> np.ndarray:
    """Unit quaternion (x, y, z, w) of a record's ``rotation``, which is (w, x, y, z)."""
    w, x, y, z = record["rotation"]
    q = np.array([x, y, z, w], dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise UserError(f"rotation {record['rotation']} of record {record['token']} is no quaternion")
    return q / norm


def _matrix(pose: dict) -> np.ndarray:
    return make_transform(rotation_from_quaternion(_xyzw(pose)), pose["translation"])


def _pose_at(poses: dict[int, dict], stamp: int, what: str) -> np.ndarray:
    """map_T_base at a stamp: the ego pose of that very time, as in nuScenes, or the one between its neighbours.

    Raises:
        UserError: the stamp lies outside the drive; ``what`` names it.
    """
    if stamp in poses:
        return _matrix(poses[stamp])
    times = np.array(list(poses))
    after = int(np.searchsorted(times, stamp))
    if after in (0, len(times)):
        raise UserError(f"{what} has timestamp {stamp // 1000} us, where the scene has no ego poses")
    from pyquaternion import Quaternion

    before, behind = poses[int(times[after - 1])], poses[int(times[after])]
    fraction = float(stamp - times[after - 1]) / float(times[after] - times[after - 1])
    rotation = Quaternion.slerp(
        Quaternion(before["rotation"]), Quaternion(behind["rotation"]), fraction
    ).rotation_matrix
    translation = (1 - fraction) * np.array(before["translation"]) + fraction * np.array(behind["translation"])
    return make_transform(rotation, translation)
