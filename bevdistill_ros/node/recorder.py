"""Keeping what comes on topics, as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

DEPTH = 1000
LOOK_EVERY_S = 0.2
"""While it waits for messages, the caller is asked so often whether it still wants to."""


class Recorder:
    """A node, in a context of its own, that subscribes to topics; a context manager.

    Messages are kept serialised, with the time on /clock at which they came: zero while there is none.

    Args:
        topics: message class by full topic name.
        latched: those of them whose publishers keep their last messages for late subscribers. They are subscribed to last:
            whoever's latched message has come knows of all the other subscriptions, because discovery keeps their order.
    """

    def __init__(self, topics: Mapping[str, type], latched: tuple[str, ...] = ()) -> None:
        self._classes = dict(sorted(topics.items(), key=lambda topic: topic[0] in latched))
        self._latched = latched
        self._changed = threading.Condition()
        self._messages: dict[str, list[tuple[int, bytes]]] = {name: [] for name in topics}

    def __enter__(self) -> Recorder:
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        simulated = Parameter("use_sim_time", value=True)
        self._node = rclpy.create_node(
            "bevdistill_recorder",
            context=self._context,
            parameter_overrides=[simulated],
            start_parameter_services=False,
        )
        for name, message_class in self._classes.items():
            qos = QoSProfile(depth=DEPTH)
            if name in self._latched:
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            self._node.create_subscription(message_class, name, self._keeper(name), qos, raw=True)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="recorder", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.try_shutdown()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _keeper(self, name: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            with self._changed:
                self._messages[name].append((self._node.get_clock().now().nanoseconds, bytes(data)))
                self._changed.notify_all()

        return keep

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def serialised(self, topic: str) -> list[tuple[int, bytes]]:
        """What has come so far: (time in ns, serialised message)."""
        with self._changed:
            return list(self._messages[topic])

    def messages(self, topic: str) -> list[Any]:
        """What has come so far."""
        return [deserialize_message(data, self._classes[topic]) for _, data in self.serialised(topic)]

    def newest(self, topic: str) -> Any:
        """The last message that has come; None before the first."""
        kept = self.serialised(topic)
        return deserialize_message(kept[-1][1], self._classes[topic]) if kept else None

    def wait(self, condition: Callable[[], bool], timeout_s: float, look: Callable[[], None]) -> bool:
        """Until ``condition()`` holds, which is asked whenever something has come; False if it does not within ``timeout_s``.

        ``look()`` is called every so often meanwhile, and ends the waiting by raising an exception.
        """
        give_up = time.monotonic() + timeout_s
        while not condition():
            look()
            if time.monotonic() >= give_up:
                return False
            with self._changed:
                self._changed.wait(LOOK_EVERY_S)
        return True
