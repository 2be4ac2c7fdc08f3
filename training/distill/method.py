"""What a distillation method is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.outputs import Outputs


@dataclass(frozen=True)
class DistilledBatch:
    """One batch of B samples as both networks see it: under one augmentation, so that their maps lie on one another.

    Attributes:
        student: with gradient.
        teacher: without.
        boxes: ground truth of each sample, in the base frame.
        student_network, teacher_network: for reading heads and grids; only the student's weights may be given a gradient.
    """

    student: Outputs
    teacher: Outputs
    boxes: Sequence[Boxes]
    student_network: BevNetwork
    teacher_network: BevNetwork


class Method(nn.Module, ABC):
    """A distillation method. Its own weights (adapters) are trained with the student and are not part of it.

    A method's ``__init__`` takes its settings, the student and the teacher, whose sizes it reads; it keeps neither of them.
    """

    @abstractmethod
    def forward(self, batch: DistilledBatch) -> dict[str, Tensor]:
        """Weighted losses by name, each the mean over the batch's samples of what each sample gives alone, in float32.

        Means over samples, and no sums over the batch, are what makes a step the same in one process or several, in one part or
        several. What looks at boxes gives zero for a sample without any, not NaN. Every weight of the method is used whatever the
        batch holds, since processes that train together wait for all gradients.
        """
