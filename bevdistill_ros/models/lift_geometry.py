"""Where the pixels of a rig look and which cells they look at: what lift-splat makes of a calibration alone, without weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevdistill_ros.config import LiftConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.bev_pool import PoolPlan, make_pool_plan
from bevdistill_ros.models.calibration_cache import CalibrationCache

RAY = 4
"""Values that tell where a pixel looks, see ``LiftGeometry.where_pixels_look``."""


class LiftGeometry(nn.Module):
    """The geometry of a lift; it has nothing to learn and no state.

    The pool plan depends on the calibration alone: in evaluation mode it is made anew only when calibration or mask change.
    """

    def __init__(self, config: LiftConfig, grid: BevGrid) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        bin_size = (config.depth_max - config.depth_min) / config.bins
        centers = config.depth_min + (torch.arange(config.bins) + 0.5) * bin_size
        self.register_buffer("depths", centers, persistent=False)
        self._kept: CalibrationCache[PoolPlan] = CalibrationCache()

    @torch.no_grad()
    def where_pixels_look(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, RAY, h, w), of the order of one; zero for absent cameras. None of it changes when the rig is turned.

        The inverse depth at which the pixel's ray meets the plane z = 0 of the base frame (1 is 2 m, negative above the horizon),
        that depth itself (1 is ``depth_max`` or more, and everything above the horizon), the length of the ray's horizontal part
        per metre of depth (how far aside it looks), and the logarithm of the focal length.
        """
        rays, origin = self._rays(K, ego_T_cam, size)
        camera_height = origin[..., 2]
        inverse = -rays[..., 2] / torch.where(camera_height.abs() < 0.1, 0.1, camera_height)
        meets = inverse > 1 / self.config.depth_max
        ground = torch.where(meets, 1 / (inverse.clamp(min=1e-3) * self.config.depth_max), 1.0)
        aside = rays[..., :2].norm(dim=-1) - 1
        focal = (K[..., 0, 0] * K[..., 1, 1] - K[..., 0, 1] * K[..., 1, 0]).abs().sqrt().clamp(min=1.0)
        focal = (focal / 200).log()[..., None, None].expand_as(inverse)
        looks = torch.stack([(2 * inverse).clamp(-1, 1), ground, aside.clamp(-1, 2), focal], dim=2)
        return torch.where(mask[:, :, None, None, None], looks, 0.0)

    @torch.no_grad()
    def plan(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> PoolPlan:
        """The pool plan of a calibration, for feature maps of ``size`` = (h, w)."""
        if self.training:
            return self._make_plan(K, ego_T_cam, mask, size)
        return self._kept.get(self._make_plan, K, ego_T_cam, mask, size)

    def _make_plan(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> PoolPlan:
        # Coordinate by coordinate: no tensor of all points is made that is not needed.
        rays, origin = self._rays(K, ego_T_cam, size)
        x, y, z = (rays[..., i, None] * self.depths.to(K.dtype) + origin[..., i, None] for i in range(3))
        x, y = (x - self.grid.x_min) / self.grid.cell, (y - self.grid.y_min) / self.grid.cell
        valid = (
            mask[:, :, None, None, None]
            & (x >= 0)
            & (x < self.grid.columns)
            & (y >= 0)
            & (y < self.grid.rows)
            & (z >= self.config.z_min)
            & (z < self.config.z_max)
        )
        shape = (K.shape[0], -1, len(self.depths))
        return make_pool_plan(*(a.reshape(shape) for a in (x, y, valid)), self.grid.rows, self.grid.columns)

    def frustum(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, h, w, D, 3) base-frame points of every feature pixel's centre at every depth; depth is along the optical axis."""
        rays, origin = self._rays(K, ego_T_cam, size)
        return rays[..., None, :] * self.depths.to(K.dtype)[:, None] + origin[..., None, :]

    def _rays(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rays (B, N, h, w, 3) of one metre of depth through the feature pixels' centres, in the base frame, and their origins."""
        h, w = size
        # Centre of a feature pixel in input pixels (integer coordinates are pixel centres).
        v, u = torch.meshgrid(
            (torch.arange(h, device=K.device) + 0.5) * self.config.stride - 0.5,
            (torch.arange(w, device=K.device) + 0.5) * self.config.stride - 0.5,
            indexing="ij",
        )
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).to(K.dtype)
        # Products element by element, not matmul, which autocast and TF32 would round to some decimetres at 50 m.
        ego_R_ray = (ego_T_cam[..., :3, :3, None] * _inverse_intrinsics(K)[..., None, :, :]).sum(-2)
        rays = (ego_R_ray[:, :, None, None] * pixels[..., None, :]).sum(-1)
        return rays, ego_T_cam[:, :, None, None, :3, 3]


def _inverse_intrinsics(K: Tensor) -> Tensor:
    """Inverse of (..., 3, 3) matrices with last row 0 0 1; in closed form, so a masked camera's singular K raises nothing."""
    a, b, c = K[..., 0, 0], K[..., 0, 1], K[..., 0, 2]
    d, e, f = K[..., 1, 0], K[..., 1, 1], K[..., 1, 2]
    det = a * e - b * d
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det, zero, zero, one]
    return torch.stack(rows, dim=-1).view(K.shape)
