"""The fusion teacher: both senses on one grid, each by itself if need be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import (
    BackboneConfig,
    BevEncoderConfig,
    ImageConfig,
    LiftConfig,
    PillarsConfig,
    SecondConfig,
)
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models import build_network
from bevdistill_ros.models.fusion_net import FusionNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

MODELS = share_directory() / "config" / "models"


def small_model(**changes):
    """teacher_fusion_nano's architecture at a size for tests; the grid is wider than high."""
    model = load_config(MODELS / "teacher_fusion_nano.yaml").model
    small = replace(
        model,
        image=ImageConfig(64, 96),
        grid=BevGrid(-16.0, 16.0, -8.0, 8.0, 2.0),
        backbone=BackboneConfig(18, 16),
        lift=LiftConfig(stride=8, bins=10, depth_max=21.0, channels=16, neck_channels=16),
        pillars=PillarsConfig(cell=0.5, channels=(16,)),
        second=SecondConfig(strides=(2, 2, 2), layers=(1, 1, 1), channels=(16, 16, 16), channels_out=20),
        fused_channels=24,
        bev=BevEncoderConfig(channels=16, halvings=1, blocks=1),
        head=replace(model.head, channels=16),
    )
    return replace(small, **changes)


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform((-17, -9, -3, 0, 0), (17, 9, 5, 255, 0.5), (count, 5))).float()


@pytest.fixture(scope="module")
def network(camera_rig) -> FusionNet:
    torch.manual_seed(0)
    network = FusionNet(small_model())
    with torch.no_grad():  # statistics of real activations
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()([cloud(2000)], **camera_rig(6, 1))
    return network.eval()


def run(network: FusionNet, points, **inputs):
    with torch.no_grad():
        return network(points, **inputs)


def test_both_senses_are_on_one_grid(network: FusionNet, camera_rig) -> None:
    outputs = run(network, [cloud(1000)], **camera_rig(4))
    modal = outputs.modal
    assert modal.camera.shape == (1, 16, 8, 16) and modal.lidar.shape == (1, 20, 8, 16)
    assert modal.fused.shape == (1, 24, 8, 16) and network.modal_channels == (16, 20, 24)
    assert outputs.bev.shape == (1, 16, 8, 16) and outputs.center.heatmap.shape == (1, 10, 8, 16)
    assert outputs.image.depth.shape == (1, 4, 10, 8, 12)
    image = network.describe_images([], **camera_rig(4))
    torch.testing.assert_close(image.depth, outputs.image.depth)
    (boxes,) = network.decode(outputs)
    assert len(boxes) and boxes.class_names == network.config.classes


def test_each_sense_reaches_its_own_features_and_the_output(network: FusionNet, camera_rig) -> None:
    inputs = camera_rig(6)
    whole = run(network, [cloud(1000)], **inputs)
    other_points = run(network, [cloud(1000, 5)], **inputs)
    assert torch.equal(other_points.modal.camera, whole.modal.camera)
    assert not torch.allclose(other_points.center.heatmap, whole.center.heatmap, atol=1e-3)
    inputs["images"] = inputs["images"].flip(2)
    other_images = run(network, [cloud(1000)], **inputs)
    assert torch.equal(other_images.modal.lidar, whole.modal.lidar)
    assert not torch.allclose(other_images.center.heatmap, whole.center.heatmap, atol=1e-3)


def test_it_sees_without_cameras_and_without_points(network: FusionNet, camera_rig) -> None:
    inputs = camera_rig(4)
    none = torch.zeros(1, 4, dtype=torch.bool)
    inputs["K"][:, 2], inputs["ego_T_cam"][:, 1] = math.nan, math.nan  # whatever stands in for what is absent
    blind = run(network, [cloud(1000)], **inputs, mask=none)
    assert blind.bev.isfinite().all() and blind.center.heatmap.std() > 0
    others = run(network, [cloud(1000)], **{**inputs, "images": inputs["images"].flip(2)}, mask=none)
    assert torch.equal(others.modal.camera, blind.modal.camera)
    empty = run(network, [torch.zeros(0, 5)], **camera_rig(4))
    assert empty.bev.isfinite().all() and not torch.equal(empty.modal.camera, blind.modal.camera)
    neither = run(network, [torch.zeros(0, 5)], **inputs, mask=none)
    assert neither.center.heatmap.isfinite().all()


def test_cameras_in_any_order_and_masked_ones_are_absent(network: FusionNet, camera_rig) -> None:
    inputs, points = camera_rig(6), [cloud(1000)]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = run(network, points, **{name: value[:, order] for name, value in inputs.items()})
    torch.testing.assert_close(shuffled.bev, run(network, points, **inputs).bev, atol=1e-4, rtol=0)
    mask = torch.tensor([[True, False, True, True, True, False]])
    wanted = run(network, points, **{name: value[:, mask[0]] for name, value in inputs.items()})
    torch.testing.assert_close(run(network, points, **inputs, mask=mask).bev, wanted.bev, atol=1e-5, rtol=0)


def test_all_of_it_learns(camera_rig) -> None:
    torch.manual_seed(0)
    network = FusionNet(small_model()).train()
    rig = [camera_rig(2, seed) for seed in (1, 2)]
    outputs = network([cloud(300), torch.zeros(0, 5)], **{name: torch.cat([r[name] for r in rig]) for name in rig[0]})
    (outputs.center.heatmap.square().mean() + outputs.center.codes.square().mean()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_mixed_precision_changes_little(network: FusionNet, camera_rig) -> None:
    exact = run(network, [cloud(1000)], **camera_rig(3)).bev
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(network, [cloud(1000)], **camera_rig(3)).bev.float()
    assert (mixed - exact).abs().mean() < 0.05 * (exact - exact.mean()).abs().mean()


@pytest.mark.parametrize("size", ["nano", "small", "r50"])
def test_a_shipped_teacher_fits_its_student(size: str) -> None:
    config = load_config(MODELS / f"teacher_fusion_{size}.yaml")
    student = load_config(MODELS / f"simulated_{size}.yaml").model
    assert config.training.image_supervision.depth > 0
    teacher = config.model
    for what in ("classes", "grid", "image"):
        assert getattr(teacher, what) == getattr(student, what)
    assert teacher.head.groups == student.head.groups
    assert teacher.lift.channels == student.lift.channels and teacher.fused_channels == student.fused_channels
    with torch.device("meta"):
        build_network(teacher)
