"""The whole set's images on the training's device, and the changes of augmentation made there, a batch at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.augmentation import COVER, GRID_KEPT, LUMA, PixelChange
from bevdistill_ros.training.data.image_cache import ImageCache

RESERVE = 2 << 30
"""Bytes of GPU memory that must stay free for the training itself."""

CHUNK = 64
"""Samples copied at a time."""


class DeviceImages:
    """All images of a cache as uint8 on a device; ``gather`` makes a batch of them."""

    def __init__(self, cache: ImageCache, device: torch.device) -> None:
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if cache.images.nbytes + RESERVE > free:
                raise UserError(
                    f"--dataset-on-device: the images take {cache.images.nbytes / 1e9:.1f} GB and the training some more, "
                    f"{free / 1e9:.1f} GB of the GPU are free: leave the option out, --cache-images alone needs no GPU memory"
                )
        self.images = torch.empty(cache.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self.images), CHUNK):
            chunk = torch.tensor(cache.images[start : start + CHUNK])
            self.images[start : start + CHUNK] = chunk.to(device)

    def gather(self, index: Tensor, change: PixelChange) -> Tensor:
        """Images (B, N, H, W, 3) uint8 of the samples ``index`` (B,), changed (see ``change_pixels``)."""
        return change_pixels(self.images[index], change)


@torch.no_grad()
def change_pixels(images: Tensor, change: PixelChange) -> Tensor:
    """What ``augmentation.change_pixels`` does to one sample, for a batch on any device; equal to it within the rounding of
    OpenCV's interpolation and of its products of colours.

    Args:
        images: (B, N, H, W, 3) uint8 BGR.
        change: tensors with a leading batch axis.
    """
    batch, cameras, height, width, _ = images.shape
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()
    sources = _source_pixels(change, height, width).flatten(0, 1)
    # grid_sample's coordinates: -1 and 1 are the centres of the first and the last pixel
    last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=images.device)
    pixels = F.grid_sample(pixels, sources * 2 / last - 1, "bilinear", "zeros", align_corners=True).round_()
    luma = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    grey = change.grey[:, None].expand(batch, cameras).reshape(-1, 1, 1, 1)
    greyed = (pixels * luma).sum(1, keepdim=True).round_()
    if change.colours.shape[1]:
        colours = change.colours.to(torch.float32).flatten(0, 1)[..., None, None]  # (B * N, 3, 3, 1, 1)
        pixels = sum(colours[:, :, i] * pixels[:, i, None] for i in range(3))  # no matmul, which TF32 would round
    pixels = torch.where(grey, greyed, pixels)
    contrast, brightness = (value.to(torch.float32).view(-1, 1, 1, 1) for value in (change.contrast, change.brightness))
    pixels = ((pixels - 127.5) * contrast + 127.5 + brightness).clamp_(0, 255).round_()
    covered = _grid_squares(change.grid, height, width)[:, None].expand(-1, cameras, -1, -1).flatten(0, 1)[:, None]
    pixels = torch.where(covered, torch.tensor(COVER, device=images.device, dtype=pixels.dtype).view(3, 1, 1), pixels)
    pixels = pixels * change.visible.reshape(-1, 1, 1, 1)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, (batch, cameras))


def _grid_squares(grid: Tensor, height: int, width: int) -> Tensor:
    """``augmentation.grid_squares`` of a batch: grid (B, 3) to (B, H, W) bool."""
    period, *shift = grid[:, :, None].unbind(1)  # each (B, 1)
    kept = torch.where(period > 0, torch.floor(period * GRID_KEPT + 0.5), torch.inf)
    x, y = (
        (torch.arange(length, device=grid.device) - start) % period.clamp(min=1) >= kept
        for length, start in zip((width, height), shift, strict=True)
    )
    return y[:, :, None] & x[:, None]


def _source_pixels(change: PixelChange, height: int, width: int) -> Tensor:
    """(B, N, H, W, 2) float32: the pixel of the unchanged image that each pixel comes from."""
    inverse = torch.linalg.inv(change.matrices.double()).float()
    device = inverse.device
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    u = torch.where(change.flip[:, None, None], width - 1 - u, u)[:, None]  # (B, 1, H, W): the flip comes last
    a = inverse[..., None, None]
    x = a[:, :, 0, 0] * u + a[:, :, 0, 1] * v + a[:, :, 0, 2]
    y = a[:, :, 1, 0] * u + a[:, :, 1, 1] * v + a[:, :, 1, 2]
    return torch.stack([x, y], dim=-1)
