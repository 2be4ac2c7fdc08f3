"""Feature imitation by regions."""

from __future__ import annotations

import pytest
import torch

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.plain_data import from_dict
from bevdistill_ros.training.distill.config import DistillBevConfig
from bevdistill_ros.training.distill.distillbev import DistillBev, region_losses
from bevdistill_ros.training.distill.method import DistilledBatch

GRID = BevGrid(-4.0, 4.0, -2.0, 2.0, 1.0)


def boxes(*rows: tuple[float, float, float, float]) -> Boxes:
    """Of (x, y, length, width)."""
    n = len(rows)
    return Boxes(
        centers=[[x, y, 0.0] for x, y, *_ in rows],
        sizes=[[length, width, 1.0] for *_, length, width in rows],
        yaws=[0.0] * n,
        velocities=[[0.0, 0.0]] * n,
        scores=[1.0] * n,
        labels=[0] * n,
        class_names=CLASS_NAMES,
    )


def test_every_object_counts_the_same_and_every_region_apart() -> None:
    """A 4 x 2 box with difference 1 in half of its cells, a 1 x 1 box with 3; 22 cells of ground, one of them a false positive."""
    truth = boxes((0.0, 0.0, 4.0, 2.0), (3.5, 1.5, 1.0, 1.0))
    squared, positive = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8, dtype=torch.bool)
    squared[0, 1, 2:6], squared[0, 3, 7] = 1.0, 3.0
    squared[0, 0, 0], squared[0, 0, 1] = 5.0, 7.0
    positive[0, 0, 0] = positive[0, 1, 3] = True  # the second is on an object
    losses = {name: float(v) for name, v in region_losses(squared, [truth], positive, GRID).items()}
    ground = 4 * 8 - 8 - 1 - 1
    assert losses == pytest.approx({"foreground": (0.5 + 3) / 2, "background": 7 / ground, "false_positive": 5.0})


def test_two_samples_give_the_mean_and_an_empty_one_has_ground_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    squared = torch.rand(3, 4, 8, generator=rng).requires_grad_()
    positive = torch.rand(3, 4, 8, generator=rng) > 0.7
    positive[2] = False
    truth = [boxes((0.0, 0.0, 4.0, 2.0)), boxes((2.0, 1.0, 3.0, 1.0), (-3.2, 0.4, 0.1, 0.1)), boxes()]
    alone = [region_losses(squared[s : s + 1], truth[s : s + 1], positive[s : s + 1], GRID) for s in range(3)]
    together = region_losses(squared, truth, positive, GRID)
    for name, value in together.items():
        torch.testing.assert_close(value, sum(a[name] for a in alone) / 3)
    assert float(alone[2]["foreground"].detach()) == float(alone[2]["false_positive"].detach()) == 0.0
    torch.testing.assert_close(alone[2]["background"], squared[2].mean())
    assert all(value.requires_grad for value in alone[2].values())


def test_false_positives_are_where_the_teacher_sees_something(make_student, make_teacher, make_batch) -> None:
    """By its heatmap, brought onto the student's grid."""
    student, teacher, batch = make_student(), make_teacher(cell=1.0), make_batch(1)
    with torch.no_grad():
        outputs, taught = student(*(batch[name] for name in student.inputs)), teacher(batch["points"])
    heatmap = taught.center.heatmap.fill_(-9.0)
    heatmap[0, 4, 12:14, 4:6] = 9.0  # one cell of the student
    none = Boxes.empty(CLASS_NAMES)
    distilled = DistilledBatch(outputs, taught, [none], student, teacher)
    config = from_dict(DistillBevConfig, {"foreground": 0.0, "background": 2.0, "false_positive": 3.0}, "distillbev")
    method = DistillBev(config, student, teacher)
    losses = method(distilled)
    squared = ((method.adapter(outputs.bev) - torch.nn.functional.avg_pool2d(taught.bev, 2)) ** 2).mean(dim=1)[0]
    torch.testing.assert_close(losses["distillbev_false_positive"], 3 * squared[6, 2])
    rest = (squared.sum() - squared[6, 2]) / (squared.numel() - 1)
    torch.testing.assert_close(losses["distillbev_background"], 2 * rest)
    assert set(losses) == {"distillbev_background", "distillbev_false_positive"}


def test_a_teacher_without_heatmaps_has_no_false_positives(make_student, make_teacher) -> None:
    with pytest.raises(UserError, match="set false_positive to 0"):
        DistillBev(DistillBevConfig(), make_student(), make_teacher("queries"))
    DistillBev(DistillBevConfig(false_positive=0.0), make_student(), make_teacher("queries"))
    with pytest.raises(UserError, match="every weight is 0"):
        from_dict(DistillBevConfig, {"foreground": 0, "background": 0, "false_positive": 0}, "distillbev")
