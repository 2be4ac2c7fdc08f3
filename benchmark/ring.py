"""A rig to measure with: cameras all around, evenly, 70 degrees wide, 1.6 m above the ground."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.geometry import make_transform, rotation_z

CAMERAS = 6
FIELD_OF_VIEW_DEG = 70.0
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # a camera that looks along x


def ring(batch: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """K (B, N, 3, 3) of images of ``width`` x ``height`` pixels, ego_T_cam (B, N, 4, 4) and mask (B, N) of rigs all alike."""
    focal = width / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG / 2))
    K = torch.tensor([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
    ego_T_cam = [
        make_transform(rotation_z(2 * math.pi * i / CAMERAS) @ OPTICAL, np.array([0, 0, 1.6])) for i in range(CAMERAS)
    ]
    return (
        K.expand(batch, CAMERAS, 3, 3).to(device),
        torch.from_numpy(np.stack(ego_T_cam)).float().expand(batch, CAMERAS, 4, 4).to(device),
        torch.ones(batch, CAMERAS, dtype=torch.bool, device=device),
    )
