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

    A sample's is the same bit for bit in every batch, in training and in evaluation mode: points are found in the cells they were
    learnt in.

    The pool plan depends on the calibration alone: in evaluation mode it is made anew only when calibration or mask change.
    """

    def __init__(self, config: LiftConfig, grid: BevGrid) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        bin_size = (config.depth_max - config.depth_min) / config.bins
        centers = config.depth_min + (torch.arange(config.bins) + 0.5) * bin_size
        self.register_buffer("depths", centers, persistent=False)
        self._kept: CalibrationCache[PoolPlan] = CalibrationCache()

    def feature_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the feature maps of images (H, W)."""
        return size[0] // self.config.stride, size[1] // self.config.stride

    @torch.no_grad()
    def where_pixels_look(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, RAY, h, w), of the order of one; zero for absent cameras. None of it changes when the rig is turned.

        The inverse depth at which the pixel's ray meets the plane z = 0 of the base frame (1 is 2 m, negative above the horizon),
        that depth itself (1 is ``depth_max`` or more, and everything above the horizon), the length of the ray's horizontal part
        per metre of depth (how far aside it looks), and the logarithm of the focal length.
        """
        rays, origin = self._rays(K, ego_T_cam, size)
        camera_height = origin[:, :, 2]
        inverse = rays[:, :, 2] / torch.where(camera_height.abs() < 0.1, 0.1, camera_height).neg()
        meets = inverse > 1 / self.config.depth_max
        ground = torch.where(meets, 1 / (inverse.clamp(min=1e-3) * self.config.depth_max), 1.0)
        aside = (rays[:, :, 0].square() + rays[:, :, 1].square()).sqrt() - 1
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
        rays, origin = self._rays(K, ego_T_cam, size)
        depths = self.depths.to(K.dtype)

        def coordinate(axis: int) -> Tensor:
            return (rays[:, :, axis, ..., None] * depths).add_(origin[:, :, axis, ..., None])

        # One coordinate after the other and in place: a robot that moves has a new plan for every set of images.
        z = coordinate(2)
        valid = z >= self.config.z_min
        valid &= z < self.config.z_max
        valid &= mask[:, :, None, None, None]
        del z
        x = coordinate(0).sub_(self.grid.x_min).div_(self.grid.cell)
        valid &= x >= 0
        valid &= x < self.grid.columns
        y = coordinate(1).sub_(self.grid.y_min).div_(self.grid.cell)
        valid &= y >= 0
        valid &= y < self.grid.rows
        shape = (K.shape[0], -1, len(depths))
        return make_pool_plan(*(a.reshape(shape) for a in (x, y, valid)), self.grid.rows, self.grid.columns)

    def frustum(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, h, w, D, 3) base-frame points of every feature pixel's centre at every depth; depth is along the optical axis."""
        rays, origin = self._rays(K, ego_T_cam, size)
        rays, origin = (a.permute(0, 1, 3, 4, 2)[..., None, :] for a in (rays, origin))
        return rays * self.depths.to(K.dtype)[:, None] + origin

    def _rays(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rays (B, N, 3, h, w) of one metre of depth through the feature pixels' centres, in the base frame, and their origins
        (B, N, 3, 1, 1)."""
        # Centres of feature pixels in input pixels (integer coordinates are pixel centres).
        v, u = (((torch.arange(count, device=K.device) + 0.5) * self.config.stride - 0.5).to(K.dtype) for count in size)
        # Products and sums element by element. Autocast and TF32 would round those of a matmul to some decimetres at 50 m, and a
        # library may choose by the batch's size in which order it adds: a point on a cell's border would change places with it.
        right, down, ahead = ego_T_cam[..., :3, :3, None].unbind(-2)
        of_right, of_down, of_ahead = _inverse_intrinsics(K)[..., None, :].unbind(-3)
        ego_R_ray = right * of_right + down * of_down + ahead * of_ahead
        of_u, of_v, of_one = ego_R_ray[..., None, None].unbind(3)
        return of_u * u + of_v * v[:, None] + of_one, ego_T_cam[..., :3, 3, None, None]


def _inverse_intrinsics(K: Tensor) -> Tensor:
    """Inverse of (..., 3, 3) matrices with last row 0 0 1; in closed form, so a masked camera's singular K raises nothing."""
    a, b, c = K[..., 0, 0], K[..., 0, 1], K[..., 0, 2]
    d, e, f = K[..., 1, 0], K[..., 1, 1], K[..., 1, 2]
    det = a * e - b * d
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det, zero, zero, one]
    return torch.stack(rows, dim=-1).view(K.shape)
