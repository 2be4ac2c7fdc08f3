"""The real keyframe as a bag, played over DDS to the node: its boxes are those of the offline detector."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("vision_msgs", reason="needs vision_msgs")

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

CAMERAS = ("CAM_FRONT", "CAM_BACK_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_FRONT_LEFT", "CAM_BACK_RIGHT")


def benchmark():
    """The module benchmark/node_vs_offline.py, which is not installed."""
    path = Path(__file__).resolve().parents[2] / "benchmark" / "node_vs_offline.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_boxes_are_the_offline_ones(keyframe_root, ros_domain, tmp_path) -> None:
    torch.manual_seed(0)
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["model.backbone.width=8"]).model
    save_checkpoint(tmp_path / "model", Checkpoint(config, build_network(config).state_dict(), CAMERAS, {}))
    figures = benchmark().largest_difference(
        tmp_path / "model", keyframe_root, tmp_path / "bag", threshold=0.1, repeats=2
    )
    assert figures["node_sets"] == 2 and figures["node_boxes"] > 20
    assert figures["node_vs_offline_max_abs"] < 1e-3
