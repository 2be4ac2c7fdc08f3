"""Where objects are on a BEV grid, for losses that look there: the Gaussians of the heatmap targets, and the boxes' own areas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.distill.config import Merge
from bevdistill_ros.training.targets import draw_heatmap


def foreground_masks(
    boxes: Sequence[Boxes], grid: BevGrid, overlap: float, min_radius: int, merge: Merge, device: torch.device
) -> Tensor:
    """(B, 1, Y, X): a Gaussian about the cell of each box's centre, 1 there, drawn as the heatmap targets are.

    Args:
        overlap, min_radius: see ``CenterLossConfig``.
        merge: what becomes of classes that meet in a cell. Where boxes of one class meet, the greatest counts.
    """
    by_class = torch.stack([draw_heatmap(found, grid, overlap, min_radius, device) for found in boxes])
    return by_class.amax(dim=1, keepdim=True) if merge is Merge.MAX else by_class.sum(dim=1, keepdim=True)


def box_areas(boxes: Boxes, grid: BevGrid, device: torch.device) -> Tensor:
    """(K, Y, X) bool: the cells whose centre lies in each box seen from above, and the cell of its own centre.

    Boxes whose centre is off the grid are left out.
    """
    boxes = boxes[grid.contains(boxes.centers[:, :2])]
    centers, half, yaws = (torch.from_numpy(x).to(device) for x in (boxes.centers[:, :2], boxes.sizes / 2, boxes.yaws))
    x, y = (torch.from_numpy(grid.centers()).to(device) - centers[:, None, None]).unbind(dim=-1)  # (K, Y, X)
    c, s = yaws.cos()[:, None, None], yaws.sin()[:, None, None]
    inside = ((x * c + y * s).abs() <= half[:, :1, None]) & ((y * c - x * s).abs() <= half[:, 1:2, None])
    column, row = grid.to_cells(centers).floor().long().unbind(dim=1)
    inside[torch.arange(len(boxes), device=device), row, column] = True
    return inside
