"""A teacher that cannot know velocities is not let teach them without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bevdistill_ros.config import PointsConfig, TeacherConfig
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import from_dict
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.distill.config import DistillConfig
from bevdistill_ros.training.distill.teacher import velocities_note

BOXES, CODE = "training.distill.bevdistill.boxes.weights", "training.distill.bevsimdet.code_weights"


def teacher(seconds: float) -> TeacherConfig:
    model = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model
    return replace(model, points=PointsConfig(seconds))


@pytest.mark.parametrize(
    ("methods", "named"),
    [
        ({"bevdistill": {}}, [BOXES]),
        ({"bevsimdet": {}}, [CODE]),
        ({"bevdistill": {}, "bevsimdet": {}}, [BOXES, CODE]),
        ({"bevdistill": {"boxes": {"weight": 0.25, "weights": [1, 1, 1, 1, 0]}}}, []),
        ({"bevdistill": {"boxes": {"weight": 0.0}}}, []),
        ({"bevsimdet": {"code_weights": [1, 1, 1, 1, 0]}}, []),
        ({"bevsimdet": {"mmd_boxes": 0}}, []),
        ({"fitnet": {}, "distillbev": {}}, []),
    ],
)
def test_who_is_taught_velocities_by_one_sweep_is_told(methods: dict, named: list[str]) -> None:
    distill = from_dict(DistillConfig, {"teacher": "t.safetensors", **methods}, "here")
    note = velocities_note(teacher(0.0), distill)
    assert (note is not None) == bool(named)
    assert [field for field in (BOXES, CODE) if field in (note or "")] == named
    assert note is None or ("teacher_nano" in note and "\n" not in note)
    assert velocities_note(teacher(0.475), distill) is None
