"""`play` in a process of its own, listened to from this one over real DDS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from bevdistill_ros.node.spinning import SpinningNode  # noqa: E402
from bevdistill_ros.training.data.bags import BagWriter, typestore  # noqa: E402

DEADLINE = 30.0  # seconds within which anything waited for must have happened; never slept through
START = 1_600_000_000_000_000_000  # ns
STRING = "std_msgs/msg/String"
TF = "tf2_msgs/msg/TFMessage"
PLAYER = "import sys; from bevdistill_ros.cli import main; sys.exit(main(['play', *sys.argv[1:]]))"


class Listener(SpinningNode):
    """Subscribes, and keeps what arrives by topic in order: bytes, or nanoseconds for /clock."""

    def __init__(self) -> None:
        super().__init__(f"listener_{os.getpid()}")
        self.received: dict[str, list] = {}

    def subscribe(self, node) -> None:
        """Tests do, by `listen`."""

    def listen(self, topic: str, msgtype: str, *, reliable: bool = True, latched: bool = False) -> None:
        package, name = msgtype.split("/msg/")
        message_class = getattr(__import__(f"{package}.msg", fromlist=[name]), name)
        qos = QoSProfile(
            depth=1000,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self.received[topic] = []
        is_clock = message_class is Clock

        def keep(message) -> None:
            with self.changed:
                value = message.clock.sec * 10**9 + message.clock.nanosec if is_clock else bytes(message)
                self.received[topic].append(value)
                self.changed.notify_all()

        self.node.create_subscription(message_class, topic, keep, qos, raw=not is_clock)
        self.executor.wake()

    def expect(self, condition, what: str) -> None:
        """Wait until ``condition(received)`` holds."""
        assert self.wait(lambda: condition(self.received), DEADLINE, lambda: None), (
            f"{what} not seen in {DEADLINE} s; received {[(t, len(m)) for t, m in self.received.items()]}"
        )


@pytest.fixture
def listener(ros_domain):
    with Listener() as listener:
        yield listener


@pytest.fixture
def play(ros_domain, tmp_path):
    """Starts players; ends them with the test."""
    processes = []

    def start(*arguments: object) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
        process = subprocess.Popen(
            [sys.executable, "-c", PLAYER, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def text(store, value: object) -> object:
    return store.types[STRING](data=str(value))


def write_bag(path: Path, times_s=tuple(i / 20 for i in range(21)), **options) -> Path:
    """A bag with numbered strings on /talk at ``times_s``, and one latched transform at its start."""
    with BagWriter(path, **options) as bag:
        bag.add_topic("/tf_static", TF, latched=True)
        bag.add_topic("/talk", STRING)
        bag.write("/tf_static", START, static_tf(bag, "camera"))
        for index, seconds in enumerate(times_s):
            bag.write("/talk", START + round(seconds * 1e9), text(bag.store, index))
    return path


def static_tf(bag: BagWriter, child: str) -> object:
    transform = bag.messages.transform(START, "base_link", child, (1, 2, 3), (0, 0, 0, 1))
    return bag.messages.make(TF, transforms=[transform])


def recorded(path: Path) -> dict[str, list[bytes]]:
    with Reader(path) as reader:
        topics: dict[str, list[bytes]] = {connection.topic: [] for connection in reader.connections}
        for connection, _, data in reader.messages():
            topics[connection.topic].append(bytes(data))
        return topics


def assert_same_bytes(received: list[bytes], expected: list[bytes]) -> None:
    """Equal, but for what DDS adds: up to three zeros of padding, their number perhaps in the header's last byte."""
    assert len(received) == len(expected)
    for got, sent in zip(received, expected):
        assert got[:3] == sent[:3] and got[4 : len(sent)] == sent[4:]
        assert got[len(sent) :] in (b"", b"\0", b"\0\0", b"\0\0\0")


