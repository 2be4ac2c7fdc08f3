"""Training targets of the centre head: Gaussian heatmaps and box codes over the BEV grid (CenterPoint, Yin et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bevdistill_ros.config import CenterLossConfig, ModelConfig
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.center_head import BOX_CODE, group_of_class


@dataclass(frozen=True)
class CenterTargets:
    """Attributes:
    heatmap: (B, classes, Y, X), 1 at the centres' cells.
    codes: (B, groups, BOX_CODE, Y, X); NaN where a value is unknown.
    weight: (B, groups, Y, X), 1 where codes are to be regressed.
    count: number of centres in the batch.
    """

    heatmap: Tensor
    codes: Tensor
    weight: Tensor
    count: int

    def counts(self) -> Tensor:
        """(2,) float32: how many centres there are, and how many cells regress one."""
        return torch.stack([self.weight.new_tensor(float(self.count)), (self.weight > 0).sum().float()])


def gaussian_radius(length: Tensor, width: Tensor, overlap: float) -> Tensor:
    """Radius (cells) of a box's Gaussian, as CenterPoint computes it.

    After CornerNet (Law & Deng 2018): how far corners may shift until the box overlaps itself by ``overlap``, the smallest of the
    three cases that both move the same way, inwards, or outwards. As in the codes of both papers the roots are
    (b + sqrt(b^2 - 4ac)) / 2, without a division by ``a``, so they are not quite those shifts; results are tuned to them.
    """

    def root(b: Tensor, c: Tensor, a: float) -> Tensor:
        return (b + (b * b - 4 * a * c).sqrt()) / 2

    total, area = length + width, length * width
    same = root(total, area * (1 - overlap) / (1 + overlap), 1.0)
    inwards = root(2 * total, (1 - overlap) * area, 4.0)
    outwards = root(-2 * overlap * total, (overlap - 1) * area, 4.0 * overlap)
    return torch.minimum(torch.minimum(same, inwards), outwards)


def center_targets(
    boxes: list[Boxes], model: ModelConfig, config: CenterLossConfig, device: torch.device
) -> CenterTargets:
    """Targets of a batch; boxes whose centre is off the grid are left out."""
    grid, classes = model.grid, model.classes
    groups = torch.tensor(group_of_class(classes, model.head), device=device)
    shape = (grid.rows, grid.columns)
    heatmap = torch.zeros(len(boxes), len(classes), *shape, device=device)
    codes = torch.zeros(len(boxes), len(model.head.groups), BOX_CODE, *shape, device=device)
    weight = torch.zeros(len(boxes), len(model.head.groups), *shape, device=device)
    columns, rows = _cell_axes(grid, device)
    count = 0
    for s, found in enumerate(boxes):
        found = found[grid.contains(found.centers[:, :2])]
        if not len(found):
            continue
        count += len(found)
        labels = torch.from_numpy(found.labels).to(device)
        centers = grid.to_cells(torch.from_numpy(found.centers[:, :2]).to(device)).float()
        sizes = torch.from_numpy(found.sizes).to(device).float()
        cells = centers.floor()
        radius = gaussian_radius(sizes[:, 0] / grid.cell, sizes[:, 1] / grid.cell, config.overlap)
        radius = radius.floor().clamp(min=config.min_radius)
        dx, dy = columns - cells[:, :1], rows - cells[:, 1:]  # (n, X), (n, Y)
        # A Gaussian is the product of one over the columns and one over the rows.
        sigma = (2 * radius + 1) / 6
        bump_x, bump_y = (
            torch.exp(-(d**2) / (2 * sigma[:, None] ** 2)) * (d.abs() <= radius[:, None]) for d in (dx, dy)
        )
        bump = bump_x[:, None, :] * bump_y[:, :, None]
        for label in labels.unique().tolist():
            heatmap[s, label] = bump[labels == label].amax(dim=0)

        # Each cell near a centre regresses the nearest one of its group.
        near_x, near_y = dx.abs() <= config.regress_radius, dy.abs() <= config.regress_radius
        near = near_x[:, None, :] & near_y[:, :, None]
        offset_x = (centers[:, 0, None, None] - columns[None, None, :] - 0.5).expand(-1, *shape)
        offset_y = (centers[:, 1, None, None] - rows[None, :, None] - 0.5).expand(-1, *shape)
        squared = torch.where(near, offset_x**2 + offset_y**2, torch.inf)
        yaw = torch.from_numpy(found.yaws).to(device).float()
        z = torch.from_numpy(found.centers[:, 2]).to(device).float()
        velocity = torch.from_numpy(found.velocities).to(device).float()
        box_part = torch.cat([z[:, None], sizes.log(), yaw.sin()[:, None], yaw.cos()[:, None], velocity], dim=1)
        for group in groups[labels].unique().tolist():
            members = (groups[labels] == group).nonzero()[:, 0]
            nearest, which = squared[members].min(dim=0)
            which = members[which]
            weight[s, group] = nearest.isfinite().float()
            own_offset = torch.stack([o.gather(0, which[None])[0] for o in (offset_x, offset_y)])
            codes[s, group] = torch.cat([own_offset, box_part[which].permute(2, 0, 1)])
    return CenterTargets(heatmap, codes, weight, count)


def _cell_axes(grid: BevGrid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the columns and of the rows."""
    return (
        torch.arange(grid.columns, device=device, dtype=torch.float32),
        torch.arange(grid.rows, device=device, dtype=torch.float32),
    )
