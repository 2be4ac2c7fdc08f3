"""Small students and teachers, and batches for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import CLASS_NAMES, ModelConfig
from bevdistill_ros.geometry import Boxes, make_transform, rotation_z
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.plain_data import from_dict

HEADS = {
    "head": {"channels": 16, "groups": [CLASS_NAMES[:5], CLASS_NAMES[5:]], "suppression": {n: {} for n in CLASS_NAMES}},
    "queries": {
        "queries": 12, "channels": 16, "layers": 2, "heads": 2, "points": 2, "feedforward": 16, "dropout": 0.0,
        "auxiliary_channels": 16,
    }
}  # fmt: skip
BASE = {"name": "small", "classes": CLASS_NAMES, "norm": "group"}
STUDENT = {
    "image": {"height": 32, "width": 64},
    "backbone": {"depth": 18, "width": 16, "stages": 2},
    "lift": {"stride": 8, "bins": 12, "channels": 16, "neck_channels": 16, "depth_max": 25.0},
    "bev": {"channels": 16, "halvings": 1, "blocks": 1},
}
TEACHER = {
    "points": {},
    "pillars": {"cell": 1.0, "channels": [16]},
    "second": {"strides": [1, 2], "layers": [1, 1], "channels": [16, 16], "channels_out": 24},
}


def _grid(cell: float) -> dict[str, Any]:
    return {"grid": {"x_min": -16.0, "x_max": 16.0, "y_min": -8.0, "y_max": 8.0, "cell": cell}}


def _heads(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: HEADS[name] for name in names or ("head",)}


def _network(config: dict[str, Any], seed: int) -> BevNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(from_dict(ModelConfig, config, "model"))


@pytest.fixture
def make_student() -> Callable[..., BevNetwork]:
    """``make_student("head", cell=2.0, **fields)``, "queries" or both: in training, the same weights every time."""

    def make(*heads: str, cell: float = 2.0, **fields: Any) -> BevNetwork:
        return _network({**BASE, **STUDENT, **_grid(cell), **_heads(heads), **fields}, seed=1)

    return make


@pytest.fixture
def make_teacher() -> Callable[..., BevNetwork]:
    """``make_teacher("head", cell=2.0, **fields)``: in use, the same weights every time; its BEV features are wider."""

    def make(*heads: str, cell: float = 2.0, **fields: Any) -> BevNetwork:
        network = _network({**BASE, **TEACHER, **_grid(cell), **_heads(heads), **fields}, seed=2)
        return network.eval().requires_grad_(False)

    return make


@pytest.fixture
def teacher_file(tmp_path) -> Callable[[BevNetwork], Path]:
    """Writes a network's checkpoint."""

    def write(network: BevNetwork) -> Path:
        path = tmp_path / "teacher.safetensors"
        save_checkpoint(path, Checkpoint(network.config, network.state_dict(), ("CAM_FRONT",), {}))
        return path

    return write


@pytest.fixture
def truth() -> Boxes:
    """A car, a bus and a pedestrian."""
    return Boxes(
        centers=[[5.0, 3.0, 0.0], [-9.0, -4.6, 0.5], [12.2, -1.0, 0.0]],
        sizes=[[4.5, 1.9, 1.6], [11.0, 2.9, 3.4], [0.7, 0.7, 1.8]],
        yaws=[0.3, 1.2, -2.0],
        velocities=[[1.0, 0.0], [0.0, 0.0], [np.nan, np.nan]],
        scores=np.ones(3),
        labels=[0, 2, 5],
        class_names=CLASS_NAMES,
    )


@pytest.fixture
def make_batch(truth) -> Callable[..., dict[str, Any]]:
    """``make_batch(samples, seed=0)``: as of ``collate``, for both kinds of networks; noise for pictures and points."""

    def make(samples: int, seed: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        poses = np.stack([make_transform(rotation_z(yaw) @ optical, (0.0, 0.0, 1.5)) for yaw in (0.0, np.pi)])
        K = np.array([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]])
        points = rng.uniform((-16, -8, -2, 0, 0), (16, 8, 2, 255, 0), (samples, 400, 5)).astype(np.float32)
        return {
            "images": torch.from_numpy(rng.integers(0, 256, (samples, 2, 32, 64, 3), dtype=np.uint8)),
            "K": torch.from_numpy(np.tile(K, (samples, 2, 1, 1))).float(),
            "ego_T_cam": torch.from_numpy(np.tile(poses, (samples, 1, 1, 1))).float(),
            "mask": torch.ones(samples, 2, dtype=torch.bool),
            "points": [torch.from_numpy(own) for own in points],
            "boxes": [truth] * samples,
            "doubtful": [],
            "tokens": [str(i) for i in range(samples)],
        }

    return make
