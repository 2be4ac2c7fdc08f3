"""The ears of `doctor`: subscribes to what the detector would, for a while, and records the facts that the checks judge."""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import tf2_ros
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from bevdistill_ros.camera_offsets import MS
from bevdistill_ros.doctor.facts import Arrival, CameraFacts, DdsFacts, Edge, Facts, Publisher, Topic
from bevdistill_ros.doctor.topics import COMPRESSED, INFO, RAW
from bevdistill_ros.geometry import reference_time, rotation_from_quaternion
from bevdistill_ros.images import encoded_size
from bevdistill_ros.node.calibration import CalibrationStore, FileCalibration, Mount, TransformSource
from bevdistill_ros.node.messages import image_source
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.stamps import stamp_ns

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"fast(rtps|dds)_[0-9a-f]+")
_DIGEST_BYTES = 1 << 16  # of a picture: enough to tell two apart, and cheap for raw ones
_STEP_S = 0.05


@dataclass
class _Camera:
    """What has come of one camera so far."""

    arrivals: list[Arrival] = field(default_factory=list)
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)  # ordered
    newest: Any = None
    info: Any = None
    variants: int = 0
    problem: str = ""


@dataclass
class _Edge:
    """One transform of TF so far."""

    static: bool
    newest: Any
    delays_ns: list[int] = field(default_factory=list)
    first_s: float = 0.0
    last_s: float = 0.0


