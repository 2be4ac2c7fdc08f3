"""Distillation in a training: one teacher, run once a batch, and the methods that share what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.training.distill.bevdistill import BevDistill
from bevdistill_ros.training.distill.bevsimdet import BevSimDet
from bevdistill_ros.training.distill.config import (
    BevDistillConfig,
    BevSimDetConfig,
    DistillBevConfig,
    DistillConfig,
    FitNetConfig,
    OwnMethodConfig,
)
from bevdistill_ros.training.distill.distillbev import DistillBev
from bevdistill_ros.training.distill.fitnet import FitNet
from bevdistill_ros.training.distill.method import DistilledBatch, Method
from bevdistill_ros.training.distill.own import load_own_method
from bevdistill_ros.training.distill.teacher import FrozenTeacher


class Distillation(nn.Module):
    """What a training adds to a student's own losses.

    Its parameters are those of the methods' adapters. Teacher and student are held outside of them: the one is not trained, the
    other is trained elsewhere. Making it leaves the random numbers of the training as they were.

    Args:
        teacher: of ``load_teacher``.

    Attributes:
        teacher: frozen.
        inputs: names of what student and teacher see, for the loader.
    """

    def __init__(self, config: DistillConfig, student: BevNetwork, teacher: Checkpoint) -> None:
        super().__init__()
        self.teacher = FrozenTeacher(teacher, config.teacher)
        self._student = (student,)  # in a tuple, or its weights would be this module's, too
        self.inputs = tuple(dict.fromkeys((*student.inputs, *self.teacher.inputs)))
        with torch.random.fork_rng(devices=[]):
            self.methods = nn.ModuleList(make_method(c, student, self.teacher.network) for c in config.used)

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted losses by name, means over the batch's samples, in float32.

        Args:
            outputs: the student's, of this batch.
            batch: of ``loader.collate``, with ``inputs``.
        """
        teacher = self.teacher(*(batch[name] for name in self.teacher.inputs))
        (student,) = self._student
        distilled = DistilledBatch(outputs, teacher, batch["boxes"], student, self.teacher.network)
        losses: dict[str, Tensor] = {}
        for method in self.methods:
            for name, loss in method(distilled).items():
                if name in losses:
                    raise UserError(f"training.distill: two methods have a loss '{name}'; the names must differ")
                losses[name] = loss.float()
        return losses

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distillation:
        """The teacher goes along to another device, though it is no part."""
        self.teacher.network._apply(fn)
        return super()._apply(fn, recurse)


def make_method(config: Any, student: BevNetwork, teacher: BevNetwork) -> Method:
    """The method that settings describe, with fresh adapters: the one place that chooses."""
    match config:
        case FitNetConfig():
            return FitNet(config, student, teacher)
        case BevSimDetConfig():
            return BevSimDet(config, student, teacher)
        case DistillBevConfig():
            return DistillBev(config, student, teacher)
        case BevDistillConfig():
            return BevDistill(config, student, teacher)
        case OwnMethodConfig():
            return load_own_method(config, student, teacher)
    raise TypeError(f"no method for {type(config).__name__}")
