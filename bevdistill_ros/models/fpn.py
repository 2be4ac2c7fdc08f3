"""Feature pyramid networks (Lin et al. 2017), of one output scale and of several."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.models.conv import conv_bn_relu


class FPN(nn.Module):
    """Merges the coarser scales into the finest of those given.

    Args:
        channels_in: channels of each input, finest first; each is half the size of the one before.
        channels: channels of the output.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.output = conv_bn_relu(channels, channels)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Features (B, C_i, H / 2^i, W / 2^i), finest first, to (B, channels, H, W)."""
        merged = self.lateral[-1](features[-1])
        for lateral, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            merged = lateral(feature) + F.interpolate(merged, size=feature.shape[-2:], mode="nearest")
        return self.output(merged)


class MultiScaleFPN(nn.Module):
    """A feature pyramid with an output of each scale, as in the paper: convolutions alone, without normalisation.

    Args:
        channels_in: channels of each input, finest first; each is half the size of the one before.
        channels: channels of every output.
        levels: outputs, finest first; up to one more than inputs, which is then made of the coarsest output by a stride of 2.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int, levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in channels_in[:levels])
        self.extra = nn.Conv2d(channels, channels, 3, 2, 1) if levels > len(channels_in) else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: tuple[Tensor, ...]) -> list[Tensor]:
        """Features (B, C_i, H / 2^i, W / 2^i), finest first, to (B, channels, H / 2^i, W / 2^i) of each level."""
        merged = [self.lateral[-1](features[-1])]
        for lateral, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            merged.insert(0, lateral(feature) + F.interpolate(merged[0], size=feature.shape[-2:], mode="nearest"))
        outputs = [output(own) for output, own in zip(self.output, merged)]
        return outputs if self.extra is None else [*outputs, self.extra(outputs[-1])]
