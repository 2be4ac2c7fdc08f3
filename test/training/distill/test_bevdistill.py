"""BEVDistill's losses against their closed forms, and all of them together on real networks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import BOX_CODE
from bevdistill_ros.models.outputs import Outputs, QueryOutputs
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import from_dict, to_dict
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.distill.bevdistill import (
    BevDistill,
    box_loss,
    class_loss,
    contrast_loss,
    dense_loss,
    sample_bev,
)
from bevdistill_ros.training.distill.config import CODE_WEIGHTS, BevDistillConfig
from bevdistill_ros.training.distill.method import DistilledBatch

WEIGHTS = torch.tensor(CODE_WEIGHTS)[[0, 0, 1, 2, 2, 2, 3, 3, 4, 4]]
NO_LOSS = {name: {"weight": 0.0} for name in ("dense", "boxes", "classes", "contrast")}
ALL = {"classes": {"weight": 0.5}}
RECONSTRUCTED = {
    "dense": {"weight": 2.56, "features": "bev", "per_channel": True},
    "instances": {"count": 7, "gamma": 0.5},
    "boxes": {"weight": 0.25, "power": 1.0},
    "classes": {"weight": 0.1, "power": 1.0},
    "contrast": {"weight": 0.2, "centers": "teacher", "weighted": True, "channels": 32},
}


def settings(**fields) -> BevDistillConfig:
    return from_dict(BevDistillConfig, fields, "bevdistill")


# ------------------------------------------------------------------------------------------------------------ closed forms


def dense_by_hand(student, teacher, mask) -> float:
    channels, rows, columns = student.shape
    total = 0.0
    for c in range(channels):
        for i in range(rows):
            for j in range(columns):
                total += float(mask[0, i, j]) * float(student[c, i, j] - teacher[c, i, j]) ** 2
    return total / float(mask.sum())


def test_the_dense_loss_is_that_of_each_sample_by_its_own_mask() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 5, generator=rng) for _ in range(2))
    mask = torch.rand(2, 1, 4, 5, generator=rng) * torch.tensor([1.0, 0.01])[:, None, None, None]
    by_hand = [dense_by_hand(*maps) for maps in zip(student, teacher, mask, strict=True)]
    for s in range(2):
        alone = dense_loss(student[s : s + 1], teacher[s : s + 1], mask[s : s + 1], per_channel=False)
        assert float(alone) == pytest.approx(by_hand[s], rel=1e-5)
    together = dense_loss(student, teacher, mask, per_channel=False)
    assert float(together) == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert float(dense_loss(student, teacher, mask, per_channel=True)) == pytest.approx(float(together) / 3)
    mask[1] = 0.0
    assert float(dense_loss(student, teacher, mask, per_channel=False)) == pytest.approx(by_hand[0] / 2, rel=1e-5)


def test_the_box_loss_weighs_by_quality_and_velocities_less() -> None:
    """Differences 1 in every value, 2 in every value: 8.4 and 16.8 with velocities at 0.2."""
    wanted = torch.zeros(2, BOX_CODE)
    predicted = torch.stack([torch.ones(BOX_CODE), -2 * torch.ones(BOX_CODE)])
    q = torch.tensor([0.9, 0.3])
    squared = (0.81 * 8.4 + 0.09 * 16.8) / 1.2
    assert float(box_loss(predicted, wanted, q, 2.0, WEIGHTS)) == pytest.approx(squared)
    assert float(box_loss(predicted, wanted, q, 1.0, WEIGHTS)) == pytest.approx((0.9 * 8.4 + 0.3 * 16.8) / 1.2)
    for d, weight in enumerate([1.0] * 8 + [0.2] * 2):
        only = torch.zeros(1, BOX_CODE)
        only[0, d] = 3.0
        nothing, one = torch.zeros(1, BOX_CODE), torch.ones(1)
        assert float(box_loss(only, nothing, one, 2.0, WEIGHTS)) == pytest.approx(3 * weight), d
        assert float(box_loss(only, nothing, one, 2.0, WEIGHTS.roll(1)[:BOX_CODE])) == pytest.approx(
            3 * WEIGHTS.roll(1)[d]
        )


def test_the_class_loss_is_the_cross_entropy_with_soft_labels() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 1.0]])
    p = torch.tensor([[0.5, 0.9], [0.2, 0.0]])
    q = torch.tensor([0.9, 0.3])
    entropy = []
    for x_row, p_row in zip(logits.tolist(), p.tolist(), strict=True):
        s = [1 / (1 + math.exp(-x)) for x in x_row]
        entropy.append(sum(-t * math.log(y) - (1 - t) * math.log(1 - y) for y, t in zip(s, p_row, strict=True)))
    expected = (0.81 * entropy[0] + 0.09 * entropy[1]) / 1.2
    assert float(class_loss(logits, p, q, 2.0)) == pytest.approx(expected)
    assert float(class_loss(logits, p, q, 1.0)) == pytest.approx((0.9 * entropy[0] + 0.3 * entropy[1]) / 1.2)


def test_the_contrast_finds_the_students_feature_of_the_teachers_place() -> None:
    """Two places whose features are at right angles; lengths do not matter. Teacher anchors, student keys: columns are not rows."""
    teacher, tau = torch.eye(2) * 3.0, 0.5
    right = math.log(1 + math.exp(-1 / tau))
    assert float(contrast_loss(torch.eye(2) * 7.0, teacher, torch.ones(2), tau)) == pytest.approx(right)
    assert float(contrast_loss(torch.eye(2).flip(0), teacher, torch.ones(2), tau)) == pytest.approx(right + 1 / tau)
    # Both of the student's are as the teacher's first.
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(contrast_loss(student, teacher, torch.ones(2), tau)) == pytest.approx(math.log(2))
    # The student's second is between: the teacher's first sees cos 1 and cos 45 degrees, its second cos 90 and cos 45 degrees.
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    near = math.sqrt(0.5)
    first = math.log(1 + math.exp((near - 1) / tau))
    second = math.log(1 + math.exp((0 - near) / tau))
    weights = torch.tensor([0.9, 0.3])
    expected = (0.9 * first + 0.3 * second) / 1.2
    assert float(contrast_loss(student, teacher, weights, tau)) == pytest.approx(expected)
    assert float(contrast_loss(student[:1], teacher[:1], weights[:1], tau)) == 0.0


def test_places_that_are_alike_are_not_told_apart() -> None:
    """The second is alike to the first: each then has the third alone to be told from, and the third has both."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    alike = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    tau, one = 0.5, torch.ones(3)
    units = [row / row.norm() for row in features]
    e = [[math.exp(float(a @ b) / tau) for b in units] for a in units]
    shares = [e[0][0] / (e[0][0] + e[0][2]), e[1][1] / (e[1][1] + e[1][2]), e[2][2] / sum(e[2])]
    expected = -sum(math.log(share) for share in shares) / 3
    assert float(contrast_loss(features, features, one, tau, alike)) == pytest.approx(expected)
    told_apart = float(contrast_loss(features, features, one, tau))
    assert float(contrast_loss(features, features, one, tau, torch.eye(3) > 0)) == told_apart > expected


