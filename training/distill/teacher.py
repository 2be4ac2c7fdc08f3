"""The teacher of a distillation: a checkpoint that fits the student, as a network that nothing can change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.config import ImageModelConfig, ModelConfig, StudentConfig, TeacherConfig
from bevdistill_ros.detector import load_network
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.training.distill.config import DistillConfig


def load_teacher(path: str, student: ModelConfig) -> Checkpoint:
    """The checkpoint of a teacher.

    Raises:
        UserError: it cannot be read, or does not fit the student.
    """
    teacher = load_checkpoint(path)
    problem = _misfit(teacher.config, student)
    if problem:
        raise UserError(f"training.distill.teacher {path}: {problem}")
    return teacher


def _misfit(teacher: ModelConfig, student: ModelConfig) -> str | None:
    """Why one cannot teach the other, and what to do; None where it can."""
    if not isinstance(student, StudentConfig):
        return f"is to teach '{student.name}', which sees LiDAR itself; distil a camera student"
    if not isinstance(teacher, TeacherConfig):
        return f"holds '{teacher.name}', a camera student; name the checkpoint of a model that sees LiDAR"
    if teacher.classes != student.classes:
        return (
            f"finds the classes {', '.join(teacher.classes)}, the student {', '.join(student.classes)}; "
            "both need the same in the same order"
        )
    ranges = [(g.x_min, g.x_max, g.y_min, g.y_max) for g in (teacher.grid, student.grid)]
    if max(abs(a - b) for a, b in zip(*ranges, strict=True)) > 1e-6:
        of_teacher, of_student = ("x {:g} to {:g}, y {:g} to {:g} m".format(*r) for r in ranges)
        return f"its grid covers {of_teacher}, the student's {of_student}; both must cover the same (cells may differ)"
    if isinstance(teacher, ImageModelConfig) and teacher.image != student.image:
        return f"its images are {_describe(teacher)}, the student's {_describe(student)}; both see the same images"
    return None


def _describe(model: ImageModelConfig) -> str:
    return f"{model.image.width}x{model.image.height} ({model.image.interpolation})"


def velocities_note(teacher: TeacherConfig, distill: DistillConfig) -> str | None:
    """What to tell people where a teacher of one LiDAR sweep is to teach velocities, which it cannot know; None elsewhere."""
    if teacher.points.seconds > 0:
        return None
    boxes, simulated = distill.bevdistill and distill.bevdistill.boxes, distill.bevsimdet
    weights = []
    if boxes and boxes.weight > 0 and boxes.weights[-1] > 0:
        weights.append("training.distill.bevdistill.boxes.weights")
    if simulated and simulated.mmd_boxes > 0 and simulated.code_weights[-1] > 0:
        weights.append("training.distill.bevsimdet.code_weights")
    if not weights:
        return None
    return (
        f"note: the teacher '{teacher.name}' reads a single LiDAR sweep (points.seconds 0), which tells no velocities, and is to "
        f"teach them; a last value of 0 in {' and '.join(weights)} leaves them out"
    )


class FrozenTeacher:
    """A network in use, not in training. No ``nn.Module``: whoever holds it gets no weights to train, to save or to average.

    Attributes:
        network: frozen, without gradients, in ``eval``.
        inputs: names of what it sees.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        # Making a network draws random numbers; the training's own stay what they were.
        with torch.random.fork_rng(devices=[]):
            self.network: BevNetwork = load_network(checkpoint, torch.device("cpu"), name).requires_grad_(False)
        self.inputs = self.network.inputs

    @torch.no_grad()
    def __call__(self, *inputs: Tensor | Sequence[Tensor]) -> Outputs:
        """What it makes of a batch."""
        return self.network.eval()(*inputs)
