"""From a camera's pixels to what an image backbone takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# ImageNet statistics, in the BGR order that images have here.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = (57.375, 57.12, 58.395)


class PixelNorm(nn.Module):
    """Pixels less ImageNet's mean, divided by its deviation. It has nothing to learn and no state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN[::-1]), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD[::-1]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, H, W, 3) uint8 BGR to (B * N, 3, H, W) RGB, the order of torchvision's checkpoints."""
        # Bytes change places before they become floats, and then row by row: three values in a row keep a CPU from its stride.
        rgb = torch.stack(images.flatten(0, 1).unbind(dim=-1)[::-1], dim=-1)
        width = rgb.shape[2]
        rows = rgb.flatten(2).to(self.mean.dtype)
        rows = rows.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