@pytest.mark.parametrize("loss", [partial(box_loss, weights=WEIGHTS), class_loss])
def test_no_instances_give_zero_with_a_graph(loss) -> None:
    predicted = torch.zeros(0, BOX_CODE, requires_grad=True)
    value = loss(predicted, torch.zeros(0, BOX_CODE), torch.zeros(0), 2.0)
    assert value.requires_grad and float(value.detach()) == 0.0
    features = torch.zeros(0, 4, requires_grad=True)
    value = contrast_loss(features, torch.zeros(0, 4), torch.zeros(0), 0.07)
    assert value.requires_grad and float(value.detach()) == 0.0


def test_features_are_sampled_at_their_place() -> None:
    """x by columns, y by rows, the cells' centres exactly, between them in between; a coarser map of the same range alike."""
    grid = BevGrid(-4.0, 4.0, -2.0, 2.0, 1.0)
    centers = torch.from_numpy(grid.centers()).float()  # (Y, X, 2)
    places = torch.tensor([[0.5, -1.5], [-2.5, 0.5], [1.0, 0.0], [30.0, 0.0]])
    found = sample_bev(centers.permute(2, 0, 1), grid, places)
    torch.testing.assert_close(found[:3], places[:3])
    assert found[3].tolist() == [0.0, 0.0]
    coarse = BevGrid(-4.0, 4.0, -2.0, 2.0, 2.0)
    centers = torch.from_numpy(coarse.centers()).float()
    torch.testing.assert_close(sample_bev(centers.permute(2, 0, 1), coarse, places[1:3]), places[1:3])


