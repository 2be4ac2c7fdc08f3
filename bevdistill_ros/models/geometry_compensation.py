"""Geometry compensation (SimDistill, Zhao et al. 2024): features moved to where they belong, by attention that chooses its places.

Depth from images is a little off, and so features lie a little beside their object. Every cell looks about itself and takes over
what fits it better.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevdistill_ros.models.deformable_attention import DeformableAttention


class GeometryCompensation(nn.Module):
    """x + DFA(x + P, x) on maps (B, channels, rows, columns), to the same shape; x, until it has learnt something.

    DFA is deformable self-attention of one level: the queries are the features with their position added, the values the features,
    the references the cells' centres. P is learnt: half of its channels tell the column, half the row. There is no normalisation
    and no feed-forward layer. What comes after it may have been trained without it (``--weights``): attention's last layer
    therefore starts at zero.

    Args:
        channels: even and a multiple of ``heads``.
        heads, points: of the attention.
    """

    def __init__(self, channels: int, rows: int, columns: int, heads: int, points: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels {channels} must be even: half of them tell the column, half the row")
        self.shape = (rows, columns)
        self.row = nn.Parameter(torch.rand(rows, channels // 2))
        self.column = nn.Parameter(torch.rand(columns, channels // 2))
        self.attention = DeformableAttention(channels, heads, 1, points)
        nn.init.zeros_(self.attention.output.weight)
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        self.register_buffer("references", torch.stack([x, y], dim=-1).view(1, -1, 1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        cells = x.flatten(2).transpose(1, 2)  # (B, rows * columns, channels)
        references = self.references.expand(x.shape[0], -1, -1, -1)
        moved = self.attention(cells + self.positions(), references, cells, [self.shape])
        return x + moved.transpose(1, 2).unflatten(2, self.shape)

    def positions(self) -> Tensor:
        """P, (rows * columns, channels)."""
        rows, columns = self.shape
        column = self.column[None].expand(rows, -1, -1)
        row = self.row[:, None].expand(-1, columns, -1)
        return torch.cat([column, row], dim=-1).flatten(0, 1)
