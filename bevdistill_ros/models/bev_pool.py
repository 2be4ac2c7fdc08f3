"""BEV pooling: the sum of depth-weighted pixel features over the points that fall into each BEV cell.

``embedding_bag`` does it without materialising the points' features: the table is the pixels' context vectors, a bag is a BEV
cell, its entries are the points inside, their weights the depth probabilities. Exact, differentiable in both, CPU and CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PoolPlan:
    """Which points fall into which cell; depends on the calibration only.

    Attributes:
        points: (M,) index of each kept point among all (batch, camera, row, column, depth bin), sorted by cell.
        pixels: (M,) index of its pixel among all (batch, camera, row, column).
        offsets: (B * rows * columns + 1,) where each cell's points start.
        shape: (B, rows, columns).
    """

    points: Tensor
    pixels: Tensor
    offsets: Tensor
    shape: tuple[int, int, int]


def make_pool_plan(x: Tensor, y: Tensor, valid: Tensor, rows: int, columns: int) -> PoolPlan:
    """Sort points by BEV cell.

    Args:
        x, y: (B, P, D) continuous cell coordinates (column, row) of the P pixels' points at D depths; any value, NaN too, where
            not valid.
        valid: (B, P, D) points that lie on the grid and belong to a camera that is present.
    """
    batch, pixels, bins = valid.shape
    points = valid.flatten().nonzero()[:, 0]
    # Only valid points are cast to integers; 32 bits sort faster than 64.
    column, row = (c.flatten()[points].int() for c in (x, y))
    sample = (points // (pixels * bins)).int()
    # A stable order makes the sums, and so the network, reproducible.
    cells, order = torch.sort((sample * rows + row) * columns + column, stable=True)
    points = points[order]
    counts = torch.bincount(cells, minlength=batch * rows * columns)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    return PoolPlan(points, points // bins, offsets, (batch, rows, columns))


def bev_pool(context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
    """Pool onto the grid.

    Args:
        context: (B * N * H * W, C) features of the pixels.
        depth: (B * N * H * W, D) probability of each depth bin.

    Returns:
        (B, C, rows, columns).
    """
    batch, rows, columns = plan.shape
    # In float32 under autocast, too: a cell sums hundreds of points.
    weights = depth.reshape(-1)[plan.points].float()
    pooled = F.embedding_bag(
        plan.pixels, context.float(), plan.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
    return pooled.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