# ---------------------------------------------------------------------------------------------------------- whole networks


def distil(method: nn.Module, student, teacher, batch) -> dict[str, torch.Tensor]:
    outputs = student(*(batch[name] for name in student.inputs))
    with torch.no_grad():
        taught = teacher(*(batch[name] for name in teacher.inputs))
    return method(DistilledBatch(outputs, taught, batch["boxes"], student, teacher))


def part(batch, s: int) -> dict:
    return {name: value[s : s + 1] for name, value in batch.items()}


def everywhere(x: float) -> Boxes:
    """A box of each class that overlaps with whatever a teacher finds."""
    count = len(CLASS_NAMES)
    centers, sizes = np.tile([x, 0.0, 0.0], (count, 1)), np.tile([40.0, 20.0, 2.0], (count, 1))
    zeros = np.zeros(count)
    return Boxes(centers, sizes, zeros, np.zeros((count, 2)), zeros + 1, np.arange(count), CLASS_NAMES)


@pytest.mark.parametrize("head", ["head", "queries"])
@pytest.mark.parametrize("fields", [ALL, RECONSTRUCTED], ids=["release", "reconstructed"])
def test_two_samples_give_the_mean_of_each_alone(head, fields, make_student, make_teacher, make_batch) -> None:
    """And an empty one gives exactly 0, with a gradient for every adapter."""
    student, teacher = make_student(head), make_teacher(head)
    method = BevDistill(settings(**fields), student, teacher)
    batch = make_batch(3)
    batch["boxes"] = [everywhere(0.0), everywhere(1.0), Boxes.empty(CLASS_NAMES)]
    alone = [distil(method, student, teacher, part(batch, s)) for s in range(3)]
    together = distil(method, student, teacher, batch)
    assert set(together) == {"bevdistill_dense", "bevdistill_boxes", "bevdistill_classes", "bevdistill_contrast"}
    for name, value in together.items():
        assert value.dtype == torch.float32
        assert alone[0][name].item() > 0 and alone[1][name].item() > 0, name
        assert alone[2][name].item() == 0.0, name
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 3, rtol=1e-4, atol=1e-6)
    method.zero_grad()
    sum(alone[2].values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())


def test_the_release_in_numbers(make_student, make_teacher, make_batch) -> None:
    """The whole method's value of one sample of a query head, put together from outputs by the formulas as the release has them."""
    student, teacher = make_student("queries"), make_teacher("queries")
    method = BevDistill(settings(instances={"count": 1}), student, teacher)
    batch = make_batch(1)
    losses = distil(method, student, teacher, batch)
    with torch.no_grad():
        outputs = student(*(batch[name] for name in student.inputs))
        taught = teacher(batch["points"])
        # One instance: the cheapest query of each layer has it.
        p = taught.queries.logits[-1, 0].sigmoid()
        best = p.amax(dim=1).argmax()
        raw, q = taught.queries.codes[-1, 0, best], float(p[best].max())
        box = torch.cat([raw[:6], nn.functional.normalize(raw[6:8], dim=0), raw[8:]])  # a box has a whole heading
        expected = 0.0
        for logits, codes in zip(outputs.queries.logits[:, 0], outputs.queries.codes[:, 0], strict=True):
            entropy = nn.functional.binary_cross_entropy_with_logits(
                logits, p[best].expand_as(logits), reduction="none"
            )
            cost = entropy.sum(dim=1) + 0.25 * (codes - box)[:, :8].abs().sum(dim=1)
            difference = (codes[cost.argmin()] - box).abs()
            expected += 0.25 * q**2 * float(difference[:8].sum() + 0.2 * difference[8:].sum()) / q
        assert float(losses["bevdistill_boxes"]) == pytest.approx(expected, rel=1e-4)
        # Every query of every layer is a place.
        places = outputs.queries.codes[:, 0, :, :2].flatten(0, 1)
        features = [
            project(sample_bev(found.bev[0], network.config.grid, places))
            for project, found, network in (
                (method.contrast.student, outputs, student),
                (method.contrast.teacher, taught, teacher),
            )
        ]
        s, t = (nn.functional.normalize(f, dim=1) for f in features)
        entropy = nn.functional.cross_entropy(t @ s.T / 0.07, torch.arange(len(places)))
        assert len(places) == 2 * 12
        assert float(losses["bevdistill_contrast"]) == pytest.approx(0.2 * float(entropy), rel=1e-4)


