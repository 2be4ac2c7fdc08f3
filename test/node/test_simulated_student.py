"""The student that simulates LiDAR features, run by the node from nothing but its file: cameras alone, as any student."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import torch
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.models.simulated import SimulatedNet
from bevdistill_ros.msg import DetectedObjectArray
from bevdistill_ros.node.detector_node import DetectorNode
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

DEADLINE = 60.0
CAMERAS = ["front", "left", "right"]
SMALL = [
    "model.backbone={depth: 18, width: 8}", "model.image={height: 64, width: 96}", "model.grid.cell=3.2", "model.head.channels=8",
    "model.lift={stride: 8, bins: 12, depth_max: 61.0, channels: 8, neck_channels: 8, ray_channels: 8}", "model.fused_channels=8",
    "model.bev={channels: 8, halvings: 1, blocks: 1}", "model.compensation={heads: 2, image_points: 2, bev_points: 2}",
]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A file of random weights, alone in its folder."""
    config = load_config(share_directory() / "config" / "models" / "simulated_nano.yaml", SMALL).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = SimulatedNet(config).state_dict()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(config, state, tuple(CAMERAS), {}))
    return path


@pytest.fixture
def made(monkeypatch) -> list[Detector]:
    """The detectors that are made from files, as they come."""
    found: list[Detector] = []
    make = Detector.from_checkpoint

    def keep(*arguments: Any, **named: Any) -> Detector:
        found.append(make(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(Detector, "from_checkpoint", keep)
    return found


@pytest.fixture
def heard(ros_domain, checkpoint) -> Iterator[tuple[DetectorNode, list[DetectedObjectArray], threading.Condition]]:
    """The node as it loads models itself, and what it publishes, guarded by a condition."""
    context = Context()
    rclpy.init(context=context, args=[])
    values = {
        "model": str(checkpoint), "device": "cpu", "score_threshold": 0.0, "torch_threads": 1, "frozen_after": 0,
        "camera_offsets_ms": [0.0, 7.0, 14.0],  # camera_rig.py's
    }  # fmt: skip
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = DetectorNode(context=context, use_global_arguments=False, parameter_overrides=overrides)
    other = rclpy.create_node("other", context=context, use_global_arguments=False)
    arrays: list[DetectedObjectArray] = []
    changed = threading.Condition()

    def keep(message: DetectedObjectArray) -> None:
        with changed:
            arrays.append(message)
            changed.notify_all()

    other.create_subscription(DetectedObjectArray, "/bevdistill_detector/objects", keep, 50)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(other)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield node, arrays, changed
    context.try_shutdown()
    thread.join(DEADLINE)
    executor.shutdown()
    other.destroy_node()
    node.destroy_node()


def test_it_finds_boxes_from_cameras_alone(made, heard, checkpoint, start_rig) -> None:
    node, arrays, changed = heard
    assert node.start(), node.failure
    (detector,) = made
    assert type(detector.network) is SimulatedNet and [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]
    start_rig(CAMERAS)
    with changed:
        whole = lambda: [a for a in arrays if not a.partial and a.objects]  # noqa: E731
        assert changed.wait_for(whole, DEADLINE), f"{len(arrays)} sets, none of all cameras with boxes; {node.failure}"
        array = whole()[-1]
    assert list(array.cameras) == CAMERAS and all(array.used) and len(array.objects) > 20
    assert {found.class_name for found in array.objects} <= set(detector.class_names)

    # All that it listens to, while it does find boxes.
    topics = {(s.topic_name, s.msg_type) for s in node.subscriptions}
    wanted = {(f"/{name}/image_raw/compressed", CompressedImage) for name in CAMERAS}
    wanted |= {(f"/{name}/camera_info", CameraInfo) for name in CAMERAS}
    wanted |= {("/tf", TFMessage), ("/tf_static", TFMessage)}
    assert topics == wanted
