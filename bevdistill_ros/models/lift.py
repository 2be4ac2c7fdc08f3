"""Lift-splat view transform (Philion & Fidler 2020): image features to BEV by a depth distribution for every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bevdistill_ros.config import LiftConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.bev_pool import PoolPlan, bev_pool
from bevdistill_ros.models.lift_geometry import RAY, LiftGeometry
from bevdistill_ros.models.outputs import ImageFeatures


class LiftCalibration(NamedTuple):
    """What a lift needs to know of the cameras, and all that it does: it depends on calibration and weights, not on images.

    Attributes:
        plan: which points of which pixels fall into which cell.
        rays: (B, N, neck_channels, h, w) what ``ray_net`` makes of where the pixels look; None without one.
    """

    plan: PoolPlan
    rays: Tensor | None


class Lift(LiftGeometry):
    """Depth distribution times context, pooled over the points of each BEV cell.

    Depth from one image hangs on the calibration: how large things appear on the focal length, where they stand on the camera's
    height and pitch. With ``config.ray_channels`` every pixel is therefore told where it looks (``where_pixels_look``) before its
    depth is estimated, as BEVDepth (Li et al. 2023, section 3.3) tells its depth network the intrinsics. It then holds under other
    cameras and under the zooms and turns of augmentation, too.

    Attributes:
        pool: sums over the points of each cell, as ``bev_pool``, which it is; an export puts in what its format knows.
    """

    pool: Callable[[Tensor, Tensor, Any], Tensor] = staticmethod(bev_pool)

    def __init__(self, config: LiftConfig, grid: BevGrid) -> None:
        super().__init__(config, grid)
        self.depth_net = nn.Sequential(
            nn.Conv2d(config.neck_channels, config.neck_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.neck_channels),
            nn.ReLU(True),
            nn.Conv2d(config.neck_channels, config.bins + config.channels, 1),
        )
        self.ray_net: nn.Module | None = None
        if config.ray_channels:
            self.ray_net = nn.Sequential(
                nn.Conv2d(RAY, config.ray_channels, 1),
                nn.ReLU(True),
                nn.Conv2d(config.ray_channels, config.neck_channels, 1),
            )

    def forward(self, features: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor) -> tuple[Tensor, ImageFeatures]:
        """Image features to BEV features (B, channels, rows, columns), and what was lifted.

        Args:
            features: (B, N, C, h, w) at ``config.stride``.
            K: (B, N, 3, 3) of the network's input images.
            ego_T_cam: (B, N, 4, 4).
            mask: (B, N) bool, the cameras present.
        """
        return self.run(features, self.calibrate(K, ego_T_cam, mask, features.shape[-2:]))

    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> LiftCalibration:
        """What ``run`` needs of a calibration, for feature maps of ``size`` = (h, w); see ``forward``."""
        return LiftCalibration(self.plan(K, ego_T_cam, mask, size), self.rays(K, ego_T_cam, mask, size))

    def run(self, features: Tensor, calibration: LiftCalibration) -> tuple[Tensor, ImageFeatures]:
        """``forward`` under a calibration that is known already."""
        image = self.describe(features, calibration.rays)
        return self.splat(image, calibration.plan), image

    def rays(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor | None:
        """``LiftCalibration.rays``, differentiable in the weights of ``ray_net``; arguments as for ``calibrate``."""
        return self.told(self.looks(K, ego_T_cam, mask, size))

    def looks(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor | None:
        """``where_pixels_look`` for the ``ray_net``; None without one."""
        return None if self.ray_net is None else self.where_pixels_look(K, ego_T_cam, mask, size)

    def told(self, looks: Tensor | None) -> Tensor | None:
        """What ``ray_net`` makes of ``where_pixels_look``: (B, N, RAY, h, w) to (B, N, neck_channels, h, w); None without one."""
        if self.ray_net is None:
            return None
        return self.ray_net(looks.flatten(0, 1)).unflatten(0, looks.shape[:2])

    def padded(self, plan: PoolPlan, cameras: int, size: tuple[int, int]) -> PoolPlan:
        """The plan of one sample with room for all points of feature maps of ``size`` = (h, w), see ``PoolPlan.padded``."""
        return plan.padded(cameras * size[0] * size[1] * self.config.bins)

    def describe(self, features: Tensor, rays: Tensor | None) -> ImageFeatures:
        """Depths and context of every pixel (B, N, C, h, w), told where it looks by ``rays``."""
        x = features.flatten(0, 1)
        if rays is not None:
            x = x + rays.flatten(0, 1)
        out = self.depth_net(x).unflatten(0, features.shape[:2])
        return ImageFeatures(*out.split([self.config.bins, self.config.channels], dim=2))

    def splat(self, image: ImageFeatures, plan: PoolPlan) -> Tensor:
        """What was described to BEV features (B, channels, rows, columns). Lifts of one configuration can share a plan."""
        depth = image.depth.softmax(dim=2).permute(0, 1, 3, 4, 2).reshape(-1, self.config.bins)
        context = image.context.permute(0, 1, 3, 4, 2).reshape(-1, self.config.channels)
        return self.pool(context, depth, plan)


def all_present(cameras: Tensor) -> Tensor:
    """The mask (B, N) of cameras that are all there, of anything that is (B, N, ...) of them."""
    return torch.ones(cameras.shape[:2], dtype=torch.bool, device=cameras.device)
