"""The synchroniser as a message filter: real rclpy, real DDS, and message_filters' own Subscriber in front of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("message_filters", reason="needs message_filters")

import rclpy
from message_filters import SimpleFilter, Subscriber
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

from bevdistill_ros.node.camera_synchroniser import CameraSynchroniser
from bevdistill_ros.stamps import header_ns
from bevdistill_ros.synchroniser import Synchroniser

MS = 1_000_000
START = 1_700_000_000_000_000_000
CAMERAS = ("front_left", "front", "front_right", "back_right", "back", "back_left")
OFFSETS = {camera: round(i * 16.6 * MS) for i, camera in enumerate(CAMERAS)}
PERIOD = 100 * MS
QOS = QoSProfile(depth=50)
PATIENCE = 30.0  # s; a bound for a machine that is busy, not a duration that anything takes


@pytest.fixture
def node():
    rclpy.init()
    made = rclpy.create_node(f"synchroniser_test_{os.getpid()}")
    yield made
    made.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def executor(node):
    made = SingleThreadedExecutor()
    made.add_node(node)
    yield made
    made.shutdown()


def spin_until(executor, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        executor.spin_once(timeout_sec=0.1)


def image(stamp, frame_id=""):
    message = CompressedImage()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.header.frame_id = frame_id
    return message


def make(node, min_cameras=4, deadline_ms=100, **arguments):
    """A synchroniser on plain filters, and the list of what it emits."""
    sources = {camera: SimpleFilter() for camera in CAMERAS}
    policy = Synchroniser(CAMERAS, OFFSETS, min_cameras=min_cameras, deadline_ns=deadline_ms * MS)
    synchroniser = CameraSynchroniser(node, sources, policy, **arguments)
    got = []
    synchroniser.registerCallback(got.append)
    return synchroniser, sources, got


def send(sources, instant, cameras=CAMERAS, start=START):
    for camera in cameras:
        sources[camera].signalMessage(image(start + instant * PERIOD + OFFSETS[camera], f"{camera} {instant}"))


def test_chains_after_any_filter_and_before_any_callback(node):
    synchroniser, sources, got = make(node)
    further = SimpleFilter()  # a filter that takes its input from ours
    synchroniser.registerCallback(further.signalMessage)
    chained = []
    further.registerCallback(lambda camera_set, extra: chained.append((camera_set, extra)), "extra")
    send(sources, 0)
    send(sources, 1)
    assert [item.frame_ns for item in got] == [START, START + PERIOD]
    assert chained == [(item, "extra") for item in got]
    assert got[0].complete and got[0].messages["back"].header.frame_id == "back 0"
    assert got[0].stamps == {camera: START + offset for camera, offset in OFFSETS.items()}
    assert header_ns(got[0].messages["back"]) == got[0].stamps["back"]
    synchroniser.destroy()


def test_filters_must_be_those_of_the_policy(node):
    with pytest.raises(ValueError, match="front"):
        CameraSynchroniser(node, {"front": SimpleFilter()}, Synchroniser(("back",), {"back": 0}))


def test_deadline_wakes_the_executor_and_flags_the_missing_camera(node, executor):
    synchroniser, sources, got = make(node)
    for instant in range(3):  # more than once: the timer is armed again
        send(sources, instant, [camera for camera in CAMERAS if camera != "back"])
        assert len(got) == instant
        spin_until(executor, lambda expected=instant + 1: len(got) == expected)
        assert got[-1].missing == ("back",) and got[-1].mask == (True, True, True, True, False, True)
        assert got[-1].waited_ns >= 100 * MS
    synchroniser.destroy()


class ByHand:
    """A node, its clock and its one timer, of which time and calls are up to the test."""

    ros_time_is_active = False

    def __init__(self):
        self.nanoseconds = 0
        self.due = None
        self.timer_period_ns = 0

    def get_clock(self):
        return self

    def now(self):
        return SimpleNamespace(nanoseconds=self.nanoseconds)

    def create_timer(self, period, callback, callback_group=None):
        self.callback = callback
        return self

    def destroy_timer(self, timer):
        assert timer is self

    def reset(self):
        self.due = self.nanoseconds + self.timer_period_ns

    def cancel(self):
        self.due = None

    def call_timer(self):
        """As an executor does that finds the timer due."""
        assert self.due <= self.nanoseconds
        self.callback()


@pytest.mark.parametrize("first", ["timer", "message"])
def test_images_that_came_while_the_process_was_held_up_are_let_in_after_the_deadline(first):
    """Deadline and images are ready at the same time then; of these, executors call timers first."""
    node = ByHand()
    synchroniser, sources, got = make(node)
    for instant in (0, 2):  # more than once
        send(sources, instant, CAMERAS[:4])
        node.nanoseconds = synchroniser.policy.next_deadline_ns + 400 * MS  # nobody looks meanwhile
        if first == "timer":
            node.call_timer()
        send(sources, instant, CAMERAS[4:])
        send(sources, instant + 1)
        assert [item.complete for item in got] == [True] * (instant + 2)
    assert got[-2].waited_ns > 400 * MS
    synchroniser.destroy()


def test_after_a_pause_the_deadline_is_only_a_little_later():
    node = ByHand()
    synchroniser, sources, got = make(node)
    present = [camera for camera in CAMERAS if camera != "back"]
    send(sources, 0, present)
    node.nanoseconds = synchroniser.policy.next_deadline_ns  # nobody is late: it is closed at once
    node.call_timer()
    assert [item.missing for item in got] == [("back",)]

    send(sources, 1, present)
    node.nanoseconds = synchroniser.policy.next_deadline_ns + 400 * MS
    node.call_timer()
    assert len(got) == 1 and 0 < node.due - node.nanoseconds <= 50 * MS  # the timer is armed for what was granted
    node.nanoseconds = node.due
    node.call_timer()
    assert [item.missing for item in got] == [("back",)] * 2
    synchroniser.destroy()


def test_callback_that_raises_stalls_nothing(node):
    errors = []
    synchroniser, sources, got = make(node, on_error=errors.append)
    later = []

    def broken(camera_set):
        raise RuntimeError(f"set {camera_set.sequence}")

    synchroniser.registerCallback(broken)
    synchroniser.registerCallback(later.append)
    for instant in range(5):
        send(sources, instant)
    assert len(got) == len(later) == 5 and synchroniser.callback_errors == 5
    assert [str(error) for error in errors] == [f"set {k}" for k in range(5)]
    synchroniser.destroy()


def test_errors_are_logged_with_their_traceback(node, capfd):
    synchroniser, sources, _ = make(node)

    def place_that_broke(camera_set):
        raise RuntimeError("nothing works")

    synchroniser.registerCallback(place_that_broke)
    send(sources, 0)
    output = "".join(capfd.readouterr())
    assert "place_that_broke" in output and "RuntimeError: nothing works" in output
    synchroniser.destroy()


def test_callback_runs_without_the_lock(node):
    """While a callback is busy, other threads put messages in and read the counters."""
    synchroniser, sources, got = make(node, max_pending=10)
    entered, leave = threading.Event(), threading.Event()

    def slow(camera_set):
        if camera_set.sequence == 0:
            entered.set()
            assert leave.wait(PATIENCE)

    synchroniser.registerCallback(slow)
    busy = threading.Thread(target=send, args=(sources, 0))
    busy.start()
    assert entered.wait(PATIENCE)
    for instant in range(1, 5):
        send(sources, instant)
    assert synchroniser.policy.counters.complete == 5
    leave.set()
    busy.join(PATIENCE)
    assert [item.sequence for item in got] == list(range(5)) and synchroniser.superseded == 0
    synchroniser.destroy()


def test_simulated_time_counts_the_deadline_and_may_jump_back(node, executor):
    """A bag that loops with /clock: sets go on after the jump, and while the clock stands still no deadline passes."""
    node.set_parameters([Parameter("use_sim_time", value=True)])
    clock = node.create_publisher(Clock, "/clock", 10)
    synchroniser, sources, got = make(node)

    def set_clock(ns):
        def arrived():
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(ns, 10**9)
            clock.publish(message)
            return node.get_clock().now().nanoseconds == ns

        spin_until(executor, arrived)

    now = 1000 * 10**9
    set_clock(now)
    send(sources, 0)
    send(sources, 1, CAMERAS[:5])
    assert len(got) == 1
    end = time.monotonic() + 0.4  # far longer than the deadline, on a clock that does not count
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    assert len(got) == 1
    set_clock(now + 300 * MS)
    spin_until(executor, lambda: len(got) == 2)
    assert got[-1].missing == ("back_left",)

    send(sources, 2, CAMERAS[:5])  # still open when time jumps back by 990 s
    set_clock(10 * 10**9)
    back = START - 990 * 10**9
    send(sources, 0, start=back)
    spin_until(executor, lambda: len(got) == 4)
    assert got[2].missing == ("back_left",) and got[3].complete and got[3].frame_ns == back
    send(sources, 1, CAMERAS[:5], start=back)
    set_clock(10 * 10**9 + 300 * MS)
    spin_until(executor, lambda: len(got) == 5)
    assert synchroniser.policy.counters.resets == 1
    synchroniser.destroy()


def test_destroy_is_repeatable_and_ends_what_is_owned(node, executor):
    before = len(list(node.subscriptions)), len(list(node.timers))
    for own in (True, False):
        filters = {camera: Subscriber(node, CompressedImage, f"~/{camera}", qos_profile=QOS) for camera in CAMERAS}
        synchroniser = CameraSynchroniser(node, filters, Synchroniser(CAMERAS, OFFSETS), own_filters=own)
        got = []
        synchroniser.registerCallback(got.append)
        assert len(list(node.subscriptions)) == before[0] + 6
        for _ in range(3):
            synchroniser.destroy()
        assert len(list(node.timers)) == before[1]
        assert len(list(node.subscriptions)) == before[0] + (0 if own else 6)
        if not own:
            send(filters, 0)  # whoever owns the filters may go on using them
            for source in filters.values():
                node.destroy_subscription(source.sub)
        assert got == []
    executor.spin_once(timeout_sec=0.1)


def test_destroy_after_shutdown(node):
    synchroniser, sources, _ = make(node)
    send(sources, 0, CAMERAS[:2])
    rclpy.shutdown()
    synchroniser.destroy()
    synchroniser.destroy()


PUBLISHER = textwrap.dedent("""
    import sys, time
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CompressedImage

    prefix, frames, start, period = sys.argv[1], *map(int, sys.argv[2:5])
    cameras = dict(item.split("=") for item in sys.argv[5:])
    rclpy.init()
    node = rclpy.create_node("synchroniser_test_rig")
    topics = {
        camera: node.create_publisher(CompressedImage, f"{prefix}/{camera}", QoSProfile(depth=50)) for camera in cameras
    }
    end = time.monotonic() + 30
    while any(topic.get_subscription_count() == 0 for topic in topics.values()):
        assert time.monotonic() < end, "nobody subscribed"
        time.sleep(0.02)
    sys.stdin.readline()  # the subscribers have found the publishers, too
    images = sorted(
        (start + k * period + int(offset), k, camera) for k in range(frames) for camera, offset in cameras.items()
    )
    for stamp, k, camera in images:
        if camera == "back" and k in (5, 6):
            continue
        message = CompressedImage()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        message.header.frame_id = f"{camera} {k}"
        message.data = bytes(2000)
        topics[camera].publish(message)
        time.sleep(0.002)
    for topic in topics.values():  # all must have arrived before the writer goes
        topic.wait_for_all_acked(rclpy.duration.Duration(seconds=20))
    sys.stdin.read()  # until the test has seen what it wants
    node.destroy_node()
    rclpy.shutdown()