def numbers(messages: list[bytes]) -> list[int]:
    """What the strings of /talk say: CDR header, length, characters, zero."""
    return [int(message[8:].split(b"\0")[0]) for message in messages]


@pytest.fixture(scope="module")
def talk_bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "talk")


@pytest.fixture(scope="module", params=["tiny_nuscenes", "keyframe_root"])
def camera_bag(request, tmp_path_factory) -> Path:
    """A bag of real topics: six cameras, points, TF, annotations."""
    pytest.importorskip("nuscenes")
    pytest.importorskip("vision_msgs.msg")
    from bevdistill_ros.training.convert import main

    root = request.getfixturevalue(request.param)
    path = tmp_path_factory.mktemp("bags") / "drive"
    repeat = ["--repeat", "3"] if request.param == "keyframe_root" else []
    assert (
        main(
            [
                "--from-nuscenes",
                str(root),
                "--version",
                "v1.0-mini",
                "--scenes",
                "scene-0061",
                "--output",
                str(path),
                *repeat,
            ]
        )
        == 0
    )
    return path


def test_subscribers_get_every_message_in_order_with_its_bytes(camera_bag, listener, play, tmp_path):
    expected = recorded(camera_bag)
    with Reader(camera_bag) as reader:
        for connection in reader.connections:
            listener.listen(connection.topic, connection.msgtype, latched=connection.topic == "/tf_static")
    process = play(camera_bag, "--wait", "--json", tmp_path / "summary.json")
    listener.expect(lambda got: all(len(got[topic]) >= len(messages) for topic, messages in expected.items()), "all")
    finish(process)
    for topic, messages in expected.items():
        assert_same_bytes(listener.received[topic], messages)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["messages"] == {topic: len(messages) for topic, messages in expected.items()}
    assert (summary["passes"], summary["interrupted"], summary["skipped"]) == (1, False, {})


def test_best_effort_subscribers_match(talk_bag, listener, play):
    listener.listen("/talk", STRING, reliable=False)
    listener.listen("/tf_static", TF)  # volatile, as a careless node has it
    process = play(talk_bag, "--wait", "--rate", 4)
    # Best effort promises no single message, but most of 21 arrive, in order.
    listener.expect(lambda got: len(got["/talk"]) >= 15, "most")
    finish(process)
    assert numbers(listener.received["/talk"]) == sorted(numbers(listener.received["/talk"]))
    assert len(listener.received["/tf_static"]) == 1


def test_clock_ticks_evenly_in_bag_time_and_the_rate_scales_it(talk_bag, listener, play, tmp_path):
    listener.listen("/clock", "rosgraph_msgs/msg/Clock")
    listener.listen("/talk", STRING)
    process = play(talk_bag, "--wait-topics", "/talk", "--rate", 2, "--clock", 50, "--json", tmp_path / "summary.json")
    listener.expect(lambda got: got["/clock"][-1:] == [START + 10**9] and len(got["/talk"]) == 21, "the end")
    finish(process)
    # 50 Hz of wall time at double rate: 40 ms of bag time a tick, from the first message to the last.
    ticks = listener.received["/clock"]
    assert ticks[-1] == START + 10**9
    if ticks[0] != START:  # /clock itself is not waited for, so the very first ticks may pass unseen
        assert (ticks[0] - START) % 40_000_000 == 0
    assert {b - a for a, b in pairwise(ticks)} == {40_000_000}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["clock_messages"] == 26
    # The last of 1 s of messages is due after 0.5 s. How much later this machine gets to it is not ours to say.
    assert 0.5 <= summary["wall_s"] < DEADLINE
    assert summary["wall_s"] <= 0.5 + summary["max_late_s"] + 0.5


