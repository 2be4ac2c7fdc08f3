"""The BEVFormer student: the invariances that any rig relies on, gradients, precision, shipped sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.config import BackboneConfig, BevFormerConfig, BevFormerModelConfig, ImageConfig, QueryHeadConfig
from bevdistill_ros.geometry import BevGrid, make_transform, rotation_z
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bevformer import BevFormer
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
UPWARD = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]) @ np.diag([1.0, -1.0, -1.0])


def shipped(name: str) -> BevFormerModelConfig:
    return load_config(share_directory() / "config" / "models" / f"{name}.yaml").model


def small_model() -> BevFormerModelConfig:
    """bevformer_nano's architecture at a size for tests."""
    return replace(
        shipped("bevformer_nano"),
        image=ImageConfig(64, 96),
        grid=BevGrid(-16.0, 16.0, -12.0, 12.0, 4.0),
        backbone=BackboneConfig(18, 16),
        bevformer=BevFormerConfig(
            channels=16, layers=2, heads=2, levels=4, heights=2, points=4, bev_points=2, feedforward=16, dropout=0.0, z_min=-1.0,
            z_max=3.0,
        ),
        queries=QueryHeadConfig(
            queries=10, channels=16, layers=2, heads=2, points=2, feedforward=16, dropout=0.0, max_boxes=20, auxiliary_channels=16
        ),
    )  # fmt: skip


def rig(count: int, seed: int = 0, batch: int = 1) -> dict[str, Tensor]:
    """``count`` cameras all around, with noise as images."""
    rng = np.random.default_rng(seed)
    K = np.array([[60.0, 0.0, 47.5], [0.0, 60.0, 31.5], [0.0, 0.0, 1.0]])
    poses = [
        make_transform(rotation_z(2 * math.pi * i / count) @ FORWARD, rng.uniform(-1, 1, 3) + [0, 0, 1.5])
        for i in range(count)
    ]
    return {
        "images": torch.from_numpy(rng.integers(0, 256, (batch, count, 64, 96, 3), dtype=np.uint8)),
        "K": torch.from_numpy(np.tile(K, (batch, count, 1, 1))).float(),
        "ego_T_cam": torch.from_numpy(np.tile(np.stack(poses), (batch, 1, 1, 1))).float(),
    }


def make_network(seed: int) -> BevFormer:
    """In training mode, with attentions that depend on their queries, which fresh ones do not."""
    torch.manual_seed(seed)
    network = build_network(small_model())
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("offsets.weight", "weights.weight")):
                weight.normal_(0, 0.3)
    return network.train()


@pytest.fixture(scope="module")
def network() -> BevFormer:
    network = make_network(0)
    with torch.no_grad():
        network(**rig(6, 1))  # statistics of real activations, so that the outputs are of ordinary size
    return network.eval()


def run(network: BevFormer, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = network(**inputs)
    return torch.cat([outputs.bev.flatten(1), outputs.queries.logits[-1].flatten(1)], dim=1)


def test_bev_features_are_of_the_grid_and_boxes_come_of_them(network: BevFormer) -> None:
    outputs = network(**rig(3, batch=2))
    assert outputs.bev.shape == (2, 16, 6, 8)  # rows are y
    assert [len(boxes) for boxes in network.decode(outputs)] == [20, 20]


def test_order_of_cameras_does_not_matter(network: BevFormer) -> None:
    inputs, order = rig(6), torch.tensor([3, 0, 5, 1, 4, 2])
    found = run(network, **{name: value[:, order] for name, value in inputs.items()})
    torch.testing.assert_close(found, run(network, **inputs), atol=1e-4, rtol=0)


def test_a_masked_camera_is_an_absent_one(network: BevFormer) -> None:
    inputs = rig(6)
    mask = torch.tensor([[True, True, False, True, True, False]])
    expected = run(network, **{name: value[:, mask[0]] for name, value in inputs.items()})
    # Whatever stands in for the missing camera, even a calibration that is no number or singular.
    inputs["images"][:, 2], inputs["K"][:, 2], inputs["ego_T_cam"][:, 5] = 255, math.nan, 0.0
    found = run(network, **inputs, mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, run(network, **rig(6)), atol=1e-2)  # and it did matter


@pytest.mark.parametrize("count", [1, 4, 8])
def test_any_number_of_cameras(network: BevFormer, count: int) -> None:
    assert torch.isfinite(run(network, **rig(count))).all()


def test_a_batch_is_its_samples(network: BevFormer) -> None:
    one, other = rig(5, 1), rig(5, 2)
    both = {name: torch.cat([one[name], other[name]]) for name in one}
    mask = torch.tensor([[True] * 5, [True, False, True, False, True]])
    expected = torch.cat([run(network, **one), run(network, **other, mask=mask[1:])])
    torch.testing.assert_close(run(network, **both, mask=mask), expected, atol=1e-4, rtol=0)


def test_cameras_that_see_no_cell_change_nothing_and_may_be_alone(network: BevFormer) -> None:
    inputs = rig(4)
    inputs["ego_T_cam"][:, 3] = torch.from_numpy(make_transform(UPWARD, (0, 0, 5))).float()
    three = {name: value[:, :3] for name, value in inputs.items()}
    torch.testing.assert_close(run(network, **inputs), run(network, **three), atol=1e-5, rtol=0)
    alone = {name: value[:, 3:] for name, value in inputs.items()}
    blind = run(network, **inputs, mask=torch.zeros(1, 4, dtype=torch.bool))
    assert torch.isfinite(blind).all()
    torch.testing.assert_close(run(network, **alone), blind, atol=1e-5, rtol=0)


def test_what_images_show_matters(network: BevFormer) -> None:
    seen, other = rig(6), rig(6)
    other["images"] = 255 - other["images"]
    assert (run(network, **seen) - run(network, **other)).abs().max() > 0.05


@pytest.mark.parametrize(("blind", "mixed"), [(False, False), (True, False), (False, True)])
def test_gradients_reach_every_weight(blind: bool, mixed: bool) -> None:
    """Where no camera is there, too: they are zero then, but they are, as training in several processes demands."""
    network = make_network(1)
    mask = torch.full((2, 3), not blind)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        outputs = network(**rig(3, batch=2), mask=mask)
    loss = outputs.queries.logits.square().sum() + outputs.queries.codes.square().sum()
    (loss + outputs.auxiliary.float().square().sum()).backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without
    if not blind:
        zero = [name for name, weight in network.named_parameters() if not weight.grad.abs().sum() > 0]
        assert not zero
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())


