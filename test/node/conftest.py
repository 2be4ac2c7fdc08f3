"""What the node's tests share: a ROS domain of their own, a rig in a process, a node in this one."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

HAS_ROS = importlib.util.find_spec("rclpy") is not None
collect_ignore_glob = [] if HAS_ROS else ["test_*.py"]

DEADLINE = 60.0  # seconds within which anything waited for must have happened; never slept through
RIG = Path(__file__).with_name("camera_rig.py")
CLASS_NAMES = ("car", "pedestrian")


def _load_rig_module() -> Any:
    spec = importlib.util.spec_from_file_location("camera_rig", RIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rig_module() -> Any:
    """The constants of camera_rig.py."""
    return _load_rig_module()


@contextlib.contextmanager
def _free_domain() -> Iterator[int]:
    """A number that no other test run on this machine uses: from the range above the ephemeral ports, which people rarely
    choose by hand."""
    numbers = list(range(215, 231))
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        with open(Path(tempfile.gettempdir()) / f"bevdistill_test_domain_{number}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    raise RuntimeError("all ROS domains from 215 to 230 are in use by tests")


@pytest.fixture(scope="session")
def ros_domain():
    """A ROS domain of our own on this machine only, for this process and its children."""
    with _free_domain() as number:
        yield from _environment(number)


def _environment(number: int) -> Iterator[int]:
    change = {
        "ROS_DOMAIN_ID": str(number),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    if os.environ.get("ROS_DISTRO") == "humble":
        change["ROS_LOCALHOST_ONLY"] = "1"  # the older name of it
    saved = {name: os.environ.get(name) for name in change}
    os.environ.update(change)
    yield number
    for name, value in saved.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class Rig:
    """camera_rig.py in a process."""

    def __init__(self, cameras: list[str], *options: str) -> None:
        command = [sys.executable, str(RIG), *cameras, *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready"

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.stdout.close()


@pytest.fixture
def start_rig(ros_domain):
    """``start_rig(cameras, *options) -> Rig``; ended after the test."""
    rigs = []

    def start(cameras: list[str], *options: str) -> Rig:
        rigs.append(Rig(cameras, *options))
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.close()


class FakeDetector:
    """Finds one car at the optical centre of every camera used, and nothing below its score of 0.8."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        from bevdistill_ros.geometry import BevGrid

        self.cameras = cameras
        self.class_names = CLASS_NAMES
        self.device = SimpleNamespace(type="cpu")
        self.config = SimpleNamespace(
            image=SimpleNamespace(height=32, width=64), grid=BevGrid(-8.0, 8.0, -8.0, 8.0, 1.0)
        )
        self.stage_times = {"network": 1.0, "decode": 0.5}
        self.gate: threading.Event | None = None  # the network waits for it, if there is one
        self.calls = 0

    def preprocess(self, source: Any, camera: Any, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from bevdistill_ros.config import ImageConfig
        from bevdistill_ros.preprocess import Preprocessor

        return Preprocessor(ImageConfig(self.config.image.height, self.config.image.width))(source, camera, out)

    def __call__(self, images, K, ego_T_cam, mask, score_threshold: float) -> Any:
        from bevdistill_ros.geometry import Boxes

        if self.gate is not None:
            assert self.gate.wait(DEADLINE)
        self.calls += 1
        centers = ego_T_cam[mask, :3, 3]
        n = len(centers) if score_threshold <= 0.8 else 0
        return Boxes(
            centers[:n], np.tile((4.0, 2.0, 1.5), (n, 1)), np.full(n, 0.5), np.tile((3.0, -1.0), (n, 1)), np.full(n, 0.8),
            np.zeros(n, int), self.class_names,
        )  # fmt: skip


class Bench:
    """A DetectorNode with a fake detector and a listener, spun by a thread of this process."""

    def __init__(self, trained: list[str], /, **values: Any) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
        from rclpy.parameter import Parameter

        from bevdistill_ros.node.detector_node import DetectorNode

        self.detector = FakeDetector(tuple(trained))
        self.loaded: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.received: dict[str, list] = {}
        self.context = Context()
        rclpy.init(context=self.context, args=[])

        def load(path: str, device: str) -> FakeDetector:
            self.loaded.append((path, device))
            return self.detector

        # Most tests send one picture again and again.
        values = {"model": "fake", "device": "cpu", "frozen_after": 0, **values}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = DetectorNode(load, context=self.context, use_global_arguments=False, parameter_overrides=overrides)
        self.listener = rclpy.create_node("listener", context=self.context, use_global_arguments=False)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.listener)

        def spin() -> None:
            try:
                self.executor.spin()
            except ExternalShutdownException:
                pass

        self.thread = threading.Thread(target=spin, daemon=True)

    def spin(self) -> None:
        self.thread.start()

    def listen(self, kind: type, topic: str, qos: Any = 50) -> list:
        """Keep what comes on a topic."""
        kept = self.received.setdefault(topic, [])

        def keep(message: Any) -> None:
            with self.changed:
                kept.append(message)
                self.changed.notify_all()

        self.listener.create_subscription(kind, topic, keep, qos)
        self.executor.wake()
        return kept

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Until ``condition()`` is true; it is asked whenever something has come. Returns its value."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE), (
                f"{what} not seen in {DEADLINE} s; received {[(t, len(m)) for t, m in self.received.items()]}"
            )
            return condition()

    def close(self) -> None:
        self.context.try_shutdown()
        if self.thread.is_alive():
            self.thread.join(DEADLINE)
        self.executor.shutdown()
        self.listener.destroy_node()
        self.node.destroy_node()
        self.node.destroy_node()  # repeatable


@pytest.fixture
def make_bench(ros_domain):
    """``make_bench(cameras of the checkpoint, **parameters) -> Bench``; closed after the test."""
    benches = []

    def make(trained: list[str], /, **values: Any) -> Bench:
        benches.append(Bench(trained, **values))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()