def test_messages_never_overtake_the_clock(talk_bag, listener, play):
    order: list[tuple[str, int]] = []
    listener.listen("/clock", "rosgraph_msgs/msg/Clock")
    listener.listen("/talk", STRING)
    for topic in ("/clock", "/talk"):

        class Recorder(list):
            def append(self, value, topic=topic):
                order.append((topic, value if topic == "/clock" else numbers([value])[0]))
                super().append(value)

        listener.received[topic] = Recorder()
    process = play(talk_bag, "--wait-topics", "/talk", "--rate", "0.5", "--duration", "0.5", "--clock", 100)
    listener.expect(lambda got: got["/clock"][-1:] == [START + 5 * 10**8], "the end")
    finish(process)
    assert numbers(listener.received["/talk"]) == list(range(11))
    now = START
    for topic, value in order:
        if topic == "/clock":
            now = value
        else:  # message i is of i * 50 ms; 10 wall ms at half rate are 5 ms of bag time, plus a good margin for threads
            assert now <= START + value * 50_000_000 + 25_000_000


def test_loop_starts_again_and_sigint_ends_it_at_once(talk_bag, listener, play, tmp_path):
    listener.listen("/talk", STRING)
    listener.listen("/clock", "rosgraph_msgs/msg/Clock")
    listener.listen("/tf_static", TF, latched=True)
    process = play(talk_bag, "--loop", "--clock", "--wait", "--rate", 5, "--json", tmp_path / "summary.json")
    listener.expect(lambda got: len(got["/talk"]) > 3 * 21 and len(got["/tf_static"]) > 3, "the fourth pass")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = finish(process)
    assert time.monotonic() - began < 5.0
    assert "interrupted" in out
    assert numbers(listener.received["/talk"])[:63] == list(range(21)) * 3
    jumps = [b - a for a, b in pairwise(listener.received["/clock"]) if b < a]
    assert len(jumps) >= 2 and set(jumps) == {-(10**9)}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"] and summary["passes"] >= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_no_harm(listener, play, tmp_path, number):
    bag = write_bag(tmp_path / "long", (0.0, 3600.0))
    listener.listen("/talk", STRING)
    process = play(bag, "--wait-topics", "/talk")
    listener.expect(lambda got: got["/talk"], "the first")
    process.send_signal(number)
    process.send_signal(number)
    finish(process)


def test_a_signal_ends_waiting_for_subscribers(talk_bag, play):
    process = play(talk_bag, "--wait")
    assert "waiting for subscribers of /tf_static, /talk" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    finish(process)


def test_waiting_ends_with_an_error_that_names_the_topics(camera_bag, listener, play):
    listener.listen("/cam_front/image_raw/compressed", "sensor_msgs/msg/CompressedImage")
    _, err = finish(play(camera_bag, "--wait", "5"), status=1)  # long enough to find the one that is there
    assert "no subscriber within 5 s" in err
    assert "/cam_back/image_raw/compressed" in err
    assert "/cam_front/image_raw/compressed" not in err.split("no subscriber")[1]


def test_late_subscribers_get_all_static_transforms(listener, play, tmp_path):
    with BagWriter(tmp_path / "robot") as bag:
        bag.add_topic("/tf_static", TF, latched=True)
        bag.add_topic("/talk", STRING)
        for child in ("camera", "lidar", "gps"):  # three broadcasters, as a recorded robot has
            bag.write("/tf_static", START, static_tf(bag, child))
        for seconds in (1, 3600):
            bag.write("/talk", START + seconds * 10**9, text(bag.store, seconds))
    listener.listen("/talk", STRING)
    play(tmp_path / "robot", "--wait-topics", "/talk", "--start-offset", 0.5)
    listener.expect(lambda got: got["/talk"], "the first")
    listener.listen("/tf_static", TF, latched=True)  # sent long ago, and from before --start-offset
    listener.expect(lambda got: len(got["/tf_static"]) == 3, "three static transforms")
    assert_same_bytes(listener.received["/tf_static"], recorded(tmp_path / "robot")["/tf_static"])


