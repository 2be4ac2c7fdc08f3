"""The verb ``play``: a rosbag2 bag onto ROS 2 topics, for machines without ``ros2 bag``.

Serialised messages are published as they were recorded: header stamps are not touched. With ``--loop`` they therefore
jump back at every start, like the time on /clock; the nodes that listen must cope with that, as with ``ros2 bag play``.

Pace: every message is due at a time of the monotonic clock, from its log time, the start and the rate: errors do not
add up.
QoS: publishers are reliable, which every subscriber can match; topics recorded as transient local are so again.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import importlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bevdistill_ros.arguments import not_negative, positive, split_ros_arguments
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml, write_atomically

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.qos import QoSProfile
    from rosbags.rosbag2 import Reader

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
MINIMUM_DEPTH = 10  # of publishers' histories: bags are bursty
STATIC_DEPTH = 1000  # at most: one publisher replaces all static broadcasters of the robot and must hold what each sent
FLUSH_SECONDS = 4.0  # lost messages are noticed with a heartbeat, which Fast DDS sends every 3 s
LINGER_SECONDS = 0.5  # best-effort subscribers acknowledge nothing, but read what is still in shared memory
SETTLE_SECONDS = 0.5  # a new subscriber's remaining endpoints are discovered within this time
EXAMPLE = """
examples:
  ros2 run bevdistill_ros play drive_bag --rate 0.5 --clock
  bevdistill play drive_bag --loop --wait --remap /cam_front/image_raw/compressed:=/front/image_raw/compressed