""")


@pytest.mark.parametrize("threads", [1, 4])
def test_between_two_processes_over_dds(node, threads):
    """Six real subscriptions; another process publishes 20 frames with 83 ms of stagger and loses two images of one
    camera."""
    frames = 20
    executor = MultiThreadedExecutor(threads) if threads > 1 else SingleThreadedExecutor()
    executor.add_node(node)
    prefix = f"/synchroniser_test_{os.getpid()}_{threads}"
    filters = {
        camera: Subscriber(
            node,
            CompressedImage,
            f"{prefix}/{camera}",
            qos_profile=QOS,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        for camera in CAMERAS
    }
    policy = Synchroniser(CAMERAS, OFFSETS, deadline_ns=60 * 10**9)  # a busy machine must not change what comes out
    synchroniser = CameraSynchroniser(node, filters, policy, own_filters=True, max_pending=frames)
    got = []
    synchroniser.registerCallback(got.append)
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    rig = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, prefix, str(frames), str(START), str(PERIOD)]
        + [f"{camera}={offset}" for camera, offset in OFFSETS.items()],
        stdin=subprocess.PIPE,
        env=environment,
    )
    try:
        spin_until(
            executor,
            lambda: rig.poll() is not None or all(source.sub.get_publisher_count() for source in filters.values()),
        )
        rig.stdin.write(b"go\n")
        rig.stdin.flush()
        spin_until(executor, lambda: len(got) >= frames or rig.poll() is not None)
    finally:
        rig.communicate(timeout=PATIENCE)
        executor.shutdown()
        synchroniser.destroy()
    assert rig.returncode == 0
    assert [item.frame_ns for item in got] == [START + k * PERIOD for k in range(frames)]
    for k, item in enumerate(got):
        assert item.missing == (("back",) if k in (5, 6) else ())
        assert {message.header.frame_id for message in item.messages.values()} == {
            f"{camera} {k}" for camera in item.messages
        }
    assert sum(policy.counters.used.values()) == 6 * frames - 2