def test_a_part_of_the_bag_under_other_names(talk_bag, listener, play):
    for topic in ("/talk", "/other", "/third"):
        listener.listen(topic, STRING)
    listener.listen("/tf_static", TF, latched=True)
    part = ("--topics", "/talk", "--start-offset", 0.25, "--duration", 0.5, "--wait", "--rate", 10)
    finish(play(talk_bag, *part, "--remap", "/talk:=/other"))
    finish(play(talk_bag, *part, "--ros-args", "-r", "/talk:=/third"))
    listener.expect(lambda got: len(got["/other"]) == len(got["/third"]) == 11, "both parts")
    assert numbers(listener.received["/other"]) == numbers(listener.received["/third"]) == list(range(5, 16))
    assert listener.received["/talk"] == listener.received["/tf_static"] == []


def test_a_type_that_is_not_installed_is_skipped_with_one_line(listener, play, tmp_path):
    from rosbags.typesys import get_types_from_msg

    with BagWriter(tmp_path / "bag") as bag:
        bag.store.register(get_types_from_msg("int32 value\n", "made_up_msgs/msg/Thing"))
        bag.store.register(get_types_from_msg("int32 value\n", "std_msgs/msg/MadeUp"))
        bag.add_topic("/thing", "made_up_msgs/msg/Thing")
        bag.add_topic("/newer", "std_msgs/msg/MadeUp")
        bag.add_topic("/talk", STRING)
        for topic, msgtype in (("/thing", "made_up_msgs/msg/Thing"), ("/newer", "std_msgs/msg/MadeUp")):
            bag.write(topic, START, bag.messages.make(msgtype, value=1))
        bag.write("/talk", START, text(bag.store, 7))
    listener.listen("/talk", STRING)
    process = play(tmp_path / "bag", "--wait", "--json", tmp_path / "summary.json")
    listener.expect(lambda got: numbers(got["/talk"]) == [7], "the known topic")
    _, err = finish(process)
    lines = [line for line in err.splitlines() if "skipping" in line]
    assert len(lines) == 2
    assert "/thing" in lines[0] and "made_up_msgs/msg/Thing" in lines[0]
    assert set(json.loads((tmp_path / "summary.json").read_text())["skipped"]) == {"/thing", "/newer"}
    _, err = finish(play(tmp_path / "bag", "--topics", "/thing"), status=1)
    assert "nothing to play" in err


def compressed(path: Path, mode: CompressionMode) -> Path:
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    store = typestore()
    with writer:
        connection = writer.add_connection("/talk", STRING, typestore=store)
        for index in range(10):
            writer.write(connection, START + index * 10**7, store.serialize_cdr(text(store, index), STRING))
    return path


def split(path: Path) -> Path:
    """A bag of two files, as a recorder makes it that was told to split."""
    import yaml

    times = [[i / 100 for i in range(5)], [i / 100 for i in range(5)]]
    parts = [write_bag(path.with_name(f"{path.name}_{i}"), times[i]) for i in range(2)]
    path.mkdir()
    metadata = [yaml.safe_load((part / "metadata.yaml").read_text()) for part in parts]
    whole, second = (data["rosbag2_bagfile_information"] for data in metadata)
    for part in parts:
        shutil.move(part / f"{part.name}.mcap", path)
        shutil.rmtree(part)
    whole["relative_file_paths"] += second["relative_file_paths"]
    whole["files"] += second["files"]
    whole["message_count"] += second["message_count"]
    for ours, other in zip(whole["topics_with_message_count"], second["topics_with_message_count"]):
        ours["message_count"] += other["message_count"]
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata[0]))
    return path


