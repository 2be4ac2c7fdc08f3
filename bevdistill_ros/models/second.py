"""The 2-D backbone of SECOND (Yan et al. 2018), with a feature pyramid onto the grid of the model."""

from __future__ import annotations

from torch import Tensor, nn

from bevdistill_ros.config import SecondConfig
from bevdistill_ros.models.conv import conv_bn_relu
from bevdistill_ros.models.fpn import FPN


class Second(nn.Module):
    """(B, channels_in, Y, X) to (B, config.channels_out, Y / scale, X / scale).

    Stages finer than ``scale`` only lead to the next one; those from there on are merged.

    Args:
        scale: one of ``config.scales()``.
    """

    def __init__(self, channels_in: int, config: SecondConfig, scale: int) -> None:
        super().__init__()
        self.first_merged = config.scales().index(scale)
        stages = []
        for stride, layers, channels in zip(config.strides, config.layers, config.channels, strict=True):
            stage = [conv_bn_relu(channels_in, channels, stride)]
            stage += [conv_bn_relu(channels, channels) for _ in range(layers - 1)]
            stages.append(nn.Sequential(*stage))
            channels_in = channels
        self.stages = nn.ModuleList(stages)
        self.pyramid = FPN(config.channels[self.first_merged :], config.channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return self.pyramid(tuple(features[self.first_merged :]))
