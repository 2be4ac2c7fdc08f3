"""Fixtures that several tests of networks share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bevdistill_ros.geometry import make_transform, rotation_z

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@pytest.fixture(scope="session")
def camera_rig() -> Callable[..., dict[str, torch.Tensor]]:
    """``camera_rig(count, seed)``: one set of ``count`` cameras of 96x64 pixels all around, with noise as images."""

    def make(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(seed)
        K = np.array([[60.0, 0.0, 47.5], [0.0, 60.0, 31.5], [0.0, 0.0, 1.0]])
        poses = [
            make_transform(rotation_z(2 * math.pi * i / count) @ FORWARD, rng.uniform(-1, 1, 3) + [0, 0, 1.5])
            for i in range(count)
        ]
        return {
            "images": torch.from_numpy(rng.integers(0, 256, (1, count, 64, 96, 3), dtype=np.uint8)),
            "K": torch.from_numpy(np.tile(K, (1, count, 1, 1))).float(),
            "ego_T_cam": torch.from_numpy(np.stack(poses)[None]).float(),
        }

    return make