KINDS = {
    "sqlite3": lambda path: write_bag(path, [i / 100 for i in range(10)], storage="sqlite3"),
    "one file": lambda path: write_bag(path, [i / 100 for i in range(10)]) / f"{path.name}.mcap",
    "message compression": lambda path: compressed(path, CompressionMode.MESSAGE),
    "file compression": lambda path: compressed(path, CompressionMode.FILE),
    "split": split,
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_bags_play(listener, play, tmp_path, kind):
    bag = KINDS[kind](tmp_path / "bag")
    expected = recorded(bag)["/talk"]
    assert len(expected) == 10
    listener.listen("/talk", STRING)
    process = play(bag, "--wait-topics", "/talk")
    listener.expect(lambda got: len(got["/talk"]) == 10, "all")
    finish(process)
    assert_same_bytes(listener.received["/talk"], expected)


def test_what_cannot_be_played_is_one_clear_line(talk_bag, play, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(talk_bag, broken)
    (file,) = broken.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-200])
    (tmp_path / "empty").mkdir()
    no_metadata = tmp_path / "no_metadata"
    shutil.copytree(talk_bag, no_metadata)
    (no_metadata / "metadata.yaml").unlink()
    cases = [
        (play(tmp_path / "nowhere"), "nowhere: there is no such bag"),
        (play(tmp_path / "empty"), "empty: no metadata.yaml"),
        (play(no_metadata), "talk.mcap"),
        (play(broken), "broken: not a readable rosbag2 bag"),
        (play(talk_bag, "--topics", "/walk"), "no topic /walk; it has /talk, /tf_static"),
        (play(talk_bag, "--start-offset", 2), "lasts 1.000 s"),
        (play(talk_bag, "--wait-topics", "/walk"), "/walk is not played"),
        (play(talk_bag, "--ros-args", "--no-such-argument"), "ROS arguments"),
    ]
    for process, message in cases:
        _, err = finish(process, status=1)
        assert message in err
        assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize("options", [["--rate", "0"], ["--clock", "-1"], ["--remap", "a"], ["--duration", "nan"]])
def test_bad_usage_exits_with_2(talk_bag, options):
    from bevdistill_ros.node.play import main

    with pytest.raises(SystemExit) as caught:
        main([str(talk_bag), *options])
    assert caught.value.code == 2


def test_qos_follows_the_recording():
    """A latched topic keeps its depth: it is how many messages a late subscriber gets; others have room for bursts."""
    from types import SimpleNamespace

    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    from bevdistill_ros.node.play import _publisher_qos

    def offered(*profiles: tuple[int, bool], count: int = 100) -> list:
        zero = QosTime(0, 0)
        qos = [
            Qos(
                QosHistory.KEEP_LAST,
                depth,
                QosReliability.BEST_EFFORT,
                QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
                zero,
                zero,
                QosLiveliness.AUTOMATIC,
                zero,
                False,
            )
            for depth, latched in profiles
        ]
        return [SimpleNamespace(msgcount=count, ext=SimpleNamespace(offered_qos_profiles=qos))]

    for topic, connections, latched, depth in [
        ("/map", offered((1, True)), True, 1),
        ("/image", offered((1, False)), False, 10),
        ("/image", offered((50, False)), False, 50),
        ("/mixed", offered((1, False), (3, True)), True, 3),
        ("/unknown", offered(), False, 10),
        ("/tf_static", offered(count=7), True, 7),
        ("/tf_static", offered((1, True), count=10**6), True, 1000),
    ]:
        profile, is_latched = _publisher_qos(topic, connections)
        assert (is_latched, profile.depth) == (latched, depth), topic
        assert profile.reliability == ReliabilityPolicy.RELIABLE
        assert (profile.durability == DurabilityPolicy.TRANSIENT_LOCAL) == latched


@pytest.mark.parametrize(
    "msgtype", ["antigravity/msg/Sensor", "os.path/msg/join", "../x/msg/Y", "json/msg/", "sensor_msgs/msg/x.y"]
)
def test_a_bag_has_nothing_imported_but_messages(msgtype: str, monkeypatch) -> None:
    from bevdistill_ros.node import play

    def import_module(name: str) -> None:
        raise AssertionError(f"{name} imported")

    monkeypatch.setattr(play.importlib, "import_module", import_module)
    with pytest.raises(ImportError, match="no package of interfaces"):
        play._message_class(msgtype)
