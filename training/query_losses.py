"""Detection losses of a query head (DETR, Carion et al. 2020; Deformable DETR, Zhu et al. 2021) and of the heatmap beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import encode_boxes
from bevdistill_ros.models.outputs import QueryOutputs
from bevdistill_ros.training.assigner import assign_each, focal_cost, l1_cost
from bevdistill_ros.training.config import QueryLossConfig
from bevdistill_ros.training.losses import code_weights, gaussian_focal_loss, known_difference
from bevdistill_ros.training.targets import draw_heatmap


def box_count(boxes: Sequence[Boxes], grid: BevGrid) -> int:
    """How many boxes of a batch have their centre on the grid: what ``query_losses`` and ``auxiliary_loss`` divide by."""
    return sum(int(grid.contains(found.centers[:, :2]).sum()) for found in boxes)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss (Lin et al. 2017, eq. 5).

    Where the target is 1: -alpha (1 - p)^gamma log p; where it is 0: -(1 - alpha) p^gamma log(1 - p).
    """
    p = logits.sigmoid()
    foreground = -alpha * (1 - p) ** gamma * F.logsigmoid(logits)
    background = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    return torch.where(target > 0, foreground, background).sum()


def query_losses(
    outputs: QueryOutputs, boxes: Sequence[Boxes], grid: BevGrid, config: QueryLossConfig, count: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted losses by name, summed over the layers: ``query_class`` (focal) of all queries, ``query_box`` (L1) of the matched.

    In each layer and sample the boxes are assigned to the queries by least cost: ``class_cost`` times ``focal_cost`` plus
    ``box_cost`` times ``l1_cost``. More boxes than queries leave the most expensive out. A batch without boxes has box loss 0.

    Args:
        boxes: ground truth of each sample; those whose centre is off the grid, where no query can go, are left out.
        count: () above 0, what to divide by instead of the batch's own ``box_count``, where the batch is a part of a step's.
    """
    logits, codes = outputs.logits.float(), outputs.codes.float()
    on_grid = [found[grid.contains(found.centers[:, :2])] for found in boxes]
    labels = [torch.from_numpy(found.labels).to(logits.device) for found in on_grid]
    wanted = [torch.from_numpy(encode_boxes(found)).to(logits) for found in on_grid]
    layers = len(logits)

    with torch.no_grad():
        costs = [
            config.class_cost * focal_cost(logits[:, s], labels[s], config.focal_alpha, config.focal_gamma)
            + config.box_cost * l1_cost(codes[:, s], wanted[s])
            for s in range(len(boxes))
        ]
        pairs = assign_each([cost[layer] for cost in costs for layer in range(layers)])
    target = torch.zeros_like(logits)
    box = codes.new_zeros(())
    weights = code_weights(config.weights, codes)
    for i, (query, which) in enumerate(pairs):
        s, layer = divmod(i, layers)
        target[layer, s, query, labels[s][which]] = 1.0
        box = box + (known_difference(codes[layer, s, query], wanted[s][which]) * weights).sum()

    total = max(sum(map(len, on_grid)), 1) if count is None else count
    classes = focal_loss(logits, target, config.focal_alpha, config.focal_gamma)
    return {"query_class": config.class_weight * classes / total, "query_box": config.box_weight * box / total}


def auxiliary_loss(
    logits: Tensor, boxes: Sequence[Boxes], grid: BevGrid, config: QueryLossConfig, count: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted loss of the heatmap branch by name: ``auxiliary_heatmap``, Gaussian focal, per box on the grid.

    Args:
        logits: (B, classes, Y, X), ``Outputs.auxiliary``.
        count: see ``query_losses``.
    """
    wanted = [
        draw_heatmap(found, grid, config.heatmap_overlap, config.heatmap_min_radius, logits.device) for found in boxes
    ]
    total = max(box_count(boxes, grid), 1) if count is None else count
    return {
        "auxiliary_heatmap": config.heatmap_weight * gaussian_focal_loss(logits.float(), torch.stack(wanted)) / total
    }
