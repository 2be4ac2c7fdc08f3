"""Writing rosbag2 bags without ROS: message types, QoS and an atomic writer, shared by everything that makes bags.

Serialisation and storage are the ``rosbags`` library's. Its type stores hold the interfaces that a ROS 2 installation
brings, tf2_msgs included, but not vision_msgs, so the part of vision_msgs that is written here is defined below. A
machine with pip only has no share/vision_msgs to read it from, and with a single definition for both kinds of
installation they cannot differ. Every bag carries the definitions and their type hashes: readers need nothing of this.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml
from bevdistill_ros.training.data.messages import Messages

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


def is_bag(path: Path) -> bool:
    """Whether a directory is a rosbag2 bag."""
    return (path / "metadata.yaml").is_file()


def custom_data(path: Path) -> dict[str, str]:
    """The custom data of a bag's metadata; nothing where there are none.

    Raises:
        UserError: its metadata cannot be read.
    """
    file = path / "metadata.yaml"
    content = read_yaml(file)
    try:
        return dict(content["rosbag2_bagfile_information"].get("custom_data") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); the bag is damaged") from None


class BagWriter:
    """Writes one bag and puts it in its place only when it is complete.

    Until then it lies in ``<output>.partial``, which is removed when writing fails; what a killed run left there, the
    next one removes. (Storage files are named after the bag's directory, so in there it has its final name already.)
    ``custom_data`` goes into the bag's metadata.

        with BagWriter(Path("drive"), "mcap") as bag:
            bag.add_topic("/chatter", "std_msgs/msg/String")
            bag.write("/chatter", stamp, message)

    Raises:
        UserError: the output exists and ``force`` is not set, or is set and what is there is no bag; writing fails.
    """

    def __init__(
        self, output: Path, storage: str = "mcap", *, force: bool = False, custom_data: Mapping[str, str] | None = None
    ) -> None:
        self.output = Path(output)
        self.partial = self.output.with_name(self.output.name + ".partial")
        self.store = typestore()
        self.messages = Messages(self.store)
        self.counts: dict[str, int] = {}
        self._storage = storage
        self._custom_data = dict(custom_data or {})
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
            for key, value in self._custom_data.items():
                self._writer.set_custom_data(key, value)
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
        self.write_cdr(topic, stamp, self.store.serialize_cdr(message, self._connections[topic].msgtype))

    def write_cdr(self, topic: str, stamp: int, data: bytes | memoryview) -> None:
        """Append a message that is serialised already."""
        try:
            self._writer.write(self._connections[topic], stamp, data)
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
