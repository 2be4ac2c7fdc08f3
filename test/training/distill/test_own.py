"""A user's method: one file."""

from __future__ import annotations

import pytest
import torch

from bevdistill_ros.errors import UserError
from bevdistill_ros.plain_data import from_dict
from bevdistill_ros.training.distill.config import DistillConfig
from bevdistill_ros.training.distill.distillation import Distillation
from bevdistill_ros.training.distill.teacher import load_teacher

METHOD = '''
"""Match how strong features are, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bevdistill_ros.training.distill.method import DistilledBatch, Method


@dataclass
class Settings:
    weight: float
    deep: bool = False


class Strength(Method):
    def __init__(self, settings, student, teacher):
        super().__init__()
        self.settings = Settings(**settings)
        self.scale = nn.Linear(1, 1)

    def forward(self, batch: DistilledBatch):
        student, teacher = (f.bev.norm(dim=1, keepdim=True).mean(dim=(2, 3)) for f in (batch.student, batch.teacher))
        return {"strength": self.settings.weight * ((self.scale(student) - teacher) ** 2).mean()}
'''


@pytest.fixture
def make(make_student, make_teacher, teacher_file, tmp_path):
    """Makes the distillation of a file with this text."""

    def make(text: str | None, name: str = "mine.py", **fields) -> Distillation:
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        student = make_student()
        own = {"file": str(path), "settings": {"weight": 2.0, "deep": True}}
        data = {"teacher": str(teacher_file(make_teacher())), "own": own, **fields}
        config = from_dict(DistillConfig, data, "distill")
        return Distillation(config, student, load_teacher(config.teacher, student.config)), student

    return make


def test_a_method_of_ones_own_is_one_file(make, make_batch) -> None:
    distillation, student = make(METHOD)
    assert distillation.methods[0].settings.deep is True
    batch = make_batch(1)
    outputs = student(*(batch[name] for name in student.inputs))
    losses = distillation.losses(outputs, batch)
    losses["strength"].backward()
    assert [p.grad is not None for p in distillation.parameters()] == [True, True]
    scale = distillation.methods[0].scale
    with torch.no_grad():
        taught = distillation.teacher(batch["points"])
        difference = scale(outputs.bev.norm(dim=1).mean()[None]) - taught.bev.norm(dim=1).mean()
        assert losses["strength"].item() == pytest.approx(2 * difference.item() ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.py: no such file"),
        ("x = (", "mine.py: SyntaxError: '(' was never closed (mine.py, line 1)"),
        (
            "\nimport nothing_of_this_name",
            "mine.py: line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("x = 1", "must define one class that derives from bevdistill_ros.training.distill.method.Method; it has none"),
        (METHOD + "\n\nclass Second(Strength):\n    pass\n", "it has Strength, Second"),
        (METHOD.replace("weight: float", "height: float"), "mine.py: line 22: TypeError"),
    ],
)
def test_what_is_wrong_with_it_is_told_in_a_line(make, text, message) -> None:
    with pytest.raises(UserError) as error:
        make(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_python_and_names_that_meet(make, make_batch) -> None:
    with pytest.raises(UserError, match="must end in .py"):
        make(METHOD, name="mine.txt")
    distillation, student = make(METHOD.replace('"strength"', '"fitnet"'), fitnet={})
    batch = make_batch(1)
    with pytest.raises(UserError, match="two methods have a loss 'fitnet'"):
        distillation.losses(student(*(batch[name] for name in student.inputs)), batch)
