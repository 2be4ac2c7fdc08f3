"""Keeping what comes on topics, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

from bevdistill_ros.node.spinning import SpinningNode

DEPTH = 1000


class Recorder(SpinningNode):
    """A node, in a context of its own, that subscribes to topics; a context manager.

    Messages are kept serialised, with the time on /clock at which they came: zero while there is none.

    Args:
        topics: message class by full topic name.
        latched: those of them whose publishers keep their last messages for late subscribers. They are subscribed to last:
            whoever's latched message has come knows of all the other subscriptions, because discovery keeps their order.
    """

    def __init__(self, topics: Mapping[str, type], latched: tuple[str, ...] = ()) -> None:
        super().__init__("bevdistill_recorder", [Parameter("use_sim_time", value=True)])
        self._classes = dict(sorted(topics.items(), key=lambda topic: topic[0] in latched))
        self._latched = latched
        self._messages: dict[str, list[tuple[int, bytes]]] = {name: [] for name in topics}

    def subscribe(self, node: Node) -> None:
        """To all topics."""
        for name, message_class in self._classes.items():
            qos = QoSProfile(depth=DEPTH)
            if name in self._latched:
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            node.create_subscription(message_class, name, self._keeper(node.get_clock(), name), qos, raw=True)

    def _keeper(self, clock: Clock, name: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            with self.changed:
                self._messages[name].append((clock.now().nanoseconds, bytes(data)))
                self.changed.notify_all()

        return keep

    def serialised(self, topic: str) -> list[tuple[int, bytes]]:
        """What has come so far: (time in ns, serialised message)."""
        with self.changed:
            return list(self._messages[topic])

    def messages(self, topic: str) -> list[Any]:
        """What has come so far."""
        return [deserialize_message(data, self._classes[topic]) for _, data in self.serialised(topic)]

    def newest(self, topic: str) -> Any:
        """The last message that has come; None before the first."""
        kept = self.serialised(topic)
        return deserialize_message(kept[-1][1], self._classes[topic]) if kept else None
