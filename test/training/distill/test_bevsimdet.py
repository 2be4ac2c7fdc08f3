"""BEVSimDet: every loss against its formula, what a step may change and what not, and what is deployed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes, make_transform, rotation_z
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.training.distill.bevsimdet import BevSimDet, box_loss, class_loss, object_loss
from bevdistill_ros.training.distill.config import BevDistillConfig, BevSimDetConfig, DistillConfig, Merge
from bevdistill_ros.training.distill.distillation import Distillation
from bevdistill_ros.training.distill.masks import foreground_masks

IMAGES = {
    "image": {"height": 32, "width": 64},
    "backbone": {"depth": 18, "width": 16, "stages": 2},
    "lift": {"stride": 8, "bins": 12, "channels": 16, "neck_channels": 16, "depth_max": 25.0},
    "bev": {"channels": 16, "halvings": 1, "blocks": 1},
}
SIMULATED = {"compensation": {"heads": 2, "image_points": 2, "bev_points": 2}, "fused_channels": 16}
NAMES = ["bevsimdet_imd", "bevsimdet_cmd", "bevsimdet_mmd_fused", "bevsimdet_mmd_classes", "bevsimdet_mmd_boxes"]
GRID = BevGrid(-16.0, 16.0, -8.0, 8.0, 2.0)


@pytest.fixture
def student(make_student) -> BevNetwork:
    return make_student(**SIMULATED)


@pytest.fixture
def teacher(make_teacher) -> BevNetwork:
    """Its LiDAR and fused features are wider than the student's, its camera features as wide."""
    return make_teacher(**IMAGES, fused_channels=20)


@pytest.fixture
def two_headed_teacher(make_teacher) -> BevNetwork:
    network = make_teacher("head", "queries", **IMAGES, fused_channels=20)
    assert network.head is not None and network.queries is not None
    return network


def distil(teacher: BevNetwork, student: BevNetwork, **methods: Any) -> Distillation:
    methods = methods or {"bevsimdet": BevSimDetConfig()}
    checkpoint = Checkpoint(teacher.config, teacher.state_dict(), ("CAM_FRONT",), {})
    return Distillation(DistillConfig("teacher", **methods), student, checkpoint)


def run(network: BevNetwork, batch: dict[str, Any]):
    return network(*(batch[name] for name in network.inputs))


def nobody() -> Boxes:
    return Boxes.empty(CLASS_NAMES)


# ---------------------------------------------------------------------------------------------------------------- the losses


def test_objects_count_by_the_square_of_the_mask() -> None:
    torch.manual_seed(0)
    for samples in (1, 2):
        a, b = torch.randn(samples, 3, 4, 5), torch.randn(samples, 3, 4, 5)
        mask = torch.rand(samples, 1, 4, 5)
        wanted = [
            (mask[s, 0, y, x] * a[s, c, y, x] - mask[s, 0, y, x] * b[s, c, y, x]).item() ** 2
            for s in range(samples)
            for c in range(3)
            for y in range(4)
            for x in range(5)
        ]
        assert object_loss(a, b, mask).item() == pytest.approx(np.mean(wanted), rel=1e-5)
        assert object_loss(a, b, torch.zeros_like(mask)) == 0


def test_heatmaps_are_compared_by_quality_focal_loss() -> None:
    torch.manual_seed(0)

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    s, t = 2 * torch.randn(2, 2, 3, 4), 2 * torch.randn(2, 2, 3, 4) - 2
    t[1] -= 10.0  # the teacher sees nothing in the second sample: nothing above 0.1
    wanted = []
    for own, target in zip(s.flatten(1).tolist(), t.flatten(1).tolist(), strict=True):
        total, count = 0.0, 0
        for x, z in zip(own, target, strict=True):
            p, y = sigma(x), sigma(z)
            total += -(y * math.log(p) + (1 - y) * math.log(1 - p)) * abs(p - y) ** 2
            count += y > 0.1
        wanted.append(total / max(1, count))
    assert class_loss(s, t).item() == pytest.approx(np.mean(wanted), rel=1e-5)
    for i in range(2):
        assert class_loss(s[i : i + 1], t[i : i + 1]).item() == pytest.approx(wanted[i], rel=1e-5)
    assert class_loss(t, t).item() == 0


