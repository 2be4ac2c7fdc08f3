"""The student that simulates LiDAR features: cameras alone, two lifts that are not the same, and the invariances of any student."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
import torch

from bevdistill_ros.config import BackboneConfig, BevEncoderConfig, CompensationConfig, ImageConfig, LiftConfig
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models import build_network
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.simulated import SimulatedNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

MODELS = share_directory() / "config" / "models"


def small_model(**changes):
    """simulated_nano's architecture at a size for tests; the grid is wider than high."""
    model = load_config(MODELS / "simulated_nano.yaml").model
    small = replace(
        model,
        image=ImageConfig(64, 96),
        grid=BevGrid(-16.0, 16.0, -12.0, 12.0, 2.0),
        backbone=BackboneConfig(18, 16),
        lift=LiftConfig(stride=8, bins=10, depth_max=21.0, channels=16, neck_channels=16, ray_channels=8),
        bev=BevEncoderConfig(channels=16, halvings=1, blocks=1),
        compensation=CompensationConfig(heads=4, image_points=3, bev_points=4),
        fused_channels=24,
        head=replace(model.head, channels=16),
    )
    return replace(small, **changes)


@pytest.fixture(scope="module")
def network(camera_rig) -> SimulatedNet:
    torch.manual_seed(0)
    network = SimulatedNet(small_model())
    with torch.no_grad():  # attention that has learnt something, and statistics of real activations
        for compensation in (network.image_compensation, network.bev_compensation):
            attention = compensation.attention
            for layer in (attention.offsets, attention.weights, attention.output):
                torch.nn.init.normal_(layer.weight, std=0.3)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(**camera_rig(6, 1))
    return network.eval()


def run(network: SimulatedNet, **inputs) -> torch.Tensor:
    with torch.no_grad():
        outputs = network(**inputs)
    return torch.cat([outputs.center.heatmap, outputs.center.codes.flatten(1, 2)], dim=1)


def test_no_lidar_can_enter(network: SimulatedNet) -> None:
    """It is called as the plain student is: there is no argument that points could come in by."""
    assert network.inputs == LSS.inputs
    assert inspect.signature(network.forward) == inspect.signature(LSS.forward.__get__(network))


def test_features_of_both_kinds_are_on_the_grid(network: SimulatedNet, camera_rig) -> None:
    with torch.no_grad():
        outputs = network(**camera_rig(4))
    modal = outputs.modal
    assert modal.camera.shape == modal.lidar.shape == (1, 16, 12, 16) and modal.fused.shape == (1, 24, 12, 16)
    assert network.modal_channels == (16, 16, 24)
    assert outputs.bev.shape == (1, 16, 12, 16) and outputs.center.heatmap.shape == (1, 10, 12, 16)
    assert outputs.image.depth.shape == (1, 8, 10, 8, 12)  # each of four cameras by each lift
    with torch.no_grad():
        image = network.describe_images(**camera_rig(4))
    assert torch.equal(image.depth, outputs.image.depth) and torch.equal(image.context, outputs.image.context)


def test_the_two_lifts_differ_and_learn_differently(camera_rig) -> None:
    """Not even where they start from the same weights and geometry compensation stays out: the fuser treats them apart."""
    torch.manual_seed(0)
    network = SimulatedNet(small_model(compensation=CompensationConfig(image=False, bev=False))).train()
    inputs = camera_rig(3)
    with torch.no_grad():
        modal = network(**inputs).modal
        assert not torch.allclose(modal.camera, modal.lidar, atol=1e-2)
    network.simulated_lift.load_state_dict(network.lift.state_dict())
    network.simulated_bev.load_state_dict(network.camera_bev.state_dict())
    outputs = network(**inputs)
    torch.testing.assert_close(outputs.modal.camera, outputs.modal.lidar)
    outputs.center.heatmap.square().mean().backward()
    for (name, camera), lidar in zip(network.lift.named_parameters(), network.simulated_lift.parameters(), strict=True):
        difference = (camera.grad - lidar.grad).norm()
        assert difference > 0.1 * max(camera.grad.norm(), lidar.grad.norm()) > 0, name


