"""Students of every kind at a size for tests, and what is exported from them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.models import build_network
from bevdistill_ros.models.student import Student
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

SMALL = (
    "model.image={height: 64, width: 96}",
    "model.grid={x_min: -16.0, x_max: 16.0, y_min: -12.0, y_max: 12.0, cell: 2.0}",
    "model.backbone={depth: 18, width: 8}",
)
LIFT = (
    "model.lift={stride: 8, bins: 10, depth_max: 21.0, channels: 16, neck_channels: 16, ray_channels: 8}",
    "model.bev={channels: 16, halvings: 1, blocks: 1}",
    "model.head.channels=16",
)
CHANGES = {
    "nano": (*SMALL, *LIFT),
    "simulated_nano": (
        *SMALL, *LIFT, "model.fused_channels=24", "model.compensation={heads: 4, image_points: 3, bev_points: 4}",
    ),
    "bevformer_nano": (
        *SMALL,
        "model.bevformer={channels: 16, layers: 1, heads: 2, levels: 3, heights: 2, points: 4, bev_points: 2, feedforward: 16,"
        " z_min: -1.0, z_max: 3.0}",
        "model.queries={queries: 10, channels: 16, layers: 1, heads: 2, points: 2, feedforward: 16, max_boxes: 20}",
    ),
}  # fmt: skip
"""By the name of a shipped configuration, what makes it small."""


class Exported(NamedTuple):
    """A checkpoint file and what was exported from it."""

    checkpoint: Path
    onnx: Path
    network: Student


def make_student(name: str) -> Student:
    """A small student with random weights, and statistics of real activations."""
    from bevdistill_ros.runtime.onnx_export import make_rig

    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml", CHANGES[name]).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config)
        with torch.no_grad():  # what starts at zero (where attention looks) starts at something here
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.2)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            network.train()(*make_rig(config, 5, seed=9))
    return network.eval()


@pytest.fixture(scope="session")
def student() -> Callable[[str], Student]:
    """``student(name)``: the small student of a shipped configuration, made once. Do not change it."""
    made: dict[str, Student] = {}

    def get(name: str) -> Student:
        if name not in made:
            made[name] = make_student(name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def exported(student, tmp_path_factory) -> Callable[[str], Exported]:
    """``exported(name)``: the small student's files; skipped where what exports is not installed."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        from bevdistill_ros.runtime.onnx_export import export_onnx

        if name not in made:
            network, path = student(name), tmp_path_factory.mktemp(name) / "model.safetensors"
            checkpoint = Checkpoint(network.config, network.state_dict(), ("front", "left"), {"steps": 3})
            save_checkpoint(path, checkpoint)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            onnx = path.with_suffix(".onnx")
            onnx.write_bytes(export_onnx(checkpoint.card, network.config, network, digest))
            made[name] = Exported(path, onnx, network)
        return made[name]

    return get