def test_boxes_are_compared_at_the_objects_alone(truth: Boxes) -> None:
    torch.manual_seed(0)
    groups = [0] * 5 + [1] * 5
    s, t = torch.randn(2, 2, 10, 8, 16, requires_grad=True), torch.randn(2, 2, 10, 8, 16)
    with torch.no_grad():
        s[:, :, :, 0, 0] += 1e4  # a cell where padding would point to
        t[:, :, 3, 5, 10] = s[:, :, 3, 5, 10] + 0.05  # within the bend
        t[:, :, 6:8] *= 0.3  # the teacher is unsure of headings
    weights = [1.0] * 8 + [0.2] * 2
    far = replace(truth[:1], centers=np.array([[40.0, 0.0, 0.0]]))
    # Cells of 2 m from (-16, -8): the car at (5, 3), the bus at (-9, -4.6), the pedestrian, of the other group, at (12.2, -1).
    places = [[(0, 5, 10), (0, 1, 3), (1, 3, 14)], []]
    wanted = []
    for i, own in enumerate(places):
        total = 0.0
        for group, row, column in own:
            target = t[i, group, :, row, column].tolist()
            length = math.hypot(*target[6:8])
            target[6:8] = [value / length for value in target[6:8]]
            for d in range(10):
                difference = abs(s[i, group, d, row, column].item() - target[d])
                bent = 4.5 * difference**2 if difference < 1 / 9 else difference - 1 / 18
                total += weights[d] * bent
        wanted.append(total / max(1, len(own)))
    loss = box_loss(s, t, [truth, far], GRID, groups, torch.tensor(weights))
    assert wanted[0] > 1 and loss.item() == pytest.approx(np.mean(wanted), rel=1e-5)
    assert box_loss(s[:1], t[:1], [truth], GRID, groups, torch.tensor(weights)).item() == pytest.approx(
        wanted[0], rel=1e-5
    )
    (gradient,) = torch.autograd.grad(loss, s)
    touched = {tuple(index) for index in gradient.abs().sum(dim=2).nonzero().tolist()}
    assert touched == {(0, *place) for place in places[0]}
    nothing = box_loss(s, t, [nobody(), far], GRID, groups, torch.tensor(weights))
    assert nothing == 0 and torch.autograd.grad(nothing, s)[0].abs().sum() == 0


