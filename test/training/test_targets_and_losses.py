"""Targets drawn and decoded again give the boxes back; losses in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.geometry import Boxes, wrap_angle
from bevdistill_ros.models.center_head import decode
from bevdistill_ros.models.outputs import CenterOutputs
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import CenterLossConfig, load_config
from bevdistill_ros.training.losses import center_losses, gaussian_focal_loss
from bevdistill_ros.training.targets import center_targets, gaussian_radius

MODEL = load_config(share_directory() / "config" / "models" / "small.yaml").model
CPU = torch.device("cpu")


def spread_boxes(seed: int, count: int = 30) -> Boxes:
    """Boxes of all classes, 6 m or more apart."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(-45, 46, 10), np.arange(-45, 46, 10)), axis=-1).reshape(-1, 2)
    xy = places[rng.permutation(len(places))[:count]] + rng.uniform(-2, 2, (count, 2))
    return Boxes(
        centers=np.c_[xy, rng.uniform(-1, 2, count)],
        sizes=rng.uniform(0.5, 5, (count, 3)),
        yaws=rng.uniform(-3, 3, count),
        velocities=rng.normal(size=(count, 2)),
        scores=np.ones(count),
        labels=rng.integers(0, 10, count),
        class_names=MODEL.classes,
    )


def test_targets_decode_to_the_boxes() -> None:
    truth = [spread_boxes(0), spread_boxes(1)]
    targets = center_targets(truth, MODEL, CenterLossConfig(), CPU)
    logits = torch.logit(targets.heatmap.clamp(1e-6, 1 - 1e-6))
    for boxes, found in zip(
        truth, decode(CenterOutputs(logits, targets.codes), MODEL.grid, MODEL.classes, MODEL.head, 0.9), strict=True
    ):
        assert len(found) == len(boxes) and targets.count == 60
        for i, center in enumerate(boxes.centers):
            j = np.argmin(np.linalg.norm(found.centers - center, axis=1))
            assert np.allclose(found.centers[j], center, atol=1e-4) and found.names[j] == boxes.names[i]
            assert np.allclose(found.sizes[j], boxes.sizes[i], rtol=1e-4)
            assert abs(wrap_angle(found.yaws[j] - boxes.yaws[i])) < 1e-4
            assert np.allclose(found.velocities[j], boxes.velocities[i], atol=1e-4)


def test_peak_is_in_the_centres_cell_and_rows_are_y() -> None:
    box = Boxes([[10.0, 0.4, 0]], [[4, 2, 1]], [0.0], [[0, 0]], [1], [0], MODEL.classes)
    heatmap = center_targets([box], MODEL, CenterLossConfig(), CPU).heatmap[0, 0]
    assert (heatmap == 1).nonzero().tolist() == [[64, 76]]  # y = 0.4 is row 64 (from -51.2 by 0.8), x = 10 column 76
    assert heatmap[64, 77] == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))  # radius 2: sigma 5 / 6


def test_boxes_off_the_grid_and_empty_frames() -> None:
    far = Boxes([[60.0, 0, 0]], [[4, 2, 1]], [0.0], [[0, 0]], [1], [0], MODEL.classes)
    targets = center_targets([far, Boxes.empty(MODEL.classes)], MODEL, CenterLossConfig(), CPU)
    assert targets.count == 0 and not targets.heatmap.any() and not targets.weight.any()
    outputs = CenterOutputs(torch.zeros_like(targets.heatmap), torch.zeros_like(targets.codes))
    losses = center_losses(outputs, targets, CenterLossConfig())
    assert losses["box"] == 0 and torch.isfinite(losses["heatmap"])


def test_gaussian_radius_by_hand() -> None:
    # 6 x 2.5 cells at overlap 0.1. The least of: 1-D root of both corners moving the same way, inwards, outwards.
    same = (8.5 + math.sqrt(8.5**2 - 4 * 15 * 0.9 / 1.1)) / 2
    inwards = (17 + math.sqrt(17**2 - 16 * 0.9 * 15)) / 2
    outwards = (-0.2 * 8.5 + math.sqrt((0.2 * 8.5) ** 2 + 16 * 0.1 * 0.9 * 15)) / 2
    found = gaussian_radius(torch.tensor(6.0), torch.tensor(2.5), 0.1)
    assert found == pytest.approx(min(same, inwards, outwards)) and found == pytest.approx(1.624, abs=1e-3)


def test_focal_loss_by_hand() -> None:
    logit = math.log(0.8 / 0.2)
    center = gaussian_focal_loss(torch.tensor([logit]), torch.tensor([1.0]))
    assert center == pytest.approx(-(0.2**2) * math.log(0.8), rel=1e-5)
    near = gaussian_focal_loss(torch.tensor([logit]), torch.tensor([0.5]))
    assert near == pytest.approx(-(0.5**4) * 0.8**2 * math.log(0.2), rel=1e-5)


