"""What bevdistill_ros relies on in tf2_ros: holds on the stand-in and on the real package."""

import gc
import math
import threading
import time as wall
import weakref

import pytest
import rclpy
import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from rosgraph_msgs.msg import Clock

LATEST = Time()


def at(seconds: float) -> Time:
    return Time(nanoseconds=round(seconds * 1e9))


def transform(parent: str, child: str, seconds: float = 0.0, x=0.0, y=0.0, z=0.0, yaw=0.0) -> TransformStamped:
    """Pose of `child` in `parent`: moved by x, y, z and turned by yaw about z."""
    message = TransformStamped()
    message.header.frame_id, message.child_frame_id = parent, child
    message.header.stamp = at(seconds).to_msg()
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = float(x), float(y), float(z)
    rotation.z, rotation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return message


def pose(message: TransformStamped) -> tuple[float, float, float, float]:
    """x, y, z and yaw."""
    translation, rotation = message.transform.translation, message.transform.rotation
    assert rotation.x == pytest.approx(0.0, abs=1e-9)
    assert rotation.y == pytest.approx(0.0, abs=1e-9)
    return translation.x, translation.y, translation.z, 2 * math.atan2(rotation.z, rotation.w)


@pytest.fixture
def buffer():
    return tf2_ros.Buffer()


def test_exceptions_have_one_base():
    for name in ("Lookup", "Connectivity", "Extrapolation", "InvalidArgument", "Timeout"):
        exception = getattr(tf2_ros, f"{name}Exception")
        assert issubclass(exception, tf2_ros.TransformException)
    assert issubclass(tf2_ros.TransformException, Exception)
    assert not issubclass(tf2_ros.ExtrapolationException, tf2_ros.LookupException)


def test_a_failed_lookup_keeps_nothing_of_its_caller(buffer):
    class Images:
        pass

    def ask(target: str, source: str) -> weakref.ref:
        images = Images()
        with pytest.raises(tf2_ros.TransformException):
            buffer.lookup_transform(target, source, at(5))
        return weakref.ref(images)

    buffer.set_transform(transform("odom", "base", 1.0), "test")
    buffer.set_transform(transform("odom", "base", 2.0), "test")
    gc.disable()
    try:
        for target, source in (("odom", "base"), ("base", "odom"), ("odom", "nowhere"), ("", "base")):
            assert ask(target, source)() is None
    finally:
        gc.enable()


def test_static_transform_holds_at_any_time(buffer):
    buffer.set_transform_static(transform("base", "camera", x=1, yaw=math.pi / 2), "test")
    for time in (LATEST, at(5), at(5000)):
        found = buffer.lookup_transform("base", "camera", time)
        assert (found.header.frame_id, found.child_frame_id) == ("base", "camera")
        assert pose(found) == pytest.approx((1, 0, 0, math.pi / 2))
        assert Time.from_msg(found.header.stamp).nanoseconds == time.nanoseconds


def test_result_takes_points_from_source_to_target_and_back(buffer):
    buffer.set_transform_static(transform("base", "camera", x=1, y=2, yaw=math.pi / 2), "test")
    # the origin of base, seen from the camera
    assert pose(buffer.lookup_transform("camera", "base", LATEST)) == pytest.approx((-2, 1, 0, -math.pi / 2))


def test_path_goes_up_to_the_common_ancestor_and_down(buffer):
    buffer.set_transform_static(transform("base", "left", y=1, yaw=math.pi / 2), "test")
    buffer.set_transform_static(transform("base", "mast", x=3), "test")
    buffer.set_transform_static(transform("mast", "top", z=2), "test")
    assert pose(buffer.lookup_transform("left", "top", LATEST)) == pytest.approx((-1, -3, 2, -math.pi / 2))
    assert pose(buffer.lookup_transform("top", "left", LATEST)) == pytest.approx((-3, 1, -2, math.pi / 2))


def test_interpolates_linearly_and_along_the_shorter_arc(buffer):
    buffer.set_transform(transform("odom", "base", 10.0, x=0, yaw=math.radians(170)), "test")
    buffer.set_transform(transform("odom", "base", 10.5, x=2, yaw=math.radians(-170)), "test")
    x, _, _, yaw = pose(buffer.lookup_transform("odom", "base", at(10.125)))
    assert x == pytest.approx(0.5)
    assert math.degrees(yaw) == pytest.approx(175)


