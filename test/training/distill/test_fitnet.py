"""Plain feature imitation."""

from __future__ import annotations

import pytest
import torch

from bevdistill_ros.errors import UserError
from bevdistill_ros.plain_data import from_dict
from bevdistill_ros.training.distill.config import FitNetConfig
from bevdistill_ros.training.distill.features import on_grid_of
from bevdistill_ros.training.distill.fitnet import FitNet, imitation_loss
from bevdistill_ros.training.distill.method import DistilledBatch


def test_the_loss_is_the_mean_square_over_everything() -> None:
    student, teacher = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    student[0, 1, 2, 3], teacher[1, 0, 0, 0] = 2.0, -3.0
    assert float(imitation_loss(student, teacher)) == pytest.approx((4 + 9) / (2 * 3 * 4 * 5))


def test_another_cell_of_the_same_range() -> None:
    """A ramp stays a ramp, but for the border, when cells are halved or doubled."""
    x = torch.arange(8.0).expand(1, 1, 4, 8) + 0.5
    torch.testing.assert_close(on_grid_of(torch.zeros(1, 9, 8, 16), x)[0, 0, 3, 1:-1], torch.arange(14) / 2 + 0.75)
    torch.testing.assert_close(on_grid_of(torch.zeros(1, 9, 2, 4), x)[0, 0, 1], torch.arange(4) * 2.0 + 1)
    assert on_grid_of(x, x) is x


@pytest.mark.parametrize("cell", [2.0, 1.0])
def test_a_student_learns_it(cell, make_student, make_teacher, make_batch) -> None:
    student, teacher, batch = make_student(), make_teacher(cell=cell), make_batch(2)
    method = FitNet(FitNetConfig(weight=0.5), student, teacher)
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], 3e-3)
    values = []
    for _ in range(15):
        outputs = student(*(batch[name] for name in student.inputs))
        losses = method(DistilledBatch(outputs, teacher(batch["points"]), batch["boxes"], student, teacher))
        assert list(losses) == ["fitnet"]
        optimizer.zero_grad()
        losses["fitnet"].backward()
        optimizer.step()
        values.append(losses["fitnet"].item())
    assert values[-1] < 0.7 * values[0]


def test_no_weight_is_no_method() -> None:
    with pytest.raises(UserError, match="leave fitnet out"):
        from_dict(FitNetConfig, {"weight": 0}, "fitnet")
