"""Training targets over the BEV grid: Gaussian heatmaps, and the centre head's box codes (CenterPoint, Yin et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import BOX_CODE, encode_boxes
from bevdistill_ros.models.center_head import group_of_class
from bevdistill_ros.training.config import CenterLossConfig


@dataclass(frozen=True)
class CenterTargets:
    """Attributes:
    heatmap: (B, classes, Y, X), 1 at the centres' cells.
    codes: (B, groups, BOX_CODE, Y, X); NaN where a value is unknown.
    weight: (B, groups, Y, X), 1 where codes are to be regressed.
    count: number of centres in the batch.
    doubtful: (B, classes, Y, X) bool, where it is not known whether there is an object; None: nowhere.
    """

    heatmap: Tensor
    codes: Tensor
    weight: Tensor
    count: int
    doubtful: Tensor | None = None

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


def draw_heatmap(boxes: Boxes, grid: BevGrid, overlap: float, min_radius: int, device: torch.device) -> Tensor:
    """(classes, Y, X): a Gaussian about the cell of each box's centre, 1 there; the greatest where several of a class meet.

    Args:
        boxes: those whose centre is off the grid are left out.
        overlap, min_radius: see ``CenterLossConfig``.
    """
    heatmap = torch.zeros(len(boxes.class_names), grid.rows, grid.columns, device=device)
    boxes = boxes[grid.contains(boxes.centers[:, :2])]
    if not len(boxes):
        return heatmap
    cells = grid.to_cells(torch.from_numpy(boxes.centers[:, :2]).to(device)).float().floor()
    length, width = torch.from_numpy(boxes.sizes[:, :2] / grid.cell).to(device).float().unbind(dim=1)
    radius = gaussian_radius(length, width, overlap).floor().clamp(min=min_radius)[:, None]
    sigma = (2 * radius + 1) / 6
    columns, rows = _cell_axes(grid, device)
    # A Gaussian is the product of one over the columns and one over the rows.
    bump_x, bump_y = (
        torch.exp(-(d**2) / (2 * sigma**2)) * (d.abs() <= radius) for d in (columns - cells[:, :1], rows - cells[:, 1:])
    )
    bump = bump_x[:, None, :] * bump_y[:, :, None]
    labels = torch.from_numpy(boxes.labels).to(device)
    for label in labels.unique().tolist():
        heatmap[label] = bump[labels == label].amax(dim=0)
    return heatmap


def center_targets(
    boxes: list[Boxes],
    model: ModelConfig,
    config: CenterLossConfig,
    device: torch.device,
    doubtful: Sequence[Boxes] = (),
) -> CenterTargets:
    """Targets of a batch; boxes whose centre is off the grid are left out.

    Args:
        doubtful: of each sample, boxes that may be there or not; none of any.
    """
    grid = model.grid
    groups = torch.tensor(group_of_class(model.classes, model.head), device=device)
    shape = (grid.rows, grid.columns)
    heatmap = torch.stack([draw_heatmap(found, grid, config.overlap, config.min_radius, device) for found in boxes])
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
        cells = centers.floor()
        box_part = torch.from_numpy(encode_boxes(found)[:, 2:]).to(device).float()

        # Each cell near a centre regresses the nearest one of its group.
        near_x = (columns - cells[:, :1]).abs() <= config.regress_radius  # (n, X)
        near_y = (rows - cells[:, 1:]).abs() <= config.regress_radius  # (n, Y)
        near = near_x[:, None, :] & near_y[:, :, None]
        offset_x = (centers[:, 0, None, None] - columns[None, None, :] - 0.5).expand(-1, *shape)
        offset_y = (centers[:, 1, None, None] - rows[None, :, None] - 0.5).expand(-1, *shape)
        squared = torch.where(near, offset_x**2 + offset_y**2, torch.inf)
        for group in groups[labels].unique().tolist():
            members = (groups[labels] == group).nonzero()[:, 0]
            nearest, which = squared[members].min(dim=0)
            which = members[which]
            weight[s, group] = nearest.isfinite().float()
            own_offset = torch.stack([o.gather(0, which[None])[0] for o in (offset_x, offset_y)])
            codes[s, group] = torch.cat([own_offset, box_part[which].permute(2, 0, 1)])
    unknown = None
    if any(map(len, doubtful)):
        unknown = torch.zeros_like(heatmap, dtype=torch.bool)
        for s, found in enumerate(doubtful):
            if len(found):
                unknown[s] = draw_heatmap(found, grid, config.overlap, config.min_radius, device) > 0
    return CenterTargets(heatmap, codes, weight, count, unknown)


def _cell_axes(grid: BevGrid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the columns and of the rows."""
    return (
        torch.arange(grid.columns, device=device, dtype=torch.float32),
        torch.arange(grid.rows, device=device, dtype=torch.float32),
    )
