"""A teacher in a training: nothing changes it, and nothing of it reaches the student that is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.plain_data import from_dict, to_dict
from bevdistill_ros.training.config import Config, TrainingConfig
from bevdistill_ros.training.distill.config import DistillConfig
from bevdistill_ros.training.distill.distillation import Distillation
from bevdistill_ros.training.distill.teacher import load_teacher
from bevdistill_ros.training.module import DetectionModule, LossCounts

METHODS = {
    "fitnet": {},
    "distillbev": {"score": 0.0},
    "bevdistill": {"classes": {"weight": 0.1}, "contrast": {"weight": 0.2, "channels": 32}},
}


def distill_config(path: Path, **methods) -> DistillConfig:
    return from_dict(DistillConfig, {"teacher": str(path), **(methods or METHODS)}, "distill")


def make_distillation(student, path: Path, **methods) -> Distillation:
    config = distill_config(path, **methods)
    return Distillation(config, student, load_teacher(config.teacher, student.config))


def run(network, batch):
    return network(*(batch[name] for name in network.inputs))


def state_of(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_teacher_is_bit_for_bit_the_same_after_steps(
    norm, make_student, make_teacher, teacher_file, make_batch
) -> None:
    """Whatever is done to the training's modules: ``train``, weight decay on all parameters, gradients asked for."""
    teacher = make_teacher(norm=norm)
    student = make_student()
    distillation = make_distillation(student, teacher_file(teacher))
    before = state_of(teacher)
    everything = torch.nn.ModuleDict({"student": student, "distillation": distillation}).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(everything.parameters(), 1e-2, weight_decay=0.5)
    batch = make_batch(2)
    adapters = state_of(distillation)
    for _ in range(3):
        optimizer.zero_grad()
        distillation.teacher.network.train()
        sum(distillation.losses(run(student, batch), batch).values()).backward()
        optimizer.step()
    after = distillation.teacher.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in distillation.teacher.network.parameters())
    assert not any(module.training for module in distillation.teacher.network.modules())
    # And yet something was trained, all of it.
    trained = distillation.state_dict()
    weights = [name for name in trained if name.endswith("weight")]
    assert weights and all(not torch.equal(trained[name], adapters[name]) for name in weights)


def test_it_has_no_state_but_its_adapters(make_student, make_teacher, teacher_file) -> None:
    student = make_student()
    keys = set(student.state_dict())
    distillation = make_distillation(student, teacher_file(make_teacher()))
    assert set(student.state_dict()) == keys
    assert all(name.startswith("methods.") for name in distillation.state_dict())
    own = {id(p) for p in (*student.parameters(), *distillation.teacher.network.parameters())}
    assert not any(id(p) in own for p in distillation.parameters())
    alone = make_distillation(student, teacher_file(make_teacher()), fitnet={})
    assert sum(p.numel() for p in alone.parameters()) == 16 * 24 * 9 + 2 * 24


def test_the_teacher_goes_where_the_training_goes(make_student, make_teacher, teacher_file) -> None:
    distillation = make_distillation(make_student(), teacher_file(make_teacher()))
    torch.nn.ModuleList([distillation]).to("meta")
    assert {p.device.type for p in distillation.teacher.network.parameters()} == {"meta"}


def test_a_distilled_student_begins_as_a_plain_one_and_draws_as_it(
    make_student, make_teacher, teacher_file, small_training
) -> None:
    """Paired seeds: weights, and the random numbers after."""
    plain, distilled = small_training(None), small_training(distill_config(teacher_file(make_teacher())))
    found = []
    for config in (plain, distilled):
        torch.manual_seed(3)
        distill = config.training.distill
        teacher = None if distill is None else load_teacher(distill.teacher, config.model)
        module = DetectionModule(config, teacher=teacher)
        found.append((module.network.state_dict(), torch.rand(4)))
    (first, drawn), (second, drawn_too) = found
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(drawn, drawn_too)


@pytest.fixture
def small_training(make_student):
    def make(distill: DistillConfig | None) -> Config:
        training = TrainingConfig(steps=2, batch_size=4, distill=distill)
        return Config(make_student().config, training)

    return make


def test_parts_of_a_batch_add_up_to_the_whole(make_teacher, teacher_file, make_batch, small_training) -> None:
    """In losses and gradients; one of the samples is empty."""
    config = small_training(distill_config(teacher_file(make_teacher())))
    module = DetectionModule(config, teacher=load_teacher(config.training.distill.teacher, config.model))
    module.network.train()
    batch = make_batch(4)
    batch["boxes"] = [batch["boxes"][0], batch["boxes"][0][1:], Boxes.empty(CLASS_NAMES), batch["boxes"][0]]

    def gradients(parts: int) -> tuple[dict[str, float], list[torch.Tensor]]:
        module.zero_grad()
        one = torch.ones(2)
        counts = LossCounts(centers=one, boxes=one[0], pixels=one, parts=parts)
        sums: dict[str, float] = {}
        for i in range(parts):
            size = 4 // parts
            part = {name: value[i * size : (i + 1) * size] for name, value in batch.items()}
            losses = module.losses(part, counts)
            sum(losses.values()).backward()
            sums = {name: sums.get(name, 0.0) + value.item() for name, value in losses.items()}
        return sums, [p.grad.clone() for p in module.parameters()]

    (whole, of_whole), (halves, of_halves), (each, _) = (gradients(parts) for parts in (1, 2, 4))
    assert len(whole) == 2 + 1 + 3 + 4
    assert halves == pytest.approx(whole, rel=1e-5, abs=1e-5) and each == pytest.approx(whole, rel=1e-5, abs=1e-5)
    for a, b in zip(of_whole, of_halves, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max() + 1))


