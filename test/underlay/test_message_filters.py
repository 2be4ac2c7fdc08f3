"""What bevdistill_ros and its benchmark rely on in message_filters: holds on the stand-in and on the real package."""

from types import SimpleNamespace

import message_filters
import pytest
from rclpy.time import Time


def message(milliseconds: int, name: str = ""):
    stamp = Time(nanoseconds=milliseconds * 1_000_000).to_msg()
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=name)


def milliseconds_of(msg) -> int:
    return Time.from_msg(msg.header.stamp).nanoseconds // 1_000_000


class Bench:
    """A synchroniser with `count` inputs, and the sets that it emitted, as tuples of milliseconds."""

    def __init__(self, kind, count: int, *arguments):
        self.inputs = [message_filters.SimpleFilter() for _ in range(count)]
        self.synchroniser = kind(self.inputs, *arguments)
        self.sets = []
        self.synchroniser.registerCallback(lambda *msgs: self.sets.append(tuple(map(milliseconds_of, msgs))))

    def send(self, index: int, *milliseconds: int) -> None:
        for value in milliseconds:
            self.inputs[index].signalMessage(message(value))


def approximate(count: int = 2, queue_size: int = 5, slop: float = 0.01) -> Bench:
    return Bench(message_filters.ApproximateTimeSynchronizer, count, queue_size, slop)


def test_simple_filter_hands_on_to_every_callback_with_its_arguments():
    source, seen = message_filters.SimpleFilter(), []
    source.registerCallback(lambda *values: seen.append(values), "first", 1)
    source.registerCallback(lambda *values: seen.append(values))
    source.signalMessage("a", "b")
    assert seen == [("a", "b", "first", 1), ("a", "b")]


def test_exact_synchroniser_needs_equal_stamps_and_emits_the_oldest_first():
    bench = Bench(message_filters.TimeSynchronizer, 2, 5)
    bench.send(0, 20, 10)
    bench.send(1, 15)
    assert bench.sets == []
    bench.send(1, 10, 20)
    assert bench.sets == [(10, 10), (20, 20)]


def test_exact_synchroniser_forgets_the_oldest_stamp_beyond_its_queue():
    bench = Bench(message_filters.TimeSynchronizer, 2, 2)
    bench.send(0, 10, 20, 30)
    bench.send(1, 10, 20, 30)
    assert bench.sets == [(20, 20), (30, 30)]


def test_approximate_synchroniser_emits_as_soon_as_a_set_fits():
    bench = approximate(3)
    bench.send(0, 100)
    bench.send(1, 104)
    assert bench.sets == []
    bench.send(2, 96)
    assert bench.sets == [(100, 104, 96)]


@pytest.mark.parametrize(("spread", "emitted"), [(9, 1), (10, 0), (11, 0)])
def test_approximate_synchroniser_wants_less_than_slop(spread: int, emitted: int):
    bench = approximate(slop=0.01)
    bench.send(0, 100)
    bench.send(1, 100 + spread)
    assert len(bench.sets) == emitted


def test_slop_zero_never_emits():
    bench = approximate(slop=0.0)
    bench.send(0, 100)
    bench.send(1, 100)
    assert bench.sets == []


def test_approximate_synchroniser_takes_the_nearest_and_only_removes_what_it_emitted():
    bench = approximate(slop=0.05)
    bench.send(0, 100, 120)
    bench.send(1, 118)
    assert bench.sets == [(120, 118)]
    bench.send(1, 101)  # late: the older set comes after the newer one
    assert bench.sets == [(120, 118), (100, 101)]
    bench.send(1, 102)  # nothing left to go with it
    assert len(bench.sets) == 2


def test_approximate_synchroniser_goes_on_to_the_next_combination():
    # for the new message at 100, the nearest are 94 and 106, which are too far apart
    bench = approximate(3, slop=0.011)
    bench.send(1, 94, 109)
    bench.send(2, 106)
    bench.send(0, 100)
    assert bench.sets == [(100, 109, 106)]


def test_approximate_synchroniser_evicts_the_oldest_stamp_even_if_it_is_the_new_message():
    bench = approximate(queue_size=2)
    bench.send(0, 200, 210)
    bench.send(0, 100)  # older than what the queue holds: gone at once
    bench.send(1, 100)
    assert bench.sets == []
    bench.send(1, 210)
    assert bench.sets == [(210, 210)]


def test_approximate_synchroniser_ignores_headerless_messages_unless_told_otherwise():
    bench = approximate()
    bench.inputs[0].signalMessage(SimpleNamespace(name="no header"))
    assert not any(bench.synchroniser.queues)


def test_cache_keeps_the_last_messages_and_answers_by_time():
    source = message_filters.SimpleFilter()
    cache = message_filters.Cache(source, 3)
    for value in (10, 20, 30, 40):
        source.signalMessage(message(value))

    def at(value: int) -> Time:
        # upstream orders message stamps, which are on the ROS clock
        return Time.from_msg(message(value).header.stamp)

    assert [milliseconds_of(msg) for msg in cache.getInterval(at(0), at(30))] == [20, 30]
    assert milliseconds_of(cache.getElemAfterTime(at(25))) == 30
    assert milliseconds_of(cache.getElemBeforeTime(at(25))) == 20
    assert cache.getElemBeforeTime(at(15)) is None
    assert cache.getElemAfterTime(at(45)) is None
    assert cache.getOldestTime().nanoseconds == 20_000_000
    assert milliseconds_of(cache.getLast()) == 40


class RecordingNode:
    """Stands for a node: keeps the arguments of create_subscription."""

    def create_subscription(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        return SimpleNamespace(topic_name="/resolved")


def test_subscriber_makes_a_subscription_and_passes_its_messages_on():
    node, seen = RecordingNode(), []
    subscriber = message_filters.Subscriber(node, dict, "topic", qos_profile=7)
    subscriber.registerCallback(seen.append)
    message_type, topic, callback = node.args
    assert (message_type, topic, node.kwargs) == (dict, "topic", {"qos_profile": 7})
    callback("message")
    assert seen == ["message"]
    assert subscriber.getTopic() == "topic"
    assert subscriber.sub.topic_name == subscriber.topic_name == "/resolved"


def test_subscriber_has_a_default_depth():
    node = RecordingNode()
    message_filters.Subscriber(node, dict, "topic")
    assert node.kwargs == {"qos_profile": 10}
