"""Plain feature imitation (after FitNets, Romero et al. 2015): every cell of the teacher's BEV map counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.training.distill.config import FitNetConfig
from bevdistill_ros.training.distill.features import make_adapter, on_grid_of
from bevdistill_ros.training.distill.method import DistilledBatch, Method


class FitNet(Method):
    """``imitation_loss`` between adapted student and teacher BEV features."""

    def __init__(self, config: FitNetConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        self.weight = config.weight
        self.adapter = make_adapter(student.channels, teacher.channels, student.config.norm)

    def forward(self, batch: DistilledBatch) -> dict[str, Tensor]:
        """See ``Method``."""
        student = self.adapter(batch.student.bev)
        with torch.autocast(student.device.type, enabled=False):
            loss = imitation_loss(student.float(), on_grid_of(student, batch.teacher.bev.float()))
        return {"fitnet": self.weight * loss}


def imitation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over samples, channels and cells of (S - T)^2, of features (B, C, Y, X)."""
    return ((student - teacher) ** 2).mean()