def test_permuting_the_queries_changes_nothing(make_student, make_teacher, make_batch) -> None:
    student, teacher = make_student("queries"), make_teacher("queries")
    method = BevDistill(settings(**ALL), student, teacher)
    batch = make_batch(2)
    with torch.no_grad():
        outputs, taught = student(*(batch[name] for name in student.inputs)), teacher(batch["points"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))

    def permuted(outputs: Outputs) -> Outputs:
        return replace(
            outputs, queries=QueryOutputs(outputs.queries.logits[:, :, order], outputs.queries.codes[:, :, order])
        )

    losses = [
        method(DistilledBatch(first, second, batch["boxes"], student, teacher))
        for first, second in ((outputs, taught), (permuted(outputs), taught), (outputs, permuted(taught)))
    ]
    for other in losses[1:]:
        for name, value in losses[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_what_has_no_weight_is_neither_built_nor_computed(make_student, make_teacher, make_batch, monkeypatch) -> None:
    student, teacher, batch = make_student(), make_teacher(), make_batch(1)
    for name in NO_LOSS:
        method = BevDistill(settings(**{**NO_LOSS, name: {"weight": 1.0}}), student, teacher)
        assert (method.contrast is not None) == (name == "contrast") and (method.dense is not None) == (name == "dense")
        assert set(distil(method, student, teacher, batch)) == {f"bevdistill_{name}"}
    method = BevDistill(settings(**{**NO_LOSS, "dense": {"weight": 1.0}}), student, teacher)
    monkeypatch.setattr("bevdistill_ros.training.distill.bevdistill.teacher_instances", None)
    distil(method, student, teacher, batch)
    with pytest.raises(UserError, match="every weight is 0"):
        settings(**NO_LOSS)


def test_weights_are_factors(make_student, make_teacher, make_batch) -> None:
    student, teacher, batch = make_student(), make_teacher(), make_batch(1)
    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        fields = {name: {"weight": weight} for name in NO_LOSS}
        losses.append(distil(BevDistill(settings(**fields), student, teacher), student, teacher, batch))
    assert len(losses[0]) == 4
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], 3 * value)


def test_each_value_of_a_box_has_its_weight(make_student, make_teacher, make_batch) -> None:
    """What each gives alone adds up to all, and one with weight 0 teaches nothing."""
    student, teacher, batch = make_student(), make_teacher(), make_batch(1)

    def boxes(*weights: float) -> torch.Tensor:
        method = BevDistill(settings(**{**NO_LOSS, "boxes": {"weight": 1.0, "weights": weights}}), student, teacher)
        return distil(method, student, teacher, batch)["bevdistill_boxes"]

    alone = [boxes(*(float(i == k) for i in range(5))) for k in range(5)]
    assert min(alone) > 0
    torch.testing.assert_close(sum(alone), boxes(1.0, 1.0, 1.0, 1.0, 1.0))
    method = BevDistill(settings(**{**NO_LOSS, "boxes": {"weight": 1.0, "weights": [0, 1, 1, 1, 0]}}), student, teacher)
    outputs, taught = (network(*(batch[name] for name in network.inputs)) for network in (student, teacher))
    loss = method(DistilledBatch(outputs, taught, batch["boxes"], student, teacher))["bevdistill_boxes"]
    (gradient,) = torch.autograd.grad(loss, outputs.center.codes)  # (1, groups, BOX_CODE, Y, X)
    taught_values = gradient.abs().sum(dim=(0, 1, 3, 4)) > 0
    assert taught_values.tolist() == [False] * 2 + [True] * 6 + [False] * 2
    with pytest.raises(UserError, match="weights must not be negative, and not all 0"):
        settings(boxes={"weight": 1.0, "weights": [0, 0, 0, 0, 0]})