def test_transforms_may_arrive_out_of_order(buffer):
    for seconds in (12, 10, 11):
        buffer.set_transform(transform("odom", "base", seconds, x=seconds), "test")
    assert pose(buffer.lookup_transform("odom", "base", at(10.5)))[0] == pytest.approx(10.5)
    assert pose(buffer.lookup_transform("odom", "base", LATEST))[0] == pytest.approx(12)


def test_latest_is_the_latest_time_that_all_links_share(buffer):
    for seconds in (10, 11, 12):
        buffer.set_transform(transform("odom", "base", seconds, x=seconds), "test")
    for seconds in (10, 11):
        buffer.set_transform(transform("base", "arm", seconds), "test")
    found = buffer.lookup_transform("odom", "arm", LATEST)
    assert found.header.stamp.sec == 11
    assert pose(found)[0] == pytest.approx(11)
    assert buffer.get_latest_common_time("odom", "arm").nanoseconds == 11_000_000_000


def test_the_full_form_goes_through_a_fixed_frame(buffer):
    for seconds in (10, 11):
        buffer.set_transform(transform("odom", "base", seconds, x=8 * (seconds - 10)), "test")
    buffer.set_transform_static(transform("base", "camera", z=1), "test")
    arguments = ("base", at(10.75), "camera", at(10.25), "odom")
    assert buffer.can_transform_full(*arguments)
    # the ego moved on by 4 m between the image and the time of the boxes
    assert pose(buffer.lookup_transform_full(*arguments)) == pytest.approx((-4, 0, 1, 0))


def test_same_frame_is_identity_even_if_unknown(buffer):
    assert pose(buffer.lookup_transform("nowhere", "nowhere", at(3))) == (0, 0, 0, 0)


def test_unknown_frame_and_separate_trees(buffer):
    buffer.set_transform_static(transform("base", "camera"), "test")
    buffer.set_transform_static(transform("map", "landmark"), "test")
    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform("base", "no_such_frame", LATEST)
    with pytest.raises(tf2_ros.ConnectivityException):
        buffer.lookup_transform("base", "landmark", LATEST)
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform("", "camera", LATEST)
    assert not buffer.can_transform("base", "landmark", LATEST)
    possible, reason = buffer.can_transform("base", "no_such_frame", LATEST, return_debug_tuple=True)
    assert not possible
    assert reason


@pytest.mark.parametrize("seconds", [9.9, 11.1])
def test_never_extrapolates(buffer, seconds: float):
    for stamp in (10, 11):
        buffer.set_transform(transform("odom", "base", stamp), "test")
    buffer.set_transform_static(transform("base", "camera"), "test")
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("odom", "camera", at(seconds))
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("camera", "odom", at(seconds))
    assert not buffer.can_transform("odom", "camera", at(seconds))


def test_a_single_transform_holds_only_at_its_own_time(buffer):
    buffer.set_transform(transform("odom", "base", 10.0, x=3), "test")
    assert pose(buffer.lookup_transform("odom", "base", at(10.0)))[0] == 3
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("odom", "base", at(10.1))


def test_forgets_what_is_older_than_the_cache_time():
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=2))
    for tenths in range(100, 150):
        buffer.set_transform(transform("odom", "base", tenths / 10, x=tenths), "test")
    assert pose(buffer.lookup_transform("odom", "base", at(13.05)))[0] == pytest.approx(130.5)
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("odom", "base", at(12.0))


def test_clear_keeps_static_transforms_only(buffer):
    buffer.set_transform(transform("odom", "base", 10.0), "test")
    buffer.set_transform_static(transform("base", "camera", x=1), "test")
    buffer.clear()
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform("odom", "camera", at(10.0))
    assert pose(buffer.lookup_transform("base", "camera", at(10.0)))[0] == 1


@pytest.mark.parametrize(
    "broken",
    [
        transform("base", "base"),
        transform("base", ""),
        transform("", "camera"),
        transform("base", "camera", x=math.nan),
    ],
    ids=["self", "no child", "no parent", "nan"],
)
def test_refuses_broken_transforms(buffer, broken: TransformStamped):
    buffer.set_transform_static(broken, "test")
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform("base", "camera", LATEST)


