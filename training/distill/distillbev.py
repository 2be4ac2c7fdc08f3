"""Feature imitation by regions, after the idea of DistillBEV (Wang et al. 2023): objects, what the teacher mistakes for objects,
and the rest of the ground each have a weight of their own, and every object counts the same, however large it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.training.distill.config import DistillBevConfig
from bevdistill_ros.training.distill.features import make_adapter, on_grid_of
from bevdistill_ros.training.distill.masks import box_areas
from bevdistill_ros.training.distill.method import DistilledBatch, Method


class DistillBev(Method):
    """``region_losses`` between adapted student and teacher BEV features.

    Raises:
        UserError: false positives are asked for, of a teacher without heatmaps.
    """

    def __init__(self, config: DistillBevConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        if config.false_positive and teacher.config.head is None:
            raise UserError(
                f"training.distill.distillbev: the teacher '{teacher.config.name}' has no centre head, whose false positives are "
                "asked for: set false_positive to 0"
            )
        self.config = config
        self.adapter = make_adapter(student.channels, teacher.channels, student.config.norm)

    def forward(self, batch: DistilledBatch) -> dict[str, Tensor]:
        """See ``Method``."""
        config = self.config
        student = self.adapter(batch.student.bev)
        with torch.autocast(student.device.type, enabled=False):
            student = student.float()
            squared = ((student - on_grid_of(student, batch.teacher.bev.float())) ** 2).mean(dim=1)
            positive = torch.zeros_like(squared, dtype=torch.bool)
            if config.false_positive:
                score = batch.teacher.center.heatmap.float().sigmoid().amax(dim=1, keepdim=True)
                positive = on_grid_of(student, score)[:, 0] >= config.score
            losses = region_losses(squared, batch.boxes, positive, batch.student_network.config.grid)
        weights = (config.foreground, config.background, config.false_positive)
        return {
            f"distillbev_{name}": weight * loss
            for (name, loss), weight in zip(losses.items(), weights, strict=True)
            if weight
        }


def region_losses(squared: Tensor, boxes: Sequence[Boxes], positive: Tensor, grid: BevGrid) -> dict[str, Tensor]:
    """Means over the samples of

        foreground:      1 / K sum_k 1 / |A_k| sum_(ij in A_k) d_ij
        background:      1 / |G| sum_(ij in G) d_ij
        false_positive:  1 / |F| sum_(ij in F) d_ij

    with A_k the areas of the K boxes, F the cells outside of all of them where the teacher sees something, G all others, and d the
    mean over the channels of (S - T)^2. A region that is empty gives 0.

    Args:
        squared: d (B, Y, X).
        boxes: ground truth of each sample.
        positive: (B, Y, X) bool, where the teacher sees something.
        grid: of the maps.
    """
    weights: dict[str, list[Tensor]] = {"foreground": [], "background": [], "false_positive": []}
    for found, seen in zip(boxes, positive, strict=True):
        areas = box_areas(found, grid, squared.device).float()
        outside = ~areas.any(dim=0)
        weights["foreground"].append(_mean_of(areas / areas.sum(dim=(1, 2), keepdim=True)))
        for name, region in (("background", outside & ~seen), ("false_positive", outside & seen)):
            weights[name].append(region / region.sum().clamp(min=1))
    return {name: (torch.stack(own) * squared).sum(dim=(1, 2)).mean() for name, own in weights.items()}


def _mean_of(areas: Tensor) -> Tensor:
    """(Y, X) mean of maps (K, Y, X); 0 of none."""
    return areas.sum(dim=0) / max(1, len(areas))