def test_places_nearer_than_min_distance_are_no_negatives(make_student, make_teacher, make_batch) -> None:
    student, teacher, batch = make_student(), make_teacher(), make_batch(1)
    batch["boxes"] = [everywhere(0.0)]
    losses = []
    for distance in (0.0, 3.0, 1000.0):
        torch.manual_seed(0)
        contrast = {"weight": 1.0, "centers": "teacher", "min_distance": distance, "channels": 16}
        method = BevDistill(settings(**{**NO_LOSS, "contrast": contrast}), student, teacher)
        losses.append(float(distil(method, student, teacher, batch)["bevdistill_contrast"].detach()))
    assert losses[0] > losses[1] > losses[2] == 0.0  # in the end there is nothing to be told from


@pytest.mark.parametrize("features", ["heatmap", "bev"])
def test_the_students_features_learn_to_be_the_teachers_where_objects_are(
    features, make_student, make_teacher, make_batch
) -> None:
    """With another cell and another width: the teacher's map is brought onto the student's grid, the features to one width."""
    student = make_student()
    wide = {"channels": 24, "groups": [CLASS_NAMES], "suppression": {name: {} for name in CLASS_NAMES}}
    teacher = make_teacher(cell=1.0, head=wide)
    method = BevDistill(settings(**{**NO_LOSS, "dense": {"weight": 1.0, "features": features}}), student, teacher)
    batch = make_batch(1)
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], 3e-3)
    values = []
    for _ in range(25):
        loss = distil(method, student, teacher, batch)["bevdistill_dense"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.3 * values[0]


def test_a_teachers_gradient_is_none(make_student, make_teacher, make_batch) -> None:
    """Even of one that is not frozen: the student alone is to move."""
    student, teacher = make_student(), make_teacher()
    method = BevDistill(settings(**ALL), student, teacher.requires_grad_(True))
    sum(distil(method, student, teacher, make_batch(1)).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.backbone.conv1.parameters())


def test_what_does_not_fit_is_told(make_student, make_teacher) -> None:
    queries = make_student("queries").config.queries
    without = make_student("queries", queries={**to_dict(queries), "auxiliary_channels": 0})
    with pytest.raises(UserError, match="'small' has no heatmaps; set features to bev"):
        BevDistill(settings(), without, make_teacher())
    with pytest.raises(UserError, match="set centers to teacher"):
        BevDistill(settings(contrast={"weighted": True}), make_student("queries"), make_teacher())
    with pytest.raises(UserError, match="gamma 1.5 must be between 0 and 1"):
        settings(instances={"gamma": 1.5})


def test_the_shipped_settings() -> None:
    """The release's are the defaults; both can be given to an override, as their comments say."""
    share = share_directory() / "config"
    found = {}
    for name in ("release", "reconstructed"):
        text = (share / "distill" / f"bevdistill_{name}.yaml").read_text(encoding="utf-8")
        overrides = ["training.distill.teacher=teacher.safetensors", f"training.distill.bevdistill={text}"]
        found[name] = load_config(share / "models" / "nano.yaml", overrides).training.distill.bevdistill
    assert found["release"] == BevDistillConfig()
    assert found["reconstructed"] != found["release"] and found["reconstructed"].boxes.power == 1.0
