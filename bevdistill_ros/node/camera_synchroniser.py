"""The camera synchroniser as a message filter: `bevdistill_ros.synchroniser` between subscriptions and a callback.

In a node:
    filters = {camera: Subscriber(self, CompressedImage, topic, qos_profile=qos) for camera, topic in topics.items()}
    self._synchroniser = CameraSynchroniser(self, filters, Synchroniser(filters, offsets_ns), own_filters=True)
    self._synchroniser.registerCallback(self._on_set)  # called with a CameraSet
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from message_filters import SimpleFilter
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from bevdistill_ros.stamps import header_ns
from bevdistill_ros.synchroniser import MS, CameraSet, InOrder, Synchroniser

LATE_NS = MS
"""A deadline that is noticed so much later was missed: the process was held up."""
CATCH_UP_NS = 20 * MS
"""So long is time then to take what came meanwhile."""


class CameraSynchroniser(SimpleFilter):
    """Chains after any filters of messages with a header, as message_filters' own policies do, and emits CameraSets.

    node         gives the clock on which the deadlines count (simulated time included), the timer and the logger.
    filters      camera name -> filter, one for every camera of `policy`, mostly message_filters.Subscriber.
    policy       the rules; its counters and offset state are there for diagnostics.
    own_filters  True: destroy() also destroys the subscriptions of the filters (their `.sub`). False: whoever made
                 them does; a message_filters filter cannot be disconnected from, what still comes from it is ignored.
    max_pending  while a callback is busy this many sets wait for it; beyond that the oldest is dropped (`superseded`).
    on_error     gets what a callback raises; by default it is logged with its traceback. The synchroniser goes on
                 either way, and the other callbacks get the set too.

    Callbacks run without any lock, one at a time, in the order of the sets, in the thread whose message or deadline closed
    the set. With a multi-threaded executor every subscription may have a mutually exclusive group of its own (in a
    reentrant one a camera's images may overtake each other, and the overtaken ones are late).
    """

    def __init__(
        self,
        node: Node,
        filters: Mapping[str, SimpleFilter],
        policy: Synchroniser,
        *,
        own_filters: bool = False,
        max_pending: int = 4,
        callback_group: CallbackGroup | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ):
        super().__init__()
        if set(filters) != set(policy.cameras):
            raise ValueError(f"filters for {sorted(filters)}, but the policy is for {sorted(policy.cameras)}")
        self.policy = policy
        self.callback_errors = 0
        self._node = node
        self._clock = node.get_clock()
        self._on_error = on_error or self._log_error
        self._output = InOrder(self._call_back, self._log_error, max_pending)
        self._owned = dict(filters) if own_filters else {}
        self._destroyed = False
        self._timer_lock = threading.Lock()  # for the three below; never held while a callback runs
        self._wake_at: int | None = None
        self._armed_at = 0
        self._timer = node.create_timer(1.0, self._on_timer, callback_group=callback_group)
        self._timer.cancel()
        self.input_connections = [
            source.registerCallback(self._on_message, camera) for camera, source in filters.items()
        ]

    @property
    def superseded(self) -> int:
        """Sets dropped because the callback was still busy with older ones."""
        return self._output.superseded

    def signalMessage(self, *msgs: Any) -> None:
        """Hand on to every callback, whatever the others raise."""
        for callback, extra in list(self.callbacks.values()):
            try:
                callback(*msgs, *extra)
            except Exception as error:
                self.callback_errors += 1
                self._on_error(error)

    def destroy(self) -> None:
        """Stop: no callback starts after this. Repeatable, and safe after the node or the context is gone."""
        with self._timer_lock:
            timer, self._timer = self._timer, None
            owned, self._owned = self._owned, {}
            self._destroyed = True
        if timer is not None:
            timer.cancel()
            self._node.destroy_timer(timer)
        for source in owned.values():
            self._node.destroy_subscription(source.sub)
        self.policy.reset()

    def _on_message(self, message: Any, camera: str) -> None:
        if self._destroyed:
            return
        now = self._catch_up()
        sets = self.policy.add(camera, header_ns(message), message, now)
        self._arm(now)
        if sets:
            self._output.put(sets)

    def _catch_up(self) -> int:
        """The time, ns. If a deadline passed while nobody looked, the images that came meanwhile are let in first: executors
        call timers before subscriptions. Simulated time goes in steps, so that lateness there means nothing."""
        now = self._clock.now().nanoseconds
        with self._timer_lock:
            late = self._wake_at is not None and now - self._wake_at > LATE_NS
        if late and not self._clock.ros_time_is_active:
            self.policy.catch_up(now, CATCH_UP_NS)
        return now

    def _on_timer(self) -> None:
        now = self._catch_up()
        with self._timer_lock:
            if self._timer is None:
                return
            self._timer.cancel()
            self._wake_at = None
        sets = self.policy.poll(now)
        self._arm(now)
        if sets:
            self._output.put(sets)

    def _arm(self, now: int) -> None:
        """See to it that the timer wakes us at the next deadline. It may wake us earlier, for one met meanwhile: that
        costs less than setting it anew for every message."""
        deadline = self.policy.next_deadline_ns
        with self._timer_lock:
            if deadline is None or self._timer is None:
                return
            jumped_back = now < self._armed_at
            if self._wake_at is not None and self._wake_at <= deadline and not jumped_back:
                return
            self._wake_at, self._armed_at = deadline, now
            self._timer.timer_period_ns = max(1, deadline - now)
            self._timer.reset()

    def _call_back(self, camera_set: CameraSet) -> None:
        if not self._destroyed:
            self.signalMessage(camera_set)

    def _log_error(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._node.get_logger().error(f"callback of the camera synchroniser failed:\n{text}", throttle_duration_sec=1.0)
