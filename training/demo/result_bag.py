"""The result as a bag: all messages of the drive, and among them those of the detector, byte for byte."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.training.data.bags import BagWriter
from bevdistill_ros.training.demo.interfaces import register_installed


@dataclass(frozen=True)
class RecordedTopic:
    """What came on a topic.

    Attributes:
        msgtype: 'vision_msgs/msg/Detection3DArray'.
        latched: whether late subscribers get its last message, too.
        messages: (time of arrival on the bag's clock in ns, serialised message), in order of time.
    """

    msgtype: str
    latched: bool
    messages: Sequence[tuple[int, bytes]]


def write_result_bag(drive: Path, recorded: Mapping[str, RecordedTopic], output: Path) -> None:
    """Write ``drive``'s messages and ``recorded`` ones, by topic, into a bag; one that is there is replaced.

    Raises:
        UserError: ``output`` is something else than a bag, cannot be written, or a message's package is not installed.
    """
    from rosbags.interfaces import QosDurability
    from rosbags.rosbag2 import Reader

    with Reader(drive) as reader, BagWriter(output, force=True) as bag:
        register_installed(bag.store, sorted({topic.msgtype.partition("/")[0] for topic in recorded.values()}))
        for connection in reader.connections:
            offered = connection.ext.offered_qos_profiles
            latched = any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)
            bag.add_topic(connection.topic, connection.msgtype, latched=latched)
        for name, topic in recorded.items():
            bag.add_topic(name, topic.msgtype, latched=topic.latched)
        played = ((stamp, connection.topic, data) for connection, stamp, data in reader.messages())
        found = [_within(name, topic, reader.start_time) for name, topic in recorded.items()]
        for stamp, name, data in heapq.merge(played, *found, key=lambda message: message[0]):
            bag.write_cdr(name, stamp, data)


def _within(name: str, topic: RecordedTopic, start: int) -> Iterator[tuple[int, str, bytes]]:
    """The messages of a topic; what was sent before the first message of the drive, when no clock ran, comes with it."""
    return ((max(stamp, start), name, data) for stamp, data in topic.messages)
