"""BEVFormer's encoder (Li et al. 2022, section 3): BEV queries that gather image features by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.config import BevFormerConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.cell_views import CellViews, ViewFinder
from bevdistill_ros.models.deformable_attention import DeformableAttention
from bevdistill_ros.models.feedforward import make_feedforward


class BevFormerEncoder(nn.Module):
    """Image features of several scales to BEV features, through one query a BEV cell.

    A query is what its cell has learnt to look for, and a learnt embedding of its row and its column. Image features are told their
    scale by a learnt embedding. They are told nothing of their camera, though BEVFormer adds an embedding of its number: cameras
    may be in any order and number here, so a camera is known by its calibration alone, through where it sees a cell.

    History: the queries' self-attention reads any number of BEV maps, see ``previous`` of ``forward``.
    """

    def __init__(self, config: BevFormerConfig, grid: BevGrid) -> None:
        super().__init__()
        self.shape = grid.rows, grid.columns
        channels, cells = config.channels, grid.rows * grid.columns
        self.queries = nn.Parameter(torch.randn(cells, channels))
        self.row_position = nn.Parameter(torch.rand(grid.rows, channels // 2))
        self.column_position = nn.Parameter(torch.rand(grid.columns, channels // 2))
        self.level = nn.Parameter(torch.randn(config.levels, channels))
        self.views = ViewFinder(grid, config.heights, config.z_min, config.z_max)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        row, column = torch.meshgrid(*(torch.arange(n) + 0.5 for n in self.shape), indexing="ij")
        centers = torch.stack([column / grid.columns, row / grid.rows], dim=-1).flatten(0, 1)
        self.register_buffer("centers", centers, persistent=False)

    def forward(
        self,
        features: Sequence[Tensor],
        K: Tensor,
        ego_T_cam: Tensor,
        mask: Tensor,
        size: tuple[int, int],
        previous: Sequence[Tensor] = (),
    ) -> Tensor:
        """BEV features (B, C, rows, columns).

        Args:
            features: (B, N, C, h, w) of each level.
            K: (B, N, 3, 3) of images of ``size`` = (H, W) pixels.
            ego_T_cam: (B, N, 4, 4).
            mask: (B, N) bool, the cameras present.
            previous: BEV features of earlier frames, each (B, C, rows, columns), already moved to this frame's base frame; whoever
                keeps them does so without their gradients.
        """
        return self.run(features, self.views(K, ego_T_cam, mask, size), previous)

    def run(self, features: Sequence[Tensor], views: CellViews, previous: Sequence[Tensor] = ()) -> Tensor:
        """``forward`` where it is known already what the cameras see."""
        batch = features[0].shape[0]
        shapes = [tuple(level.shape[-2:]) for level in features]
        value = torch.cat(
            [
                level.flatten(0, 1).flatten(2).transpose(1, 2) + embedding
                for level, embedding in zip(features, self.level, strict=True)
            ],
            dim=1,
        )[views.images]
        history = [bev.flatten(2).transpose(1, 2) for bev in previous]
        rows, columns = self.shape
        position = torch.cat(
            [
                self.row_position[:, None].expand(-1, columns, -1),
                self.column_position[None].expand(rows, -1, -1),
            ],
            dim=-1,
        ).flatten(0, 1)
        queries = self.queries.expand(batch, -1, -1)
        references = self.centers[None, :, None].expand(batch, -1, -1, -1)
        for layer in self.layers:
            queries = layer(queries, position, references, self.shape, history, value, shapes, views)
        return queries.transpose(1, 2).unflatten(2, self.shape)


class _Layer(nn.Module):
    """Cells read the BEV map about them, then the images that show them, then each itself; normalised after each."""

    def __init__(self, config: BevFormerConfig) -> None:
        super().__init__()
        channels = config.channels
        self.bev = DeformableAttention(channels, config.heads, 1, config.bev_points)
        self.images = SpatialCrossAttention(config)
        self.feedforward = make_feedforward(channels, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        references: Tensor,
        shape: tuple[int, int],
        history: Sequence[Tensor],
        value: Tensor,
        shapes: Sequence[tuple[int, int]],
        views: CellViews,
    ) -> Tensor:
        """New queries (B, Q, C).

        Args:
            queries: (B, Q, C).
            position: (Q, C).
            references: (B, Q, 1, 2) the cells' centres in 0..1 of the map.
            shape: (rows, columns) of the map.
            history: (B, Q, C) of each earlier frame.
            value, shapes, views: see ``SpatialCrossAttention``.
        """
        # The paper's temporal self-attention (section 3.4): the mean over the frames, of which there may be this one only.
        maps = [queries, *history]
        found = sum(self.bev(queries + position, references, bev, [shape]) for bev in maps) / len(maps)
        queries = self.norms[0](queries + self.dropout(found))
        queries = self.norms[1](queries + self.dropout(self.images(queries, value, shapes, views)))
        return self.norms[2](queries + self.dropout(self.feedforward(queries)))


class SpatialCrossAttention(nn.Module):
    """Every cell reads the images that show it, about the places where its vertical line is seen there (section 3.3).

    Its result is the mean over the cameras that see the cell, and 0 where none does. Only pairs of a camera and a cell that it sees
    are computed.
    """

    def __init__(self, config: BevFormerConfig) -> None:
        super().__init__()
        self.levels, self.points_a_height = config.levels, config.points // config.heights
        self.attention = DeformableAttention(config.channels, config.heads, config.levels, config.points)

    def forward(self, queries: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]], views: CellViews) -> Tensor:
        """(B, Q, C) to the same shape.

        Args:
            value: (R, sum(h * w), C) features of the images of ``views``, the levels one after another.
            shapes: (h, w) of each level.
        """
        flat = queries.flatten(0, 1)
        # Point i of a head is about the place of height i % heights: every height has points near to it and far from it.
        references = views.places.repeat(1, 1, self.points_a_height, 1)[:, :, None].expand(-1, -1, self.levels, -1, -1)
        found = self.attention(flat[views.cells], references, value, shapes)
        found = (found * views.shares[..., None]).to(flat.dtype)
        return torch.zeros_like(flat).index_add(0, views.cells.flatten(), found.flatten(0, 1)).view_as(queries)
