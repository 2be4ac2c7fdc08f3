"""Convolutional fuser of two BEV maps (BEVFusion, Liu et al. 2023, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevdistill_ros.models.conv import conv_bn_relu


class ConvFuser(nn.Sequential):
    """Camera features (B, camera, Y, X) and LiDAR features (B, lidar, Y, X), side by side, to (B, channels, Y, X).

    A convolution reaches over the borders of its cell: what the camera places a little off still meets what LiDAR saw there.
    """

    def __init__(self, camera: int, lidar: int, channels: int) -> None:
        super().__init__(*conv_bn_relu(camera + lidar, channels))

    def forward(self, camera: Tensor, lidar: Tensor) -> Tensor:
        """See the class."""
        return super().forward(torch.cat([camera, lidar], dim=1))
