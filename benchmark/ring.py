"""The rig that `bench` measures with, as a network takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from bevdistill_ros.bench.rig_sets import CAMERAS, camera_ring


def ring(batch: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """K (B, N, 3, 3) of images of ``width`` x ``height`` pixels, ego_T_cam (B, N, 4, 4) and mask (B, N) of rigs all alike."""
    camera, ego_T_cam = camera_ring(width, height)
    return (
        torch.from_numpy(camera.K.copy()).float().expand(batch, CAMERAS, 3, 3).to(device),
        torch.from_numpy(ego_T_cam).float().expand(batch, CAMERAS, 4, 4).to(device),
        torch.ones(batch, CAMERAS, dtype=torch.bool, device=device),
    )
