"""Listening beside a program that has other things to do."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

_Own = TypeVar("_Own", bound="SpinningNode")

LOOK_EVERY_S = 0.2
"""While it waits for messages, the caller is asked so often whether it still wants to."""


class SpinningNode(ABC):
    """A node, in a context of its own, whose callbacks run in a thread of their own; a context manager.

    Args:
        name: the node's.
        parameters: values that override its parameters' defaults.

    Attributes:
        changed: whatever a callback writes and the program reads is guarded by it; a callback notifies all.
        node, executor: within the context. Who gives the node more to do while it spins wakes the executor.
    """

    def __init__(self, name: str, parameters: Sequence[Parameter] = ()) -> None:
        self._name = name
        self._parameters = list(parameters)
        self.changed = threading.Condition()

    @abstractmethod
    def subscribe(self, node: Node) -> None:
        """Make the node's subscriptions: called once, before it spins."""

    def __enter__(self: _Own) -> _Own:
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self.node = rclpy.create_node(
            self._name,
            context=self._context,
            parameter_overrides=self._parameters,
            start_parameter_services=False,
        )
        self.subscribe(self.node)
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.try_shutdown()
        self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass

    def wait(self, condition: Callable[[], bool], timeout_s: float, look: Callable[[], None]) -> bool:
        """Until ``condition()`` holds, which is asked whenever something has come; False if it does not within ``timeout_s``.

        ``look()`` is called every so often meanwhile, and ends the waiting by raising an exception. Both are called with
        ``changed`` held.
        """
        give_up = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                look()
                if time.monotonic() >= give_up:
                    return False
                self.changed.wait(LOOK_EVERY_S)
            return True