def test_box_loss_by_hand_and_unknown_velocity() -> None:
    box = Boxes([[0.4, 0.4, 1.0]], [[math.e, 1, 1]], [0.0], [[np.nan, np.nan]], [1], [0], MODEL.classes)
    config = CenterLossConfig(regress_radius=0, box_weight=0.25)
    targets = center_targets([box], MODEL, config, CPU)
    codes = torch.zeros_like(targets.codes, requires_grad=True)
    losses = center_losses(CenterOutputs(targets.heatmap, codes), targets, config)
    # Wrong are z by 1, log length by 1, cos yaw by 1; velocity is unknown and passes no gradient.
    assert losses["box"].item() == pytest.approx(0.25 * 3)
    (gradient,) = torch.autograd.grad(losses["box"], codes)
    assert torch.isfinite(gradient).all() and not gradient[:, :, 8:].any()


def test_neighbouring_cells_regress_the_nearest_box_of_their_group() -> None:
    two = Boxes([[0.2, 0.4, 0], [1.9, 0.4, 5]], [[1, 1, 1]] * 2, [0, 0], [[0, 0]] * 2, [1, 1], [0, 0], MODEL.classes)
    targets = center_targets([two], MODEL, CenterLossConfig(regress_radius=1), CPU)
    row, column = 64, 64  # their cells: columns 64 and 66; the cell between is nearer to the second one
    assert targets.weight[0, 0, row].nonzero()[:, 0].tolist() == [
        column - 1,
        column,
        column + 1,
        column + 2,
        column + 3,
    ]
    assert targets.codes[0, 0, 2, row, column + 1] == 5.0
    assert targets.codes[0, 0, 0, row, column + 1] == pytest.approx((1.9 - 1.2) / 0.8)


def test_minibatch_losses_are_normalised_by_boxes_not_by_samples() -> None:
    boxes = spread_boxes(2)
    one = center_targets([boxes], MODEL, CenterLossConfig(), CPU)
    two = center_targets([boxes, boxes], MODEL, CenterLossConfig(), CPU)
    generator = torch.Generator().manual_seed(0)
    heatmap, codes = (torch.randn(t.shape, generator=generator) for t in (one.heatmap, one.codes))
    single = center_losses(CenterOutputs(heatmap, codes), one, CenterLossConfig())
    double = center_losses(
        CenterOutputs(heatmap.repeat(2, 1, 1, 1), codes.repeat(2, 1, 1, 1, 1)), two, CenterLossConfig()
    )
    for name in single:
        assert torch.allclose(single[name], double[name], rtol=1e-4)
    assert one.count * 2 == two.count


def test_a_doubtful_place_is_neither_object_nor_ground() -> None:
    """The heatmap of the class has no gradient under a doubtful box; other classes, the box loss and true centres keep theirs."""
    torch.manual_seed(0)
    boxes = spread_boxes(0, 6)
    config = CenterLossConfig()
    beside = replace(boxes[[0]], centers=boxes.centers[[0]] + (5.0, 0.0, 0.0))  # nothing is there
    far = replace(beside, centers=np.array([[500.0, 0.0, 0.0]]))

    def gradients(doubtful: list[Boxes]) -> tuple[torch.Tensor, torch.Tensor]:
        targets = center_targets([boxes], MODEL, config, CPU, doubtful)
        generator = torch.Generator().manual_seed(1)
        logits, codes = (torch.randn(part.shape, generator=generator) for part in (targets.heatmap, targets.codes))
        outputs = CenterOutputs(logits.requires_grad_(), codes.requires_grad_())
        sum(center_losses(outputs, targets, config).values()).backward()
        return logits.grad, codes.grad

    plain, plain_codes = gradients([])
    for nothing in ([Boxes.empty(())], [Boxes.empty(MODEL.classes)], [far]):
        assert torch.equal(gradients(nothing)[0], plain)
    heatmap, codes = gradients([beside])
    assert torch.equal(codes, plain_codes)
    changed = (heatmap != plain)[0]
    label = int(beside.labels[0])
    column, row = (int(v) for v in np.floor(np.asarray(MODEL.grid.to_cells(torch.from_numpy(beside.centers[0, :2])))))
    assert changed[label, row, column] and heatmap[0, label, row, column] == 0
    assert not heatmap[0][changed].any() and not changed[[i for i in range(10) if i != label]].any()
    assert 9 <= changed.sum() <= 100  # the box's Gaussian
    again, _ = gradients([boxes])  # doubt about what is there for certain: centres are learnt all the same
    centers = center_targets([boxes], MODEL, config, CPU).heatmap == 1
    assert torch.equal(again[centers], plain[centers]) and centers.sum() == 6
