"""Reading rosbag2 bags (mcap, sqlite3; split, compressed) one message at a time, without ROS."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml
from bevdistill_ros.training.data.bags import typestore

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

# For bags that hold no definitions, as Humble's do. A test compares with msg/.
OBJECT_MSGS = {
    "bevdistill_ros/msg/DetectedObject": (
        "string class_name\nfloat64 score\ngeometry_msgs/Pose pose\ngeometry_msgs/Vector3 size\n"
        "geometry_msgs/Vector3 velocity\n"
    ),
    "bevdistill_ros/msg/DetectedObjectArray": (
        "std_msgs/Header header\nstring[] cameras\nbool[] used\nbuiltin_interfaces/Time[] stamps\nbool partial\n"
        "bevdistill_ros/DetectedObject[] objects\n"
    ),
}


class Bag:
    """An open bag; a context manager.

    Attributes:
        name: of its folder, or its file without the suffix: letters, digits, '_', '-' and '.'.
        types: message type by topic.
        counts: number of messages by topic.

    Raises:
        UserError: it is no bag, or cannot be read; when opening or in the middle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # '__' ends the recording's part of a file name.
        self.name = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_.-]", "_", _stem(self.path)))
        self.types: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._stores: dict[str, Typestore] = {}

    def __enter__(self) -> Bag:
        from rosbags.rosbag2 import Reader

        if not self.path.exists():
            raise UserError(f"{self.path}: there is no such bag")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise UserError(
                f"{self.path}: is no bag: it has no metadata.yaml; a recording that was cut off is mended by `ros2 bag reindex`"
            )
        if self.path.is_dir():
            read_yaml(self.path / "metadata.yaml")  # rosbags' own parser has no bounds
        with self._readable():
            self._reader = Reader(self.path)
            self._reader.open()
        self._connections: dict[str, Connection] = {}
        for connection in self._reader.connections:
            self.types[connection.topic] = connection.msgtype
            self.counts[connection.topic] = self.counts.get(connection.topic, 0) + connection.msgcount
            self._connections[connection.topic] = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.close()

    @property
    def start(self) -> int:
        """Log time (ns) of the first message."""
        return self._reader.start_time

    @property
    def end(self) -> int:
        """Log time (ns) of the last message."""
        return self._reader.end_time

    @property
    def duration(self) -> int:
        """ns of log time, at least one."""
        return max(self.end - self.start, 1)

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, log time (ns) and serialised message, in the order of the recording; log times from start until before stop."""
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        if not wanted:
            return
        with self._readable():
            for connection, time, data in self._reader.messages(wanted, start=start, stop=stop):
                yield connection.topic, time, data

    def deserialise(self, topic: str, data: bytes) -> Any:
        """The message.

        Raises:
            UserError: its type is not known, or the bytes are no such message.
        """
        msgtype = self.types[topic]
        if msgtype not in self._stores:
            self._stores[msgtype] = self._store_of(self._connections[topic])
        try:
            return self._stores[msgtype].deserialize_cdr(data, msgtype)
        except Exception as error:  # generated code: whatever a wrong length leads to
            raise UserError(
                f"{self.path}: {topic}: a message is no {msgtype} ({type(error).__name__}); the bag is damaged"
            ) from None

    def _store_of(self, connection: Connection) -> Typestore:
        """The types of a connection: from the definition in the bag, else those that a ROS 2 installation brings."""
        from rosbags.interfaces import MessageDefinitionFormat
        from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

        text, kind = connection.msgdef.data, connection.msgdef.format
        if kind == MessageDefinitionFormat.NONE:
            store = typestore()
            for name, definition in OBJECT_MSGS.items():
                store.register(get_types_from_msg(definition, name))
            if connection.msgtype not in store.types:
                raise UserError(
                    f"{self.path}: {connection.topic}: the bag has no definition of its type {connection.msgtype}, "
                    "which no ROS 2 installation brings either"
                )
            return store
        store = get_typestore(Stores.EMPTY)
        try:
            if kind == MessageDefinitionFormat.MSG:
                store.register(get_types_from_msg(text, connection.msgtype))
            else:
                for part in re.split(r"^={80}\n", text, flags=re.MULTILINE):
                    if part.strip():
                        store.register(get_types_from_idl(re.sub(r"\AIDL: .*\n", "", part)))
        except Exception as error:  # the parser's own kinds and whatever they come from
            raise UserError(
                f"{self.path}: {connection.topic}: the definition of {connection.msgtype} cannot be read "
                f"({' '.join(str(error).split())})"
            ) from None
        return store

    def _readable(self) -> _Readable:
        return _Readable(self.path)


class _Readable:
    """Turns the many ways in which a damaged bag fails into one error that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import apsw
        from rosbags.rosbag2 import ReaderError

        # zstd's and lz4's errors have no base of their own; struct, index and type errors are a short read's.
        damaged = (
            ReaderError, apsw.Error, zlib.error, struct.error, RuntimeError, EOFError, IndexError, KeyError, TypeError,
            ValueError, AssertionError, OSError,
        )  # fmt: skip
        if error is None or isinstance(error, UserError) or not (isinstance(error, damaged) or _is_zstd(error)):
            return
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(
            f"{self.path}: cannot be read ({reason or type(error).__name__}); the bag is damaged or cut off: "
            "`ros2 bag reindex` or `mcap recover` may mend it"
        ) from None


def _is_zstd(error: BaseException) -> bool:
    return type(error).__name__ == "ZstdError"


def _stem(path: Path) -> str:
    path = path.absolute()
    return path.name if path.is_dir() else path.stem


def read_header(data: bytes) -> tuple[int, str]:
    """Stamp (ns) and frame of a serialised message whose first field is a std_msgs/Header, without reading the rest.

    A message that is too short to have one has the stamp 0, like one whose driver has not filled it.
    """
    if len(data) < 16:
        return 0, ""
    order = "<" if data[1] & 1 else ">"
    sec, nanosec, length = struct.unpack_from(f"{order}iII", data, 4)
    return sec * 10**9 + nanosec, bytes(data[16 : 16 + max(length - 1, 0)]).decode(errors="replace")