def test_normalises_quaternions_and_refuses_a_zero_one(buffer):
    scaled = transform("base", "camera", x=1, yaw=1.0)
    scaled.transform.rotation.z *= 0.9
    scaled.transform.rotation.w *= 0.9
    buffer.set_transform_static(scaled, "test")
    found = buffer.lookup_transform("camera", "base", LATEST)
    assert pose(found) == pytest.approx((-math.cos(1.0), math.sin(1.0), 0, -1.0))
    zero = transform("base", "lidar")
    zero.transform.rotation.w = 0.0
    buffer.set_transform_static(zero, "test")
    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform("base", "lidar", LATEST)


def test_a_later_transform_replaces_a_static_one(buffer):
    buffer.set_transform_static(transform("base", "camera", x=1), "test")
    buffer.set_transform_static(transform("base", "camera", x=2), "test")
    assert pose(buffer.lookup_transform("base", "camera", at(1)))[0] == 2


def test_timeout_waits_for_a_transform_from_another_thread(buffer):
    sender = threading.Timer(0.1, buffer.set_transform_static, (transform("base", "camera", x=1), "test"))
    sender.start()
    try:
        found = buffer.lookup_transform("base", "camera", LATEST, timeout=Duration(seconds=10))
    finally:
        sender.join()
    assert pose(found)[0] == 1


def test_timeout_ends(buffer):
    begin = wall.monotonic()
    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform("base", "camera", LATEST, timeout=Duration(seconds=0.1))
    assert 0.09 < wall.monotonic() - begin < 5.0


def test_future_is_done_when_the_transform_arrives(buffer):
    future = buffer.wait_for_transform_async("odom", "base", at(10.5))
    buffer.set_transform(transform("odom", "base", 10.0, x=0), "test")
    assert not future.done()
    buffer.set_transform(transform("odom", "base", 11.0, x=2), "test")
    assert future.done()
    assert pose(future.result())[0] == pytest.approx(1)


# over ROS


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("tf2_contract")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def spin_until(node, condition, seconds: float = 20.0) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = wall.monotonic() + seconds
    try:
        while not condition():
            assert wall.monotonic() < deadline, "not in time"
            executor.spin_once(timeout_sec=0.05)
    finally:
        executor.remove_node(node)
        executor.shutdown()


def test_broadcasters_reach_the_listener(node):
    buffer = tf2_ros.Buffer(node=node)
    static = tf2_ros.StaticTransformBroadcaster(node)
    static.sendTransform(transform("base", "left", y=1))
    static.sendTransform([transform("base", "right", y=-1)])
    listener = tf2_ros.TransformListener(buffer, node)  # late: /tf_static is latched, and repeats all of them
    moving = tf2_ros.TransformBroadcaster(node)

    def arrived() -> bool:
        moving.sendTransform([transform("odom", "base", 10.0, x=4)])
        return buffer.can_transform("odom", "left", at(10.0)) and buffer.can_transform("odom", "right", at(10.0))

    spin_until(node, arrived)
    assert pose(buffer.lookup_transform("odom", "right", at(10.0))) == pytest.approx((4, -1, 0, 0))
    listener.unregister()


def test_buffer_empties_when_the_nodes_clock_jumps_back():
    rclpy.init()
    node = rclpy.create_node(
        "tf2_contract_clock", parameter_overrides=[rclpy.parameter.Parameter("use_sim_time", value=True)]
    )
    try:
        buffer = tf2_ros.Buffer(node=node)
        clock = node.create_publisher(Clock, "/clock", 10)

        def clock_reads(seconds: int):
            def condition() -> bool:
                clock.publish(Clock(clock=at(seconds).to_msg()))
                return node.get_clock().now().nanoseconds == seconds * 1_000_000_000

            return condition

        spin_until(node, clock_reads(100))
        buffer.set_transform(transform("odom", "base", 100.0), "test")
        buffer.set_transform_static(transform("base", "camera"), "test")
        spin_until(node, clock_reads(101))
        assert buffer.can_transform("odom", "camera", at(100.0))
        spin_until(node, clock_reads(50))
        assert not buffer.can_transform("odom", "camera", at(100.0))
        assert buffer.can_transform("base", "camera", at(100.0))
    finally:
        node.destroy_node()
        rclpy.shutdown()
