"""Dynamic pillars: LiDAR points to a map of features (PointPillars, Lang et al. 2019; every point counts, as in Zhou et al. 2020).

Only sorting, gathers and reductions of PyTorch, on the CPU and on CUDA alike. The number of points is free, and so is their order.
Points are sorted by pillar, so that each reduction runs over neighbours in memory and gives the same sums in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from bevdistill_ros.config import PillarsConfig
from bevdistill_ros.geometry import BevGrid

POINT = 5
"""Values of a point: x, y, z (m, base frame at the reference time), intensity, age (s, how long before the reference time)."""

FEATURES = POINT + 3 + 2
"""Values of a point that the layers see: its own, offset from the mean of its pillar's points, and from the pillar's centre."""


@dataclass(frozen=True)
class Assignment:
    """Which points of a batch lie in which pillar.

    Attributes:
        points: (M, POINT), those inside of the grid and of the heights that count, pillar by pillar.
        counts: (P,) how many are in each of the occupied pillars.
        cells: (P,) of the occupied pillars, ascending: their cells among all (sample, row, column).
        shape: (B, rows, columns) of the pillars' grid.
    """

    points: Tensor
    counts: Tensor
    cells: Tensor
    shape: tuple[int, int, int]


class Pillars(nn.Module):
    """Point clouds to features (B, channels, rows, columns) of the pillars' grid; an empty pillar is zero.

    Normalisation is by point (LayerNorm), not by batch: a cloud of one point or of none trains, too.

    Attributes:
        grid: the model's, with cells of the pillars' size.
        channels: of the result.
    """

    def __init__(self, config: PillarsConfig, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = replace(grid, cell=config.cell)
        self.channels = config.channels[-1]
        widths = (FEATURES, *config.channels)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(True))
                for before, after in pairwise(widths)
            )
        )

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """Points (n_i, POINT) of each sample to (B, channels, rows, columns)."""
        assigned = self.assign(points)
        # In float32 under autocast, too: positions keep their digits, and on a CPU bfloat16 layers of ever other sizes, as the
        # number of points is, take more and more memory, since each size is compiled and kept.
        with torch.autocast(assigned.points.device.type, enabled=False):
            features = self.layers(self.features(assigned))
            largest = reduce_pillars(features, "max", assigned.counts)
        canvas = largest.new_zeros(math.prod(assigned.shape), self.channels)
        canvas.index_copy_(0, assigned.cells, largest)
        return canvas.view(*assigned.shape, self.channels).permute(0, 3, 1, 2)

    @torch.no_grad()
    def assign(self, points: Sequence[Tensor]) -> Assignment:
        """Leave out what is outside or not finite, and find the pillars of the others."""
        shape = (len(points), self.grid.rows, self.grid.columns)
        counts = torch.tensor([len(own) for own in points], device=points[0].device)
        sample = torch.repeat_interleave(torch.arange(len(points), device=counts.device), counts)
        together = torch.cat(list(points))
        column, row = self.grid.to_cells(together[:, :2]).floor().unbind(-1)
        height = together[:, 2]
        kept = (column >= 0) & (column < shape[2]) & (row >= 0) & (row < shape[1])
        kept &= (height >= self.config.z_min) & (height < self.config.z_max) & together.isfinite().all(dim=1)
        kept = kept.nonzero()[:, 0]
        cell = (sample[kept] * shape[1] + row[kept].long()) * shape[2] + column[kept].long()
        cell, order = torch.sort(cell, stable=True)
        cells, counts = torch.unique_consecutive(cell, return_counts=True)
        return Assignment(together[kept[order]], counts, cells, shape)

    def features(self, assigned: Assignment) -> Tensor:
        """(M, FEATURES) of each point, of the order of one."""
        config, grid = self.config, self.grid
        xy, z, intensity, age = assigned.points.split([2, 1, 1, 1], dim=1)
        row_and_column = assigned.cells % (grid.rows * grid.columns)
        centers = torch.stack([row_and_column % grid.columns, row_and_column // grid.columns], dim=1) + 0.5
        from_center = xy - grid.to_meters(centers.to(xy.dtype)).repeat_interleave(assigned.counts, 0)
        # Means of small numbers, so that float32 keeps their digits far from the origin.
        relative = torch.cat([from_center, z], dim=1)
        mean = reduce_pillars(relative, "mean", assigned.counts)
        reach = max(abs(grid.x_min), abs(grid.x_max), abs(grid.y_min), abs(grid.y_max))
        height = max(abs(config.z_min), abs(config.z_max))
        from_mean = (relative - mean.repeat_interleave(assigned.counts, 0)) / relative.new_tensor(
            [config.cell, config.cell, 1.0]
        )
        own = [xy / reach, z / height, intensity / config.intensity, age]
        return torch.cat([*own, from_mean, from_center / config.cell], dim=1)


def reduce_pillars(values: Tensor, reduction: str, counts: Tensor) -> Tensor:
    """(P, C): "max" or "mean" of each pillar's rows of ``values`` (M, C), which stand pillar by pillar, ``counts`` (P,) of each."""
    # "unsafe" leaves out a check of the counts, which is slow and which no pillars at all do not pass.
    return torch.segment_reduce(values, reduction, lengths=counts, unsafe=True)
