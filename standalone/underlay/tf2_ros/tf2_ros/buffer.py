"""The transform buffer: transforms go in as messages, come out as messages, interpolated in time."""

from __future__ import annotations

import threading
import time as wall

from geometry_msgs.msg import TransformStamped
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.task import Future
from rclpy.time import Time
from tf2_msgs.srv import FrameGraph

from tf2_ros.exceptions import TransformException
from tf2_ros.frame_tree import FrameTree, Pose

DEFAULT_CACHE_TIME = Duration(seconds=10)


def _nanoseconds(time) -> int:
    """Of an rclpy Time or Duration, or of a builtin_interfaces message."""
    if hasattr(time, "nanosec"):
        return time.sec * 1_000_000_000 + time.nanosec
    return time.nanoseconds


def _message(target: str, source: str, pose: Pose, time: int) -> TransformStamped:
    message = TransformStamped()
    message.header.frame_id = target
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
    message.child_frame_id = source
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = pose.translation
    rotation.x, rotation.y, rotation.z, rotation.w = pose.rotation
    return message


class BufferInterface:
    """What any source of transforms offers."""

    def lookup_transform(self, target_frame, source_frame, time, timeout=Duration()):  # noqa: B008 (upstream's default)
        raise NotImplementedError

    def lookup_transform_full(
        self,
        target_frame,
        target_time,
        source_frame,
        source_time,
        fixed_frame,
        timeout=Duration(),  # noqa: B008
    ):
        raise NotImplementedError

    def can_transform(self, target_frame, source_frame, time, timeout=Duration()):  # noqa: B008
        raise NotImplementedError

    def can_transform_full(
        self,
        target_frame,
        target_time,
        source_frame,
        source_time,
        fixed_frame,
        timeout=Duration(),  # noqa: B008
    ):
        raise NotImplementedError


