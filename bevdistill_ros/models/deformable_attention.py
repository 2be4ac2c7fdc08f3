"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, eq. 3) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def deformable_sample(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """For every query, the weighted sum of what the maps hold at its locations; bilinear, zero outside the maps.

    One call of ``grid_sample`` a level, the heads side by side in its batch: its kernels, the CPU's and CUDA's alike, are the fast
    path, and nothing has to be compiled. It computes in float32 under autocast, for locations need more than bfloat16's eight bits.

    Args:
        value: (B, sum(h * w), heads, D), the levels' maps one after another, each row by row.
        shapes: (h, w) of each level.
        locations: (B, Q, heads, levels, points, 2) as (x, y) in 0..1 of the map: 0 is its left or upper edge, so that cell ``i`` of
            ``n`` has its centre at (i + 0.5) / n.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D), float32 at least.
    """
    batch, _, heads, width = value.shape
    queries = locations.shape[1]
    with torch.autocast(value.device.type, enabled=False):
        exact = torch.float64 if value.dtype == torch.float64 else torch.float32
        places = (2 * locations.to(exact) - 1).permute(0, 2, 3, 1, 4, 5)  # (B, heads, levels, Q, points, 2)
        share = weights.to(exact).permute(0, 2, 3, 1, 4)
        maps = value.to(exact).split([h * w for h, w in shapes], dim=1)
        total = value.new_zeros((), dtype=exact)
        for level, ((h, w), cells) in enumerate(zip(shapes, maps, strict=True)):
            image = cells.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
            place = places[:, :, level].reshape(batch * heads, queries, -1, 2)
            sampled = F.grid_sample(image, place, mode="bilinear", padding_mode="zeros", align_corners=False)
            total = total + (sampled * share[:, :, level].reshape(batch * heads, 1, queries, -1)).sum(dim=-1)
    return total.reshape(batch, heads * width, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Every query reads ``points`` places on each level, in each head, about its reference; it chooses places and weights itself.

    Args:
        channels: of queries and result; a multiple of ``heads``.
        value_channels: of the maps that are read; None: ``channels``.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int, value_channels: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels {channels} must be a multiple of heads {heads}")
        self._shape = (heads, levels, points)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels if value_channels is None else value_channels, channels)
        self.output = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Each head looks its own way, its point ``i`` at ``i + 1`` cells from the reference (section A.4 of the paper)."""
        heads, levels, points = self._shape
        angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        way = torch.stack([angle.cos(), angle.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)
        ring = way[:, None, None, :] * torch.arange(1.0, points + 1)[None, None, :, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(heads, levels, points, 2).flatten())
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(tensor)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, query: Tensor, references: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Read the maps at the references.

        Args:
            query: (B, Q, channels).
            references: (B, Q, levels, 2) as (x, y) in 0..1 of each map, see ``deformable_sample``; or (B, Q, levels, points, 2),
                where each point has a reference of its own.
            value: (B, sum(h * w), value_channels), the levels' maps one after another, each row by row.
            shapes: (h, w) of each level.

        Returns:
            (B, Q, channels).
        """
        heads, levels, points = self._shape
        if references.dim() == 4:
            references = references[..., None, :]
        offsets = self.offsets(query).unflatten(-1, (heads, levels, points, 2))
        size = query.new_tensor([(w, h) for h, w in shapes], dtype=references.dtype)  # (levels, 2)
        locations = references[:, :, None] + offsets.to(references.dtype) / size[:, None]
        weights = self.weights(query).unflatten(-1, (heads, levels * points)).softmax(dim=-1)
        sampled = deformable_sample(
            self.value(value).unflatten(-1, (heads, -1)), shapes, locations, weights.unflatten(-1, (levels, points))
        )
        return self.output(sampled)
