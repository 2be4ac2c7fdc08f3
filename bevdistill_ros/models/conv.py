"""The convolution that most parts are made of."""

from __future__ import annotations

from torch import nn


def conv_bn_relu(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)
    )