def test_both_compensations_act_where_they_are_told_to(camera_rig) -> None:
    for image in (False, True):
        for bev in (False, True):
            torch.manual_seed(0)
            compensation = CompensationConfig(image=image, bev=bev, heads=4, image_points=2, bev_points=2)
            network = SimulatedNet(small_model(compensation=compensation)).train()
            names = {name.split(".")[0] for name, _ in network.named_parameters() if "compensation" in name}
            wanted = [name for name, used in (("image_compensation", image), ("bev_compensation", bev)) if used]
            assert names == set(wanted)
            network(**camera_rig(2)).center.heatmap.square().mean().backward()
            for name in wanted:
                assert getattr(network, name).attention.output.weight.grad.abs().sum() > 0


def test_order_of_cameras_does_not_matter(network: SimulatedNet, camera_rig) -> None:
    inputs, order = camera_rig(6), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {name: value[:, order] for name, value in inputs.items()}
    torch.testing.assert_close(run(network, **shuffled), run(network, **inputs), atol=1e-4, rtol=0)


def test_a_masked_camera_is_an_absent_one(network: SimulatedNet, camera_rig) -> None:
    inputs = camera_rig(6)
    mask = torch.tensor([[True, True, False, True, True, False]])
    expected = run(network, **{name: value[:, mask[0]] for name, value in inputs.items()})
    inputs["images"][:, 2], inputs["K"][:, 2], inputs["ego_T_cam"][:, 5] = 255, math.nan, math.nan
    found = run(network, **inputs, mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, run(network, **camera_rig(6)), atol=1e-2)  # and it did matter
    assert run(network, **inputs, mask=torch.zeros_like(mask)).isfinite().all()


def test_samples_do_not_see_each_other(network: SimulatedNet, camera_rig) -> None:
    one, other = camera_rig(3, 1), camera_rig(3, 2)
    both = {name: torch.cat([one[name], other[name]]) for name in one}
    torch.testing.assert_close(run(network, **both), torch.cat([run(network, **one), run(network, **other)]))


def test_mixed_precision_changes_little(network: SimulatedNet, camera_rig) -> None:
    inputs = camera_rig(3)
    exact = run(network, **inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(network, **inputs)
        network(**inputs).center.heatmap.float().square().mean().backward()
    assert (mixed - exact).abs().mean() < 0.1 * (exact - exact.mean()).abs().mean()
    assert all(p.grad.isfinite().all() for n, p in network.named_parameters() if "regression" not in n)
    network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["simulated_nano", "simulated_small", "simulated_r50"])
def test_a_shipped_model_is_its_plain_student_with_more(name: str) -> None:
    plain = {"simulated_nano": "nano", "simulated_small": "small", "simulated_r50": "lss_r50"}[name]
    config, other = (load_config(MODELS / f"{n}.yaml") for n in (name, plain))
    assert config.training == other.training
    assert name == "simulated_nano" or config.model.compensation == CompensationConfig()  # the paper's
    for what in ("classes", "grid", "image", "backbone", "lift", "bev", "head"):
        assert getattr(config.model, what) == getattr(other.model, what)
    with torch.device("meta"):
        network, plain_network = build_network(config.model), build_network(other.model)
    shapes = {n: p.shape for n, p in network.state_dict().items()}
    missing = {n for n, p in plain_network.state_dict().items() if shapes.get(n) != p.shape}
    assert all(n.startswith("bev_encoder.stages.0.0.") for n in missing)  # what the fuser feeds


def test_compensation_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lift.neck_channels 16 must be even and a multiple of compensation.heads"):
        small_model(compensation=CompensationConfig(heads=3))