def released_class_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The form with the logistic function twice on either side, and all cells in the normaliser."""
    p, t = (x.sigmoid().clamp(1e-4, 1 - 1e-4) for x in (student, teacher))
    wanted = t.sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(p, wanted, reduction="none")
    loss = entropy * (p.sigmoid() - wanted) ** 2
    cells = student.shape[-1] * student.shape[-2]
    return loss.flatten(1).sum(dim=1).mean() / cells * student.shape[1]


def test_the_heatmaps_gradient_does_not_vanish() -> None:
    """Of a student in its first steps, which gives every cell 0.1, and a teacher that is sure of three objects on 64x64 cells."""
    student = torch.full((1, 10, 64, 64), -math.log(9.0), requires_grad=True)
    teacher = torch.full((1, 10, 64, 64), -6.0)
    for label, row, column in ((0, 20, 30), (3, 5, 60), (5, 50, 11)):
        teacher[0, label, row, column] = 3.0
    ours, released = (torch.autograd.grad(f(student, teacher), student)[0] for f in (class_loss, released_class_loss))
    at_object = 0, 0, 20, 30
    assert ours[at_object] < -0.1  # upwards
    assert abs(ours[at_object]) > 1000 * abs(released[at_object])
    assert class_loss(student, teacher) > 100 * released_class_loss(student, teacher)


# ---------------------------------------------------------------------------------------------------------------- the method


def test_each_loss_has_its_own_weight_and_name(student, teacher, make_batch) -> None:
    batch = make_batch(2)
    with torch.no_grad():
        outputs = run(student, batch)
        whole = distil(teacher, student).losses(outputs, batch)
        assert list(whole) == NAMES and all(loss > 0 for loss in whole.values())
        off = {"imd": 0.0, "cmd": 0.0, "mmd_fused": 0.0, "mmd_classes": 0.0, "mmd_boxes": 0.0}
        for name in off:
            weight = 2 * getattr(BevSimDetConfig(), name)
            alone = distil(teacher, student, bevsimdet=BevSimDetConfig(**{**off, name: weight}))
            (key,) = found = alone.losses(outputs, batch)
            assert key == f"bevsimdet_{name}"
            if name in ("imd", "mmd_classes", "mmd_boxes"):  # no adapter, whose weights are random
                torch.testing.assert_close(found[key], 2 * whole[key])
    with pytest.raises(ValueError, match="every weight is 0"):
        BevSimDetConfig(**off)


def test_each_loss_compares_what_it_is_named_for(make_student, teacher, make_batch, truth) -> None:
    """With settings of its own: each is its weight times its formula, of the student's features first and the teacher's second."""
    student = make_student(**SIMULATED, lift={**IMAGES["lift"], "channels": 12})
    settings = {"imd": 2.0, "cmd": 3.0, "mmd_fused": 5.0, "mmd_classes": 7.0, "mmd_boxes": 11.0}
    drawing = {"overlap": 0.5, "min_radius": 1, "merge": Merge.SUM}
    weights = (1.0, 0.5, 0.25, 2.0, 0.0)
    config = BevSimDetConfig(**settings, **drawing, code_weights=weights)
    distillation = distil(teacher, student, bevsimdet=config)
    (method,) = distillation.methods
    batch = make_batch(2)
    with torch.no_grad():
        own, wanted = run(student, batch), run(teacher, batch)
        found = distillation.losses(own, batch)
        mask = foreground_masks(batch["boxes"], GRID, 0.5, 1, Merge.SUM, torch.device("cpu"))
        groups = [0] * 5 + [1] * 5
        each = torch.tensor([1.0, 1.0, 0.5, 0.25, 0.25, 0.25, 2.0, 2.0, 0.0, 0.0])
        expected = {
            "imd": 2 * (method.camera_adapter(own.modal.camera) - wanted.modal.camera).square().mean(),
            "cmd": 3 * (mask * (method.lidar_adapter(own.modal.lidar) - wanted.modal.lidar)).square().mean(),
            "mmd_fused": 5 * (method.fused_adapter(own.modal.fused) - wanted.modal.fused).square().mean(),
            "mmd_classes": 7 * class_loss(own.center.heatmap, wanted.center.heatmap),
            "mmd_boxes": 11 * box_loss(own.center.codes, wanted.center.codes, batch["boxes"], GRID, groups, each),
        }
        assert own.modal.camera.shape == own.modal.lidar.shape != wanted.modal.camera.shape
    for name, value in expected.items():
        torch.testing.assert_close(found[f"bevsimdet_{name}"], value, msg=name)
    swapped = 7 * class_loss(wanted.center.heatmap, own.center.heatmap)
    assert abs(swapped - expected["mmd_classes"]) > 0.01 * expected["mmd_classes"]


def test_adapters_are_there_only_where_they_must_be(student, teacher, make_teacher) -> None:
    method = BevSimDet(BevSimDetConfig(), student, teacher)
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"lidar_adapter", "fused_adapter"}
    assert method.fused_adapter.weight.shape == (20, 16, 1, 1)
    assert method.lidar_adapter[0].weight.shape == (24, 16, 3, 3)
    alike = BevSimDet(BevSimDetConfig(cmd=0.0), student, make_teacher(**IMAGES, fused_channels=16))
    assert not list(alike.parameters())


def test_a_batch_is_the_mean_of_its_samples(student, teacher, make_batch, truth) -> None:
    batch = make_batch(2)
    batch["boxes"] = [truth, truth[1:2]]
    distillation = distil(teacher, student)
    with torch.no_grad():
        whole = distillation.losses(run(student, batch), batch)
        parts = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(2)]
        alone = [distillation.losses(run(student, part), part) for part in parts]
    for name in NAMES:
        torch.testing.assert_close(whole[name], (alone[0][name] + alone[1][name]) / 2)
        assert abs(alone[0][name] - alone[1][name]) > 1e-3 * whole[name]


def test_empty_frames_give_zero_where_objects_are_compared(student, teacher, make_batch) -> None:
    batch = make_batch(2)
    batch["boxes"] = [nobody(), nobody()]
    distillation = distil(teacher, student)
    losses = distillation.losses(run(student, batch), batch)
    assert losses["bevsimdet_cmd"] == 0 and losses["bevsimdet_mmd_boxes"] == 0
    sum(losses.values()).backward()
    for name, parameter in [*student.named_parameters(), *distillation.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_classes_that_meet_are_merged_or_added(student, teacher, make_batch, truth) -> None:
    batch = make_batch(1)
    rider = replace(truth[:1], labels=np.array([6]))
    both = Boxes(
        **{
            name: np.concatenate([getattr(truth[:1], name), getattr(rider, name)])
            for name in ("centers", "sizes", "yaws", "velocities", "scores", "labels")
        },
        class_names=CLASS_NAMES,
    )
    found = {}
    for merge in Merge:
        distillation = distil(teacher, student, bevsimdet=BevSimDetConfig(imd=0.0, mmd_fused=0.0, merge=merge))
        with torch.no_grad():
            outputs = run(student, batch)
            for name, boxes in (("one", truth[:1]), ("both", both)):
                found[merge, name] = distillation.losses(outputs, {**batch, "boxes": [boxes]})["bevsimdet_cmd"]
    torch.testing.assert_close(found[Merge.MAX, "both"], found[Merge.MAX, "one"])
    torch.testing.assert_close(found[Merge.SUM, "both"], 4 * found[Merge.SUM, "one"])  # twice, squared


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_steps_change_the_student_and_never_the_teacher(student, make_teacher, make_batch, norm) -> None:
    """Its fuser, its normalisation and its buffers included, whatever mode the trainer sets; and the loss falls."""
    teacher = make_teacher(**IMAGES, fused_channels=20, norm=norm)
    assert any("running_mean" in name for name in teacher.state_dict()) == (norm == "batch")
    distillation = distil(teacher, student)
    network = distillation.teacher.network
    before = {name: value.clone() for name, value in network.state_dict(keep_vars=True).items()}
    fused = [name for name in before if name.startswith("fuser.")]
    module = torch.nn.ModuleDict({"network": student, "distillation": distillation}).train()
    assert not {id(p) for p in module.parameters()} & {id(p) for p in network.parameters()}
    assert fused and not any(name.startswith("distillation.teacher") for name in module.state_dict())
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    batch = make_batch(2)
    history = []
    for _ in range(12):
        module.train()
        losses = distillation.losses(run(student, batch), batch)
        total = sum(losses.values())
        history.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert history[-1] < 0.8 * history[0]


def test_points_change_what_is_taught_and_not_what_the_student_says(student, teacher, make_batch) -> None:
    batch, other = make_batch(1), make_batch(1)
    other["points"] = make_batch(1, seed=9)["points"]
    distillation = distil(teacher, student)
    student.eval()
    with torch.no_grad():
        outputs = [run(student, b) for b in (batch, other)]
        losses = [distillation.losses(o, b) for o, b in zip(outputs, (batch, other), strict=True)]
    for kind in ("camera", "lidar", "fused"):
        assert torch.equal(getattr(outputs[0].modal, kind), getattr(outputs[1].modal, kind))
    assert torch.equal(outputs[0].center.heatmap, outputs[1].center.heatmap)
    assert torch.equal(losses[0]["bevsimdet_imd"], losses[1]["bevsimdet_imd"])
    assert abs(losses[0]["bevsimdet_cmd"] - losses[1]["bevsimdet_cmd"]) > 1e-3 * losses[0]["bevsimdet_cmd"]


def test_losses_are_float32_in_mixed_precision(student, teacher, make_batch) -> None:
    batch = make_batch(2)
    distillation = distil(teacher, student)
    exact = distillation.losses(run(student, batch), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = distillation.losses(run(student, batch), batch)
    for name in NAMES:
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], exact[name], rtol=0.05, atol=1e-4)


def test_the_lifts_are_taught_apart(student, teacher, make_batch) -> None:
    """What camera features learn reaches the one lift, what simulated LiDAR features learn the other."""
    batch = make_batch(1)
    for name, own, other in (("imd", "lift", "simulated_lift"), ("cmd", "simulated_lift", "lift")):
        losses = distil(teacher, student).losses(run(student, batch), batch)
        student.zero_grad()
        losses[f"bevsimdet_{name}"].backward()
        assert all(p.grad is None for p in getattr(student, other).parameters())
        assert all(p.grad.abs().sum() > 0 for p in getattr(student, own).parameters())


def test_it_goes_together_with_bevdistill_under_one_teacher(student, two_headed_teacher, make_batch) -> None:
    """One forward pass of a teacher with both heads serves both methods."""
    batch = make_batch(2)
    distillation = distil(two_headed_teacher, student, bevdistill=BevDistillConfig(), bevsimdet=BevSimDetConfig())
    passes = []
    distillation.teacher.network.fuser.register_forward_hook(lambda *_: passes.append(1))
    losses = distillation.losses(run(student, batch), batch)
    assert len(passes) == 1
    assert set(NAMES) < set(losses) and {"bevdistill_dense", "bevdistill_boxes"} < set(losses)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


def test_what_is_missing_is_named(make_student, make_teacher, student, teacher) -> None:
    plain, lidar = make_student(), make_teacher()
    features_off = BevSimDetConfig(imd=0.0, cmd=0.0, mmd_fused=0.0)
    for own, wanted, config, message in (
        (plain, teacher, BevSimDetConfig(), "the student 'small' has no camera and LiDAR features.*simulated_nano"),
        (
            student,
            lidar,
            BevSimDetConfig(),
            "the teacher 'small' has no camera and LiDAR features.*teacher_fusion_nano",
        ),
        (
            student,
            make_teacher("queries", **IMAGES, fused_channels=16),
            BevSimDetConfig(),
            "teacher 'small' has no centre head",
        ),
        (plain, make_teacher(cell=1.0), features_off, "the teacher's cells are 1 m, the student's 2 m"),
    ):
        with pytest.raises(UserError, match=message):
            BevSimDet(config, own, wanted)
    groups = {"head": {"channels": 16, "groups": [CLASS_NAMES], "suppression": {name: {} for name in CLASS_NAMES}}}
    with pytest.raises(UserError, match=r"head.groups of student and teacher differ"):
        BevSimDet(features_off, plain, make_teacher(**groups))
    BevSimDet(features_off, plain, lidar)  # predictions alone: any student and any teacher with a centre head


def test_the_deployed_student_is_its_checkpoint_alone(student, teacher, tmp_path) -> None:
    """Nothing of the distillation is in it; the detector loads it strictly and runs it, any camera missing."""
    distil(teacher, student)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(student.config, student.state_dict(), ("CAM_FRONT", "CAM_BACK"), {}))
    detector = Detector.from_checkpoint(path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    K = np.tile([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], (3, 1, 1))
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    poses = np.stack([make_transform(rotation_z(yaw) @ optical, (0.0, 0.0, 1.5)) for yaw in (0.0, 2.0, 4.0)])
    for mask in (None, [True, False, True], [False, False, False]):
        boxes = detector(images, K, poses, None if mask is None else np.array(mask))
        assert boxes.class_names == CLASS_NAMES and (len(boxes) > 0) == (mask is None or any(mask))
