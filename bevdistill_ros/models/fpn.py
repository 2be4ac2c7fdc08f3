"""Feature pyramid network (Lin et al. 2017), down to one output scale."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Merges the coarser scales into the finest of those given.

    Args:
        channels_in: channels of each input, finest first; each is half the size of the one before.
        channels: channels of the output.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.output = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)
        )

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Features (B, C_i, H / 2^i, W / 2^i), finest first, to (B, channels, H, W)."""
        merged = self.lateral[-1](features[-1])
        for lateral, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            merged = lateral(feature) + F.interpolate(merged, size=feature.shape[-2:], mode="nearest")
        return self.output(merged)
