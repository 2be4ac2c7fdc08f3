"""Stand-in for message_filters where no ROS 2 is installed: the same names, arguments and rules, in plain Python.

It is here so that bevdistill_ros runs and is tested against the ROS 2 wheels alone. Where a real message_filters is
installed, that one is used. Stamps are handled as integer nanoseconds throughout.
"""

from __future__ import annotations

import itertools
import threading

from rclpy.clock import ROSClock
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time

__all__ = ["ApproximateTimeSynchronizer", "Cache", "SimpleFilter", "Subscriber", "TimeSynchronizer"]


def _stamp_of(msg, allow_headerless: bool) -> Time | None:
    """The header stamp of `msg`; now() for a message without one if that is allowed, else None and a warning."""
    header = getattr(msg, "header", None)
    stamp = getattr(header, "stamp", None)
    if stamp is not None:
        return stamp if hasattr(stamp, "nanoseconds") else Time.from_msg(stamp)
    if allow_headerless:
        return ROSClock().now()
    get_logger("message_filters").warning(
        f"{type(msg).__name__} has no header stamp and allow_headerless is off: message ignored"
    )
    return None


class SimpleFilter:
    """Something that hands messages on to callbacks."""

    def __init__(self):
        self.callbacks = {}

    def registerCallback(self, cb, *args):
        """Call `cb(*messages, *args)` for every output. Returns the number of the connection."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg):
        """Hand `msg` to every callback, in the order of their registration."""
        for callback, extra in list(self.callbacks.values()):
            callback(*msg, *extra)


class Subscriber(SimpleFilter):
    """A ROS subscription as a filter: `Subscriber(node, message_type, topic, **create_subscription_arguments)`."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.node, message_type, self.topic = args[:3]
        if len(args) < 4:
            kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(message_type, self.topic, self.callback, *args[3:], **kwargs)

    def callback(self, msg):
        self.signalMessage(msg)

    def getTopic(self):
        return self.topic

    def __getattr__(self, key):
        # Reached only for names that the filter itself lacks: the subscription's.
        if key == "sub":
            raise AttributeError(key)  # __init__ did not get as far as the subscription
        return getattr(self.sub, key)


class Cache(SimpleFilter):
    """Passes messages through and keeps the last `cache_size` of them, in the order of arrival."""

    def __init__(self, f, cache_size=1, allow_headerless=False):
        super().__init__()
        self.cache_size = cache_size
        self.allow_headerless = allow_headerless
        self.cache_msgs = []
        self.cache_times = []
        self.connectInput(f)

    def connectInput(self, f):
        self.incoming_connection = f.registerCallback(self.add)

    def add(self, msg):
        stamp = _stamp_of(msg, self.allow_headerless)
        if stamp is None:
            return
        self.cache_times.append(stamp)
        self.cache_msgs.append(msg)
        surplus = len(self.cache_msgs) - self.cache_size
        if surplus > 0:
            del self.cache_msgs[:surplus], self.cache_times[:surplus]
        self.signalMessage(msg)

    def _matching(self, condition):
        return [msg for msg, time in zip(self.cache_msgs, self.cache_times) if condition(time)]

    def getInterval(self, from_stamp, to_stamp):
        """The messages with from_stamp <= stamp <= to_stamp."""
        assert from_stamp <= to_stamp
        return self._matching(lambda time: from_stamp <= time <= to_stamp)

    def getElemAfterTime(self, stamp):
        """The first message at or after `stamp`, or None."""
        return next(iter(self._matching(lambda time: time >= stamp)), None)

    def getElemBeforeTime(self, stamp):
        """The last message at or before `stamp`, or None."""
        return next(reversed(self._matching(lambda time: time <= stamp)), None)

    def getLastestTime(self):  # spelled as upstream spells it
        return self.cache_times[-1] if self.cache_times else None

    def getOldestTime(self):
        return self.cache_times[0] if self.cache_times else None

    def getLast(self):
        return self.getElemAfterTime(self.cache_times[-1]) if self.cache_times else None


class TimeSynchronizer(SimpleFilter):
    """Emits one message of every input as soon as all of them share a stamp.

    `queues[i]` maps stamps (ns) to the messages of input i; beyond `queue_size` the oldest stamp goes first.
    """

    def __init__(self, fs, queue_size):
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.Lock()
        self.connectInput(fs)

    def connectInput(self, fs):
        self.queues = [{} for _ in fs]
        self.input_connections = [
            f.registerCallback(self.add, queue, index) for index, (f, queue) in enumerate(zip(fs, self.queues))
        ]

    def _store(self, queue, stamp_ns, msg):
        queue[stamp_ns] = msg
        while len(queue) > self.queue_size:
            queue.pop(min(queue))

    def _emit(self, stamps_ns):
        """Hand on the messages of one stamp an input, then forget them."""
        self.signalMessage(*(queue[stamp] for queue, stamp in zip(self.queues, stamps_ns)))
        for queue, stamp in zip(self.queues, stamps_ns):
            queue.pop(stamp, None)

    def add(self, msg, my_queue, my_queue_index=None):
        with self.lock:
            self._store(my_queue, Time.from_msg(msg.header.stamp).nanoseconds, msg)
            for stamp in sorted(set.intersection(*map(set, self.queues))):
                self._emit([stamp] * len(self.queues))


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """Emits one message of every input when their stamps lie less than `slop` seconds apart.

    The rule is upstream's Python one. A new message is stored, and each other input offers its stamps within slop of
    it, nearest first. The combinations of these are gone through in that order, and the first whose latest and
    earliest stamp differ by less than slop (strictly) is emitted and removed. Older messages stay.
    """

    def __init__(self, fs, queue_size, slop, allow_headerless=False):
        super().__init__(fs, queue_size)
        self.slop = Duration(seconds=slop)
        self.allow_headerless = allow_headerless

    def add(self, msg, my_queue, my_queue_index=None):
        time = _stamp_of(msg, self.allow_headerless)
        if time is None:
            return
        stamp, slop = time.nanoseconds, self.slop.nanoseconds
        with self.lock:
            self._store(my_queue, stamp, msg)
            candidates = []
            for index, queue in enumerate(self.queues):
                if index == my_queue_index:
                    candidates.append([stamp])
                    continue
                near = sorted((s for s in queue if abs(s - stamp) <= slop), key=lambda s: abs(s - stamp))
                if not near:
                    return
                candidates.append(near)
            for stamps in itertools.product(*candidates):
                # the new message itself may have been the oldest, and evicted
                if max(stamps) - min(stamps) < slop and all(s in q for s, q in zip(stamps, self.queues)):
                    self._emit(stamps)
                    return
