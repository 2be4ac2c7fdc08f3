"""Convolutional encoder of the BEV map: residual stages that halve, then a pyramid back to full resolution."""

from __future__ import annotations

from torch import Tensor, nn

from bevdistill_ros.config import BevEncoderConfig
from bevdistill_ros.models.fpn import FPN
from bevdistill_ros.models.resnet import BasicBlock


class BevEncoder(nn.Module):
    """(B, channels_in, Y, X) to (B, config.channels, Y, X); channels double with every halving."""

    def __init__(self, channels_in: int, config: BevEncoderConfig) -> None:
        super().__init__()
        widths = [config.channels * 2**i for i in range(config.halvings + 1)]
        stages = []
        previous = channels_in
        for i, width in enumerate(widths):
            blocks = [BasicBlock(previous, width, 2 if i else 1)]
            blocks += [BasicBlock(width, width) for _ in range(config.blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            previous = width
        self.stages = nn.ModuleList(stages)
        self.pyramid = FPN(tuple(widths), config.channels)

    def forward(self, bev: Tensor) -> Tensor:
        """See the class."""
        features = []
        for stage in self.stages:
            bev = stage(bev)
            features.append(bev)
        return self.pyramid(tuple(features))