def test_every_adapter_has_a_gradient_with_nothing_there(make_student, make_teacher, teacher_file, make_batch) -> None:
    """As processes that train together need it: no boxes, no points."""
    student = make_student()
    distillation = make_distillation(student, teacher_file(make_teacher()))
    batch = make_batch(2)
    batch["boxes"], batch["points"] = [Boxes.empty(CLASS_NAMES)] * 2, [torch.zeros(0, 5)] * 2
    losses = distillation.losses(run(student, batch), batch)
    assert all(bool(value.isfinite()) for value in losses.values())
    assert {name for name, value in losses.items() if value.item() == 0} >= {n for n in losses if "bevdistill_" in n}
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in distillation.parameters())


@pytest.mark.parametrize("heads", [("head",), ("queries",)])
def test_it_runs_in_bfloat16_with_losses_in_float32(
    heads, make_student, make_teacher, teacher_file, make_batch
) -> None:
    student, batch = make_student(*heads), make_batch(2)
    methods = {**METHODS, "distillbev": {"false_positive": 0.0}}
    distillation = make_distillation(student, teacher_file(make_teacher(*heads)), **methods)
    exact = distillation.losses(run(student, batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = distillation.losses(run(student, batch), batch)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.02)
    sum(losses.values()).backward()


# ------------------------------------------------------------------------------------------------------------------ misfits


def test_a_teacher_that_does_not_fit_is_told(make_student, make_teacher, teacher_file, tmp_path) -> None:
    student, teacher = make_student().config, make_teacher()

    def problem(network, model=student) -> str:
        with pytest.raises(UserError) as error:
            load_teacher(str(teacher_file(network)), model)
        text = str(error.value)
        assert text.startswith("training.distill.teacher") and "\n" not in text and "teacher.safetensors" in text
        return text

    assert "both must cover the same" in problem(make_teacher(grid={**to_dict(student.grid), "x_max": 18.0}))
    turned = (*CLASS_NAMES[1:], CLASS_NAMES[0])
    assert "in the same order" in problem(make_teacher(classes=turned))
    assert "a camera student" in problem(make_student())
    assert "sees LiDAR itself" in problem(teacher, teacher.config)
    load_teacher(str(teacher_file(make_teacher(cell=1.0))), student)  # another cell does fit
    with pytest.raises(UserError, match="no such checkpoint"):
        load_teacher(str(tmp_path / "none.safetensors"), student)
    broken = load_checkpoint(teacher_file(teacher))
    broken.state.popitem()
    with pytest.raises(UserError, match="weights do not fit"):
        Distillation(distill_config(tmp_path / "teacher.safetensors"), make_student(), broken)


def test_a_teacher_with_cameras_sees_the_students_images(make_student, make_teacher, teacher_file, make_batch) -> None:
    student = make_student()
    fields = {name: to_dict(student.config)[name] for name in ("image", "backbone", "lift", "bev")}
    fields["fused_channels"] = 16
    fusion = make_teacher(**fields)
    distillation = make_distillation(student, teacher_file(fusion), fitnet={}, bevdistill={})
    batch = make_batch(1)
    losses = distillation.losses(run(student, batch), batch)
    assert len(losses) == 4 and all(bool(value.isfinite()) for value in losses.values())
    changed = {**batch, "images": 255 - batch["images"]}
    assert distillation.losses(run(student, batch), changed)["fitnet"] != losses["fitnet"]
    fusion = make_teacher(**{**fields, "image": {"height": 32, "width": 96}})
    with pytest.raises(UserError, match="its images are 96x32 .linear., the student's 64x32"):
        load_teacher(str(teacher_file(fusion)), student.config)


def test_names_and_settings_that_are_wrong_are_told(tmp_path) -> None:
    for wrong, text in (
        ({"teacher": "a"}, "name a method"),
        ({"teacher": "a", "bevdistil": {}}, "unknown field 'bevdistil'"),
        ({"fitnet": {}}, "field 'teacher' is missing"),
        ({"teacher": "a", "bevdistill": {"dense": {"features": "image"}}}, "not one of heatmap, bev"),
    ):
        with pytest.raises(UserError, match=text):
            from_dict(DistillConfig, wrong, "distill")
    config = distill_config(tmp_path / "t.safetensors")
    assert from_dict(DistillConfig, to_dict(config), "distill") == config