Ctrl-C stops at once, with status 0. With --loop, time jumps back at every start: stamps are never changed.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb; names as in ``ros2 bag play`` where it has the option."""
    parser = argparse.ArgumentParser(
        prog="bevdistill play",
        description="Play a rosbag2 bag (mcap or sqlite3, split or compressed too) onto ROS 2 topics.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, help="the bag's directory, or one .mcap or .db3 file")
    parser.add_argument("-r", "--rate", type=positive, default=1.0, metavar="R", help="speed (default: %(default)s)")
    parser.add_argument("-l", "--loop", action="store_true", help="start again at the end, until interrupted")
    parser.add_argument(
        "--clock",
        type=positive,
        nargs="?",
        const=40.0,
        metavar="HZ",
        help="publish /clock at HZ of wall time (40 if not given), for nodes with use_sim_time; default: no /clock",
    )
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="play only these (default: all)")
    parser.add_argument(
        "-m", "--remap", nargs="+", default=[], type=_remapping, metavar="OLD:=NEW", help="publish under another name"
    )
    parser.add_argument(
        "--start-offset",
        type=not_negative,
        default=0.0,
        metavar="S",
        help="start S seconds into the bag; latched messages of before, /tf_static too, are still published, first",
    )
    parser.add_argument(
        "--duration",
        "--playback-duration",
        type=positive,
        metavar="S",
        help="play S seconds of the bag (default: all)",
    )
    parser.add_argument("--delay", type=not_negative, default=0.0, metavar="S", help="sleep S seconds before the start")
    parser.add_argument(
        "--wait",
        "--wait-for-subscribers",
        type=positive,
        nargs="?",
        const=60.0,
        metavar="S",
        help="start only when every image topic (every topic where there is none) has a subscriber, so that nothing is "
        "lost at the start; fails after S seconds (60 if not given)",
    )
    parser.add_argument(
        "--wait-topics", nargs="+", default=[], metavar="TOPIC", help="the topics that --wait waits for"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary to FILE")
    return parser


@dataclass
class Summary:
    """What was played.

    Attributes:
        messages: number published by topic (as named in the bag), latched repetitions included.
        passes: how often the bag was started.
        wall_s: time from the first message to the last.
        max_late_s: the largest delay of a message behind its due time; large where the machine cannot keep the pace.
        interrupted: stopped by a signal.
        skipped: topics not played, and why.
    """

    bag: str
    messages: dict[str, int] = field(default_factory=dict)
    clock_messages: int = 0
    passes: int = 0
    wall_s: float = 0.0
    max_late_s: float = 0.0
    interrupted: bool = False
    skipped: dict[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; returns the exit status. ROS arguments (``--ros-args ...``) may follow the options."""
    own, ros = split_ros_arguments(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(own)
    if args.wait_topics and args.wait is None:
        args.wait = 60.0
    if args.remap:
        ros += ["--ros-args", *(word for rule in args.remap for word in ("-r", rule)), "--"]

    stop = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        summary = _run(args, ros, stop)
    finally:
        if not stop.is_set():  # a stopped player is on its way out: further signals must not break that
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if args.json:
        write_atomically(args.json, json.dumps(asdict(summary), indent=2) + "\n")
    print(
        f"{'interrupted' if summary.interrupted else 'done'}: {sum(summary.messages.values())} messages on "
        f"{len(summary.messages)} topics in {summary.wall_s:.2f} s, {summary.passes} pass(es), at most "
        f"{1e3 * summary.max_late_s:.0f} ms late"
    )
    return 0


def _run(args: argparse.Namespace, ros: list[str], stop: threading.Event) -> Summary:
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from bevdistill_ros.node.refusal import start_ros
    except ImportError as error:
        raise UserError(f"play needs ROS 2 (rclpy); source your ROS 2 setup file first ({error})") from error

    with contextlib.closing(_open(args.bag)) as reader:
        connections = _choose(reader, args.topics, args.bag)
        start_ros(["play", *ros], signal_handler_options=SignalHandlerOptions.NO)
        node = None
        try:
            node = rclpy.create_node("bag_player", start_parameter_services=False)
            return _Player(args, reader, connections, node, stop).play()
        finally:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()


class _Player:
    """Publishers for the chosen topics of an open bag, and the loop that feeds them."""

    def __init__(
        self, args: argparse.Namespace, reader: Reader, connections: list[Any], node: Node, stop: threading.Event
    ) -> None:
        self.args = args
        self.reader = reader
        self.node = node
        self.stop = stop
        self.summary = Summary(str(args.bag))
        self.start = reader.start_time + round(args.start_offset * 1e9)
        self.last = reader.end_time - 1  # the reader's end is one ns after its last message
        if self.start > self.last:
            length = (self.last - reader.start_time) / 1e9
            raise UserError(f"{args.bag} lasts {length:.3f} s: --start-offset {args.start_offset:g} is behind its end")
        if args.duration is not None:
            self.last = min(self.last, self.start + round(args.duration * 1e9))

        self.publishers: dict[str, Any] = {}
        self.connections: list[Any] = []
        self.latched: list[Any] = []
        self._shown = 0.0
        self.clock = self._clock_publisher() if args.clock else None
        for topic in dict.fromkeys(connection.topic for connection in connections):
            self._add(topic, [connection for connection in connections if connection.topic == topic])
        if not self.publishers:
            reasons = "; ".join(f"{topic}: {why}" for topic, why in self.summary.skipped.items())
            raise UserError(f"{args.bag}: nothing to play: {reasons}")

    def _clock_publisher(self) -> Any:
        from rosgraph_msgs.msg import Clock

        return self.node.create_publisher(Clock, "/clock", 1)

    def _add(self, topic: str, connections: list[Any]) -> None:
        """Make the publisher of a topic, or say in one line why it is not played.

        A topic has several connections where publishers of different QoS were recorded; one publisher replaces them.
        """
        msgtype = connections[0].msgtype
        if topic == "/clock" and self.clock:
            return self._skip(topic, "--clock publishes it")
        if any(connection.msgtype != msgtype for connection in connections):
            return self._skip(
                topic, f"recorded with several types: {', '.join(sorted({c.msgtype for c in connections}))}"
            )
        try:
            message_class = _message_class(msgtype)
        except (ImportError, AttributeError) as error:
            return self._skip(topic, f"message type {msgtype} is not installed ({error})")
        qos, latched = _publisher_qos(topic, connections)
        try:
            self.publishers[topic] = self.node.create_publisher(message_class, topic, qos)
        except Exception as error:  # an invalid name, a message without type support, ...: the other topics still play
            return self._skip(topic, f"{msgtype} cannot be published: {error}")
        self.summary.messages[topic] = 0
        self.connections += connections
        if latched:
            self.latched += connections

    def _skip(self, topic: str, why: str) -> None:
        self.summary.skipped[topic] = why
        print(f"skipping {topic}: {why}", file=sys.stderr, flush=True)

    def play(self) -> Summary:
        """Play until the end, or until stopped."""
        if self.args.wait is not None:
            self._wait_for_subscribers()
        self.stop.wait(self.args.delay)
        began = time.monotonic()
        while not self.stop.is_set():
            self.summary.passes += 1
            self._pass()
            if not self.args.loop:
                break
        self.summary.wall_s = time.monotonic() - began
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self._flush()
        self.summary.interrupted = self.stop.is_set()
        return self.summary

    def _pass(self) -> None:
        """Play the bag once."""
        if self.start > self.reader.start_time and self.latched:
            for _, topic, data in self._messages(self.latched, self.reader.start_time, self.start):
                self._publish(topic, data)
        began = time.monotonic()
        messages = self._messages(self.connections, self.start, self.last + 1)
        for stamp, topic, data in heapq.merge(self._ticks(), messages, key=lambda event: event[0]):
            due = began + (stamp - self.start) / 1e9 / self.args.rate
            remaining = due - time.monotonic()
            if self.stop.wait(remaining) if remaining > 0 else self.stop.is_set():
                break
            self.summary.max_late_s = max(self.summary.max_late_s, time.monotonic() - due)
            if topic is not None:
                self._publish(topic, data)
            elif self.clock:
                self._publish_clock(stamp)
            self._show(stamp)

    def _ticks(self) -> Iterator[tuple[int, None, bytes]]:
        """Times (ns) to publish on /clock; in any case the end, up to which a pass lasts."""
        if self.clock:
            step = max(1, round(self.args.rate / self.args.clock * 1e9))
            for stamp in range(self.start, self.last, step):
                yield stamp, None, b""
        yield self.last, None, b""

    def _messages(self, connections: list[Any], start: int, stop: int) -> Iterator[tuple[int, str, bytes]]:
        """Messages of the bag in order as (log time, topic, bytes); ``start`` <= log time < ``stop``.

        Raises:
            UserError: the bag is damaged.
        """
        try:
            for connection, stamp, data in self.reader.messages(connections, start=start, stop=stop):
                yield stamp, connection.topic, bytes(data)
        except Exception as error:  # every storage and compression has its own kinds of error for a damaged file
            raise UserError(f"{self.args.bag}: the bag is damaged: {error}") from error

    def _publish(self, topic: str, data: bytes) -> None:
        self.publishers[topic].publish(data)
        self.summary.messages[topic] += 1

    def _publish_clock(self, stamp: int) -> None:
        from rosgraph_msgs.msg import Clock

        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp, 10**9)
        self.clock.publish(message)
        self.summary.clock_messages += 1

    def _show(self, stamp: int) -> None:
        """One line on a terminal, ten times a second and at the end of a pass."""
        now = time.monotonic()
        if sys.stderr.isatty() and (now - self._shown > 0.1 or stamp == self.last):
            self._shown = now
            done, length = (stamp - self.start) / 1e9, (self.last - self.start) / 1e9
            line = f"\r{done:8.2f} / {length:.2f} s, pass {self.summary.passes} "
            print(line, end="", file=sys.stderr, flush=True)

    def _wait_for_subscribers(self) -> None:
        """Return when the topics waited for have subscribers and no further ones appear; or when stopped.

        Raises:
            UserError: they have none in time; the message names them.
        """
        images = [c.topic for c in self.connections if c.msgtype in IMAGE_TYPES]
        wanted = list(dict.fromkeys(self.args.wait_topics or images or self.publishers))
        if unknown := [topic for topic in wanted if topic not in self.publishers]:
            raise UserError(
                f"--wait-topics: {unknown[0]} is not played; played are {', '.join(sorted(self.publishers))}"
            )
        print(f"waiting for subscribers of {', '.join(wanted)}", flush=True)
        deadline = time.monotonic() + self.args.wait
        counts: dict[str, int] = {}
        changed = time.monotonic()
        while not self.stop.is_set():
            now = time.monotonic()
            current = {topic: publisher.get_subscription_count() for topic, publisher in self.publishers.items()}
            if current != counts:
                counts, changed = current, now
            missing = [topic for topic in wanted if not counts[topic]]
            if not missing and now - changed >= SETTLE_SECONDS:
                return
            if missing and now >= deadline:
                raise UserError(f"no subscriber within {self.args.wait:g} s: {', '.join(missing)}")
            self.stop.wait(0.02)

    def _flush(self) -> None:
        """Give subscribers time for what is on its way: it would be lost with the publishers."""
        from rclpy.duration import Duration

        deadline = time.monotonic() + FLUSH_SECONDS
        for publisher in self.publishers.values():
            while not self.stop.is_set() and time.monotonic() < deadline:
                if publisher.wait_for_all_acked(Duration(seconds=0.05)):
                    break
        self.stop.wait(LINGER_SECONDS)


