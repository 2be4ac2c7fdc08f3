"""Modulated deformable convolution (DCNv2, Zhu et al. 2019), by torchvision's operator where torchvision is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from bevdistill_ros.config import ImageModelConfig, ModelConfig
from bevdistill_ros.errors import UserError


def find_operator() -> Callable | None:
    """torchvision's ``deform_conv2d``; None where torchvision cannot be imported."""
    try:
        from torchvision.ops import deform_conv2d
    except (ImportError, RuntimeError, OSError):  # the latter two: it was built for another torch
        return None
    return deform_conv2d


def buildable(config: ModelConfig) -> ModelConfig:
    """``config`` itself, or, where it has deformable convolutions and torchvision is missing, with plain ones in their place.

    For who makes a new model and stores the configuration that it has then. One that is stored is never changed.
    """
    if not isinstance(config, ImageModelConfig) or not config.backbone.deformable_stages or find_operator() is not None:
        return config
    return replace(config, backbone=replace(config.backbone, deformable_stages=0))


class DeformableConv(nn.Conv2d):
    """A 3x3 convolution without bias that chooses, pixel by pixel, where it reads and with which weights in 0..1.

    ``weight`` is that of a plain convolution, so a plain one's loads; ``conv_offset`` has mmdetection's name and order of channels.
    It starts as a plain convolution times 1/2.

    Raises:
        UserError: torchvision cannot be imported. A plain convolution in its place would be another model, so this is told, never
            done quietly; see ``buildable``.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, 3, stride, 1, bias=False)
        operator = find_operator()
        if operator is None:
            raise UserError(
                "backbone.deformable_stages: deformable convolutions need torchvision, which cannot be imported here: "
                "install the torchvision that belongs to this torch"
            )
        self._operator = operator
        self.conv_offset = nn.Conv2d(channels_in, 3 * 9, 3, stride, 1)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """No offsets, all weights 1/2."""
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels, H / stride, W / stride); float32 under autocast, for places need it."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            places, weights = self.conv_offset(x).split([18, 9], dim=1)
            return self._operator(x, places, self.weight, None, self.stride, self.padding, mask=weights.sigmoid())