class Listening:
    """Subscriptions to everything that the detector hears; ``record`` listens, ``facts`` tells.

    Args:
        node: theirs; it must not be in an executor.
        settings: the detector's, with all cameras named.
        file: the calibration file's cameras.
        dds: as it was before this process joined, its own share being of no interest.
    """

    def __init__(self, node: Node, settings: Settings, file: Mapping[str, FileCalibration], dds: DdsFacts) -> None:
        self._node = node
        self._settings = settings
        self._file = file
        self._dds = dds
        self._seconds = 0.0
        self._calibration = CalibrationStore(file, settings.rectified)
        self._cameras = {name: _Camera() for name in settings.cameras}
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._buffer = tf2_ros.Buffer(node=node)  # which empties it when the node's time jumps back
        self._transforms = TransformSource(self._buffer, settings.base_frame, settings.fixed_frame)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._subscribe()

    def _subscribe(self) -> None:
        settings, node = self._settings, self._node
        best_effort = settings.reliability == "best_effort"
        qos = QoSProfile(
            depth=settings.queue_depth,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        )
        kind = CompressedImage if settings.image_transport == "compressed" else Image
        for name in settings.cameras:
            image_topic, info_topic = settings.image_topic_of(name), settings.camera_info_topic_of(name)
            node.create_subscription(kind, image_topic, lambda m, name=name: self._on_image(name, m), qos)
            if self._calibration.needs_info(name):
                node.create_subscription(CameraInfo, info_topic, lambda m, name=name: self._on_info(name, m), qos)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(TFMessage, "/tf", lambda message: self._on_transforms(message, False), 100)
        node.create_subscription(TFMessage, "/tf_static", lambda message: self._on_transforms(message, True), latched)

    # ---- listening --------------------------------------------------------------------------------------------------

    def record(self, seconds: float) -> None:
        """Listen for so long."""
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, _STEP_S))
        self._seconds = time.monotonic() - began

    def _on_image(self, name: str, message: Any) -> None:
        camera = self._cameras[name]
        data = np.frombuffer(message.data, dtype=np.uint8)
        digest = zlib.crc32(data[:: max(1, len(data) // _DIGEST_BYTES)].tobytes())
        now = self._node.get_clock().now().nanoseconds
        camera.arrivals.append(Arrival(time.monotonic_ns(), now, stamp_ns(message.header.stamp), len(data), digest))
        size = (message.width, message.height) if hasattr(message, "encoding") else encoded_size(data)
        if size is not None:
            camera.sizes[size] = None
        camera.newest = message

    def _on_info(self, name: str, message: CameraInfo) -> None:
        camera = self._cameras[name]
        try:
            changed = self._calibration.hear(name, message)
        except ValueError as error:  # of equal ones only the first raises
            camera.problem, changed = str(error), camera.info is not None
        else:
            if changed:
                camera.problem = ""
        camera.variants += changed or camera.info is None
        camera.info = message

    def _on_transforms(self, message: TFMessage, static: bool) -> None:
        now, steady = self._node.get_clock().now().nanoseconds, time.monotonic()
        for transform in message.transforms:
            key = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            edge = self._edges.setdefault(key, _Edge(static, transform, first_s=steady))
            edge.newest, edge.last_s = transform, steady
            if not static:
                edge.delays_ns.append(now - stamp_ns(transform.header.stamp))
            try:
                if static:
                    self._buffer.set_transform_static(transform, "doctor")
                else:
                    self._buffer.set_transform(transform, "doctor")
            except tf2_ros.TransformException:
                pass  # what cannot be used is missed where it is looked for

    # ---- telling ----------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """What was heard. Transforms for the last images are waited for as long as the detector would."""
        frozen = {name: (tuple(camera.arrivals), camera.newest) for name, camera in self._cameras.items()}
        mounts = {name: self._mount(name, *frozen[name]) for name in self._cameras}
        give_up = time.monotonic() + max(0.3, self._settings.tf_timeout_ms / 1e3)
        while not self._placed(mounts, last=False) and time.monotonic() < give_up:
            self._executor.spin_once(timeout_sec=_STEP_S)
        poses, motion_problem = self._poses(mounts)
        topics = self._graph()
        cameras = tuple(self._camera(name, *frozen[name], mounts[name], *poses[name]) for name in self._cameras)
        return Facts(
            settings=self._settings,
            seconds=self._seconds,
            cameras=cameras,
            topics=topics,
            edges=tuple(self._edge(*key, edge) for key, edge in self._edges.items()),
            static_publishers=self._publishers("/tf_static"),
            motion_problem=motion_problem,
            sim_time=bool(self._node.get_parameter("use_sim_time").value),
            clock_publishers=len(self._publishers("/clock")),
            dds=self._dds,
        )

    def _mount(self, name: str, arrivals: tuple[Arrival, ...], newest: Any) -> Mount:
        frame = newest.header.frame_id if newest is not None else ""
        return self._calibration.mount(name, arrivals[-1].stamp_ns if arrivals else 0, frame)

    def _current(self, mounts: Mapping[str, Mount]) -> dict[str, Mount]:
        """The cameras that were there to the end: one that has gone long ago would need a transform of long ago."""
        newest = max((mount.stamp_ns for mount in mounts.values()), default=0)
        return {name: mount for name, mount in mounts.items() if mount.stamp_ns and newest - mount.stamp_ns < 1000 * MS}

    def _attempt(self, mounts: Mapping[str, Mount], last: bool) -> Any:
        reference = reference_time(
            {name: mount.stamp_ns for name, mount in mounts.items()}, self._settings.reference_camera
        )
        return self._transforms.attempt(mounts, reference, round(self._settings.tf_max_age_ms * MS), last)

    def _placed(self, mounts: Mapping[str, Mount], last: bool) -> bool:
        current = self._current(mounts)
        return not current or self._attempt(current, last) is not None

    def _poses(self, mounts: Mapping[str, Mount]) -> tuple[dict[str, tuple[np.ndarray | None, str]], str]:
        """Each camera's pose as mounted, and why it is not known or not exact; and what hinders the compensation."""
        poses = {}
        for name, mount in mounts.items():
            alone = self._attempt({name: mount}, last=True)  # a single time: no motion
            poses[name] = alone.base_T_camera.get(name), alone.problems.get(name, "")
        current = self._current(mounts)
        return poses, self._attempt(current, last=True).motion_problem if current else ""

    def _camera(
        self,
        name: str,
        arrivals: tuple[Arrival, ...],
        newest: Any,
        mount: Mount,
        base_T_camera: np.ndarray | None,
        pose_problem: str,
    ) -> CameraFacts:
        settings, heard = self._settings, self._cameras[name]
        kind = COMPRESSED if settings.image_transport == "compressed" else RAW
        picture, picture_problem = (None, "") if newest is None else _decoded(newest)
        sizes = dict(heard.sizes)
        if picture is not None:
            sizes[picture.shape[1], picture.shape[0]] = None  # of formats whose header is not read
        info = None
        if self._calibration.needs_info(name):
            info = self._topic(settings.camera_info_topic_of(name), INFO)
        return CameraFacts(
            name=name,
            image=self._topic(settings.image_topic_of(name), kind),
            info=info,
            arrivals=arrivals,
            encoding=getattr(newest, "encoding", None) or getattr(newest, "format", ""),
            sizes=tuple(sizes),
            picture=picture,
            picture_problem=picture_problem,
            info_message=heard.info,
            info_variants=heard.variants,
            intrinsics=self._calibration.intrinsics(name),
            intrinsics_problem=heard.problem,
            frame=mount.frame.lstrip("/"),
            mount_from_file=mount.base_T_camera is not None,
            base_T_camera=base_T_camera,
            pose_problem=pose_problem,
        )

    def _topic(self, name: str, kind: str) -> Topic:
        """By the name as the parameters have it, which rclpy resolves and remaps, once."""
        return Topic(self._node.resolve_topic_name(name), kind, self._publishers(name))

    def _publishers(self, topic: str) -> tuple[Publisher, ...]:
        return tuple(
            Publisher(
                f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                info.topic_type,
                info.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
                info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
            )
            for info in self._node.get_publishers_info_by_topic(topic)
        )

    def _graph(self) -> dict[str, tuple[str, ...]]:
        """Image and CameraInfo topics that somebody publishes."""
        wanted = {RAW, COMPRESSED, INFO}
        return {
            name: tuple(types)
            for name, types in self._node.get_topic_names_and_types()
            if wanted & set(types) and self._node.count_publishers(name)
        }

    @staticmethod
    def _edge(parent: str, child: str, edge: _Edge) -> Edge:
        q = edge.newest.transform.rotation
        try:
            rotation = rotation_from_quaternion((q.x, q.y, q.z, q.w))
        except ValueError:
            rotation = None
        return Edge(parent, child, edge.static, rotation, tuple(edge.delays_ns), edge.last_s - edge.first_s)

    def close(self) -> None:
        """No callback after this."""
        self._executor.shutdown()


def _decoded(message: Any) -> tuple[np.ndarray | None, str]:
    """Pixels (h, w, 3) uint8 BGR of an image message; or None, and why."""
    try:
        source, _ = image_source(message)
        if hasattr(message, "encoding"):
            return np.array(source), ""
        pixels = cv2.imdecode(np.frombuffer(source, dtype=np.uint8), cv2.IMREAD_COLOR)
    except (ValueError, cv2.error) as error:
        return None, " ".join(str(error).split())
    return (pixels, "") if pixels is not None else (None, "it is neither JPEG nor PNG, or damaged")


def dds_facts() -> DdsFacts:
    """What is known of the transport. To be called before this process joins it: ``segments`` are those of others."""
    rmw = rclpy.utilities.get_rmw_implementation_identifier()
    try:
        state = os.statvfs(SHARED_MEMORY)
        files = [path for path in SHARED_MEMORY.iterdir() if _SEGMENT.fullmatch(path.name)]
        return DdsFacts(rmw, state.f_bavail * state.f_frsize, tuple(sorted(path.stat().st_size for path in files)))
    except OSError:  # no such folder, or a segment that went meanwhile
        return DdsFacts(rmw)
