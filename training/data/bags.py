"""Writing rosbag2 bags without ROS: message types, QoS and an atomic writer, shared by everything that makes bags.

Serialisation and storage are the ``rosbags`` library's. Its type stores hold the interfaces that a ROS 2 installation
brings, tf2_msgs included, but not vision_msgs, so the part of vision_msgs that is written here is defined below. A
machine with pip only has no share/vision_msgs to read it from, and with a single definition for both kinds of
installation they cannot differ. Every bag carries the definitions and their type hashes: readers need nothing of this.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bevdistill_ros.errors import UserError

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

STORAGES = ("mcap", "sqlite3")

# Field for field those of vision_msgs 4.x; a test compares the type hash with an installed vision_msgs.
VISION_MSGS = {
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections\n",
}

# Metadata version 8 writes QoS as a string, which Humble knows and later distributions still read; version 9 does not.
METADATA_VERSION = 8


def typestore() -> Typestore:
    """ROS 2 Jazzy's message types (the written ones have not changed since Humble) and vision_msgs' detections."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, name))
    return store


class Messages:
    """Short constructors for the messages of a recorded drive. Stamps are integer ns, quaternions (x, y, z, w)."""

    def __init__(self, store: Typestore) -> None:
        self.types = store.types

    def make(self, msgtype: str, **fields: Any) -> Any:
        """A message of ``msgtype`` ('sensor_msgs/msg/Image'); every field must be given."""
        return self.types[msgtype](**fields)

    def time(self, stamp: int) -> Any:
        """builtin_interfaces/Time, exact to the nanosecond."""
        return self.make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)

    def header(self, stamp: int, frame: str) -> Any:
        """std_msgs/Header."""
        return self.make("std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame)

    def vector(self, xyz: Sequence[float]) -> Any:
        """geometry_msgs/Vector3."""
        x, y, z = (float(v) for v in xyz)
        return self.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def quaternion(self, xyzw: Sequence[float]) -> Any:
        """geometry_msgs/Quaternion."""
        x, y, z, w = (float(v) for v in xyzw)
        return self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def pose(self, xyz: Sequence[float], xyzw: Sequence[float]) -> Any:
        """geometry_msgs/Pose."""
        x, y, z = (float(v) for v in xyz)
        position = self.make("geometry_msgs/msg/Point", x=x, y=y, z=z)
        return self.make("geometry_msgs/msg/Pose", position=position, orientation=self.quaternion(xyzw))

    def transform(self, stamp: int, parent: str, child: str, xyz: Sequence[float], xyzw: Sequence[float]) -> Any:
        """geometry_msgs/TransformStamped of parent_T_child."""
        return self.make(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp, parent),
            child_frame_id=child,
            transform=self.make(
                "geometry_msgs/msg/Transform", translation=self.vector(xyz), rotation=self.quaternion(xyzw)
            ),
        )


def is_bag(path: Path) -> bool:
    """Whether a directory is a rosbag2 bag."""
    return (path / "metadata.yaml").is_file()


class BagWriter:
    """Writes one bag and puts it in its place only when it is complete.

    Until then it lies in ``<output>.partial``, which is removed when writing fails; what a killed run left there, the
    next one removes. (Storage files are named after the bag's directory, so in there it has its final name already.)

        with BagWriter(Path("drive"), "mcap") as bag:
            bag.add_topic("/chatter", "std_msgs/msg/String")
            bag.write("/chatter", stamp, message)

    Raises:
        UserError: the output exists and ``force`` is not set, or is set and what is there is no bag; writing fails.
    """

    def __init__(self, output: Path, storage: str = "mcap", *, force: bool = False) -> None:
        self.output = Path(output)
        self.partial = self.output.with_name(self.output.name + ".partial")
        self.store = typestore()
        self.messages = Messages(self.store)
        self.counts: dict[str, int] = {}
        self._storage = storage
        self._connections: dict[str, Connection] = {}
        if self.output.exists():
            if not force:
                raise UserError(f"{self.output} exists already; choose another output or replace it with --force")
            if not is_bag(self.output):
                raise UserError(
                    f"{self.output} exists and is not a bag (no metadata.yaml in it), so --force does not remove it"
                )

    def __enter__(self) -> BagWriter:
        from rosbags.rosbag2 import StoragePlugin, Writer

        shutil.rmtree(self.partial, ignore_errors=True)
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[self._storage]
        try:
            self.partial.mkdir(parents=True)
            self._writer = Writer(self.partial / self.output.name, version=METADATA_VERSION, storage_plugin=plugin)
            self._writer.open()
        except OSError as error:
            raise UserError(f"{self.partial}: cannot be written: {error.strerror}") from error
        return self

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Declare a topic. ``latched`` (transient local) means that late subscribers get its last message too."""
        from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

        never = QosTime(9223372036, 854775807)
        qos = Qos(
            QosHistory.KEEP_LAST,
            1 if latched else 10,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            never,
            never,
            QosLiveliness.AUTOMATIC,
            never,
            False,
        )
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=self.store, offered_qos_profiles=[qos]
        )
        self.counts[topic] = 0

    def write(self, topic: str, stamp: int, message: Any) -> None:
        """Append a message with log time ``stamp`` (ns). Call in order of time: players read from front to back."""
        connection = self._connections[topic]
        data = self.store.serialize_cdr(message, connection.msgtype)
        try:
            self._writer.write(connection, stamp, data)
        except OSError as error:
            raise UserError(f"{self.partial}: writing failed: {error.strerror}") from error
        self.counts[topic] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._writer.__exit__(kind, error, traceback)
            if kind is None:
                if self.output.exists():
                    shutil.rmtree(self.output)
                (self.partial / self.output.name).rename(self.output)
        except OSError as failure:
            raise UserError(f"{self.output}: writing failed: {failure.strerror}") from failure
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)