def _open(path: Path) -> Reader:
    """An opened reader of the bag.

    Raises:
        UserError: no rosbags library, no such bag, or one that cannot be read.
    """
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise UserError(f"reading bags needs the Python package rosbags: pip install rosbags ({error})") from error
    if not path.exists():
        raise UserError(f"{path}: there is no such bag")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(f.name for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
        hint = f"give one of its files ({', '.join(files)}) or run `ros2 bag reindex`" if files else "it is not a bag"
        raise UserError(f"{path}: no metadata.yaml in this directory: {hint}")
    if path.is_dir():
        read_yaml(path / "metadata.yaml")  # rosbags' own parser has no bounds
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # every storage and compression has its own kinds of error for a damaged file
        raise UserError(f"{path}: not a readable rosbag2 bag: {error}") from error
    return reader


def _choose(reader: Reader, topics: Sequence[str], path: Path) -> list[Any]:
    """Connections of the bag for these topics; all for none.

    Raises:
        UserError: a topic is not in the bag, or the bag is empty.
    """
    known = sorted({connection.topic for connection in reader.connections})
    if unknown := [topic for topic in topics if topic not in known]:
        raise UserError(f"{path} has no topic {unknown[0]}; it has {', '.join(known)}")
    if not reader.message_count:
        raise UserError(f"{path}: the bag is empty")
    return [connection for connection in reader.connections if not topics or connection.topic in topics]


def _message_class(msgtype: str) -> type:
    """The Python class of a message type such as 'sensor_msgs/msg/Image'.

    Raises:
        ImportError, AttributeError: its package or the message is not installed.
    """
    from ament_index_python import has_resource

    found = re.fullmatch(r"([a-z]\w*)/msg/([A-Z]\w*)", msgtype, re.ASCII)
    # A bag says what is imported here: nothing but packages that have installed messages.
    if not found or not has_resource("rosidl_interfaces", found[1]):
        raise ImportError("no package of interfaces")
    return getattr(importlib.import_module(f"{found[1]}.msg"), found[2])


def _publisher_qos(topic: str, connections: Sequence[Any]) -> tuple[QoSProfile, bool]:
    """The QoS to publish a topic with, and whether it is latched (transient local).

    Always reliable, which best-effort subscribers match too (a best-effort publisher would match no reliable ones).
    Latched where a recorded publisher was; /tf_static also where the bag tells no QoS.
    """
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rosbags.interfaces import QosDurability, QosHistory

    offered = [qos for connection in connections for qos in connection.ext.offered_qos_profiles]
    latched = any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered) or topic == "/tf_static"
    depth = max([qos.depth for qos in offered if qos.history == QosHistory.KEEP_LAST], default=1)
    if topic == "/tf_static":
        depth = max(depth, min(STATIC_DEPTH, sum(connection.msgcount for connection in connections)))
    elif not latched:  # a latched topic must keep its depth: it is the number of messages that a late subscriber gets
        depth = max(depth, MINIMUM_DEPTH)
    profile = QoSProfile(
        depth=max(1, depth),
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    return profile, latched


def _remapping(text: str) -> str:
    old, separator, new = text.partition(":=")
    if not (old and separator and new):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form OLD:=NEW")
    return text