def test_gradients_after_inference_with_the_same_calibration(network: BevFormer) -> None:
    inputs = rig(4)
    with torch.inference_mode():
        network(**inputs)
    network(**inputs).bev.sum().backward()  # what inference has kept serves here, too
    assert network.backbone.conv1.weight.grad.abs().sum() > 0
    network.zero_grad()


def test_mixed_precision_is_near_to_full_precision(network: BevFormer) -> None:
    inputs = rig(6)
    exact = run(network, **inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(network, **inputs)
    assert torch.isfinite(mixed).all() and (mixed - exact).abs().mean() < 0.05 * exact.abs().mean() + 0.02


def test_nano_runs() -> None:
    config = shipped("bevformer_nano")
    torch.manual_seed(0)
    network = build_network(config).eval()
    K = torch.tensor([[200.0, 0, 127.5], [0, 200.0, 47.5], [0, 0, 1]]).expand(1, 6, 3, 3)
    poses = [make_transform(rotation_z(i * math.pi / 3) @ FORWARD, (0, 0, 1.5)) for i in range(6)]
    with torch.inference_mode():
        outputs = network(
            torch.zeros(1, 6, 96, 256, 3, dtype=torch.uint8), K, torch.from_numpy(np.stack(poses)[None]).float()
        )
    assert outputs.bev.shape == (1, 64, 32, 32)
    assert outputs.queries.logits.shape == (1, 1, 200, 10)
    assert sum(weight.numel() for weight in network.parameters()) < 4e6


def test_r50_is_of_the_papers_size() -> None:
    """Weights counted by hand; without deformable convolutions, which ``test_resnet.py`` counts."""
    config = shipped("bevformer_r50")
    plain = replace(config, backbone=replace(config.backbone, deformable_stages=0))
    with torch.device("meta"):
        network = build_network(plain)

    def weights(part: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    def linear(a: int, b: int) -> int:
        return a * b + b

    assert weights(network.backbone) == 25_557_032 - 2_049_000
    assert weights(network.neck) == sum(linear(c, 256) for c in (512, 1024, 2048)) + 4 * linear(9 * 256, 256)
    either = 2 * linear(256, 256)  # values, output
    bev_attention = linear(256, 8 * 4 * 2) + linear(256, 8 * 4) + either
    image_attention = linear(256, 8 * 4 * 8 * 2) + linear(256, 8 * 4 * 8) + either
    layer = bev_attention + image_attention + linear(256, 512) + linear(512, 256) + 3 * 2 * 256
    assert weights(network.encoder) == 128 * 128 * 256 + (128 + 128) * 128 + 4 * 256 + 6 * layer
    assert (config.queries.queries, config.queries.layers, len(network.encoder.layers)) == (900, 6, 6)
    assert (config.image.height, config.image.width, config.grid.rows, config.grid.cell) == (928, 1600, 128, 0.8)