class Buffer(BufferInterface):
    """Keeps the transforms of the last `cache_time` (10 s by default) and answers look-ups from them.

    With a `node`, the buffer follows that node's clock, and empties itself when the clock jumps back, as it does when
    a bag starts over; and it offers the service `tf2_frames`.
    """

    def __init__(self, cache_time: Duration | None = None, node=None):
        self._tree = FrameTree(_nanoseconds(cache_time if cache_time is not None else DEFAULT_CACHE_TIME))
        self._changed = threading.Condition(threading.RLock())
        self._new_data_callbacks: list = []
        if node is not None:
            self.srv = node.create_service(FrameGraph, "tf2_frames", self._answer_frame_graph)
            self.clock = node.get_clock()
        else:
            self.clock = Clock()
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
        self.jump_handle = self.clock.create_jump_callback(threshold, post_callback=self.time_jump_callback)

    def time_jump_callback(self, time_jump: TimeJump) -> None:
        get_logger("tf2_buffer").warning("Detected jump back in time. Clearing tf buffer.")
        self.clear()

    def clear(self) -> None:
        """Forget all transforms but the static ones."""
        with self._changed:
            self._tree.clear()

    def _answer_frame_graph(self, request, response):
        response.frame_yaml = self.all_frames_as_yaml()
        return response

    def all_frames_as_yaml(self) -> str:
        with self._changed:
            lines = []
            for child, link in self._tree.links.items():
                latest = link.latest()
                if latest is not None:
                    lines += [f"{child}:", f"  parent: '{latest[1]}'", f"  broadcaster: '{link.authority}'"]
            return "\n".join(lines) + "\n" if lines else "[]"

    def all_frames_as_string(self) -> str:
        with self._changed:
            latest = {child: link.latest() for child, link in self._tree.links.items()}
        return "".join(
            f"Frame {child} exists with parent {known[1] if known else 'NO_PARENT'}.\n"
            for child, known in latest.items()
        )

    # in

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        self._set(transform, authority, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        self._set(transform, authority, static=True)

    def _set(self, message: TransformStamped, authority: str, static: bool) -> None:
        translation, rotation = message.transform.translation, message.transform.rotation
        with self._changed:
            refused = self._tree.insert(
                message.child_frame_id,
                message.header.frame_id,
                _nanoseconds(message.header.stamp),
                (translation.x, translation.y, translation.z),
                (rotation.x, rotation.y, rotation.z, rotation.w),
                authority,
                static,
            )
            self._changed.notify_all()
            callbacks = list(self._new_data_callbacks)
        if refused is not None:
            get_logger("tf2_buffer").error(f"Ignoring transform from authority '{authority}': {refused}")
        for callback in callbacks:
            callback()

    # out

    def lookup_transform_core(self, target_frame: str, source_frame: str, time) -> TransformStamped:
        with self._changed:
            pose, at = self._tree.lookup(target_frame, source_frame, _nanoseconds(time))
        return _message(target_frame, source_frame, pose, at)

    def lookup_transform_full_core(
        self, target_frame: str, target_time, source_frame: str, source_time, fixed_frame: str
    ) -> TransformStamped:
        with self._changed:
            for frame, argument in (
                (target_frame, "target_frame"),
                (source_frame, "source_frame"),
                (fixed_frame, "fixed_frame"),
            ):
                self._tree.validate(frame, argument)
            fixed_T_source, _ = self._tree.lookup(fixed_frame, source_frame, _nanoseconds(source_time))
            target_T_fixed, at = self._tree.lookup(target_frame, fixed_frame, _nanoseconds(target_time))
        return _message(target_frame, source_frame, target_T_fixed @ fixed_T_source, at)

    def can_transform_core(self, target_frame: str, source_frame: str, time) -> tuple[bool, str]:
        with self._changed:
            return self._tree.can_lookup(target_frame, source_frame, _nanoseconds(time))

    def can_transform_full_core(
        self, target_frame: str, target_time, source_frame: str, source_time, fixed_frame: str
    ) -> tuple[bool, str]:
        try:
            self.lookup_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)
        except TransformException as error:
            return False, str(error)
        return True, ""

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        with self._changed:
            return Time(nanoseconds=self._tree.latest_common_time(target_frame, source_frame))

    def lookup_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = Duration(),  # noqa: B008
    ) -> TransformStamped:
        """target_T_source at `time` (0: the latest), waiting for it up to `timeout`. Raises a TransformException."""
        self.can_transform(target_frame, source_frame, time, timeout)
        return self.lookup_transform_core(target_frame, source_frame, time)

    def lookup_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = Duration(),  # noqa: B008
    ) -> TransformStamped:
        """target(target_time)_T_source(source_time), taking `fixed_frame` as the one that does not move."""
        self.can_transform_full(target_frame, target_time, source_frame, source_time, fixed_frame, timeout)
        return self.lookup_transform_full_core(target_frame, target_time, source_frame, source_time, fixed_frame)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = Duration(),  # noqa: B008
        return_debug_tuple: bool = False,
    ):
        """Whether the transform is known, waiting for it up to `timeout`; with the reason if `return_debug_tuple`."""
        result = self._wait(lambda: self.can_transform_core(target_frame, source_frame, time), timeout)
        return result if return_debug_tuple else result[0]

    def can_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = Duration(),  # noqa: B008
        return_debug_tuple: bool = False,
    ):
        arguments = (target_frame, target_time, source_frame, source_time, fixed_frame)
        result = self._wait(lambda: self.can_transform_full_core(*arguments), timeout)
        return result if return_debug_tuple else result[0]

    def _wait(self, attempt, timeout) -> tuple[bool, str]:
        """`attempt()` until it says yes or `timeout` of real time is over. New transforms must come in meanwhile:
        with a single-threaded executor they cannot, if this is called from a callback."""
        deadline = wall.monotonic() + _nanoseconds(timeout) / 1e9
        with self._changed:
            while True:
                result = attempt()
                remaining = deadline - wall.monotonic()
                if result[0] or remaining <= 0.0:
                    return result
                self._changed.wait(remaining)

    def wait_for_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Future:
        """A future of the transform, done as soon as it is known."""
        return self._future(lambda: self.lookup_transform_core(target_frame, source_frame, time))

    def wait_for_transform_full_async(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> Future:
        arguments = (target_frame, target_time, source_frame, source_time, fixed_frame)
        return self._future(lambda: self.lookup_transform_full_core(*arguments))

    def _future(self, lookup) -> Future:
        future = Future()

        def attempt() -> None:
            if future.done():
                return
            try:
                future.set_result(lookup())
            except TransformException:
                pass  # not yet

        def forget(_) -> None:
            with self._changed:
                if attempt in self._new_data_callbacks:
                    self._new_data_callbacks.remove(attempt)

        with self._changed:
            self._new_data_callbacks.append(attempt)
        future.add_done_callback(forget)
        attempt()
        if future.done():
            forget(future)
        return future

    async def lookup_transform_async(self, target_frame: str, source_frame: str, time: Time) -> TransformStamped:
        return await self.wait_for_transform_async(target_frame, source_frame, time)

    async def lookup_transform_full_async(
        self, target_frame: str, target_time: Time, source_frame: str, source_time: Time, fixed_frame: str
    ) -> TransformStamped:
        return await self.wait_for_transform_full_async(
            target_frame, target_time, source_frame, source_time, fixed_frame
        )
