"""The LSS student: geometry of its lift, and the invariances that any rig relies on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import BackboneConfig, BevEncoderConfig, ImageConfig, LiftConfig
from bevdistill_ros.geometry import BevGrid, invert, make_transform, rotation_z, transform_points
from bevdistill_ros.models.bev_pool import PoolPlan, make_pool_plan
from bevdistill_ros.models.lift_geometry import LiftGeometry
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def small_model():
    """nano's architecture at a size for tests."""
    model = load_config(share_directory() / "config" / "models" / "nano.yaml").model
    return replace(
        model,
        image=ImageConfig(64, 96),
        grid=BevGrid(-16.0, 16.0, -16.0, 16.0, 2.0),
        backbone=BackboneConfig(18, 16),  # narrower ones crash oneDNN in the backward pass of odd image counts
        lift=LiftConfig(stride=8, bins=10, depth_min=1.0, depth_max=21.0, channels=8, neck_channels=16),
        bev=BevEncoderConfig(channels=8, halvings=1, blocks=1),
        head=replace(model.head, channels=8),
    )


@pytest.fixture(scope="module")
def network(camera_rig) -> LSS:
    torch.manual_seed(0)
    network = LSS(small_model())
    with torch.no_grad():  # statistics of real activations, so that the outputs are of ordinary size
        network.train()(**camera_rig(6, 1))
    return network.eval()


def run(network: LSS, **inputs) -> torch.Tensor:
    with torch.no_grad():
        outputs = network(**inputs)
    return torch.cat([outputs.center.heatmap, outputs.center.codes.flatten(1, 2)], dim=1)


def test_frustum_points_project_back_to_their_pixels(network: LSS, camera_rig) -> None:
    inputs = camera_rig(3)
    points = network.lift.frustum(inputs["K"], inputs["ego_T_cam"], (8, 12)).numpy()
    assert points.shape == (1, 3, 8, 12, 10, 3)
    ego_T_cam = inputs["ego_T_cam"][0, 2].double().numpy()
    in_camera = transform_points(invert(ego_T_cam), points[0, 2, 5, 7])
    assert np.allclose(in_camera[:, 2], np.arange(10) * 2 + 2.0, atol=1e-4)  # centres of the bins between 1 m and 21 m
    pixels = in_camera @ inputs["K"][0, 2].double().numpy().T
    # Column 7 at stride 8 covers pixels 56..63: its centre is 59.5.
    assert np.allclose(pixels[:, :2] / pixels[:, 2:], [59.5, 43.5], atol=1e-3)


def test_the_plan_is_that_of_the_frustums_points_on_the_grid(network: LSS, camera_rig) -> None:
    """Bit for bit, however the plan is made fast."""
    inputs, mask = camera_rig(4), torch.tensor([[True, True, False, True]])
    lift, grid = network.lift, network.lift.grid
    x, y, z = lift.frustum(inputs["K"], inputs["ego_T_cam"], (8, 12)).flatten(1, 3).unbind(-1)
    column, row = (x - grid.x_min) / grid.cell, (y - grid.y_min) / grid.cell
    valid = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
    valid &= (z >= lift.config.z_min) & (z < lift.config.z_max)
    valid &= mask.repeat_interleave(8 * 12, dim=1)[..., None]
    expected = make_pool_plan(column, row, valid, grid.rows, grid.columns)
    found = lift.plan(inputs["K"], inputs["ego_T_cam"], mask, (8, 12))
    assert len(found.points) > 100 and found.shape == expected.shape
    for name in ("points", "pixels", "offsets", "points_by_pixel", "cells_by_pixel"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def random_rigs(batch: int, cameras: int, seed: int) -> dict[str, torch.Tensor]:
    """Calibrations as augmentation makes them, no two cameras alike: zoomed, turned and shifted images, rigs that are shaken."""
    rng = np.random.default_rng(seed)
    count = batch * cameras
    K = np.zeros((count, 3, 3))
    focal, roll = rng.uniform(30, 120, count), rng.uniform(-0.1, 0.1, count)
    K[:, 0, 0], K[:, 0, 1] = focal * np.cos(roll), -focal * np.sin(roll)
    K[:, 1, 0], K[:, 1, 1] = focal * np.sin(roll), focal * np.cos(roll)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = rng.uniform(30, 70, count), rng.uniform(20, 45, count), 1.0
    tilt = np.eye(3) + np.cross(np.eye(3), rng.uniform(-0.1, 0.1, (count, 1, 3)))
    poses = [
        make_transform(rotation_z(rng.uniform(-math.pi, math.pi)) @ np.linalg.qr(turn)[0] @ FORWARD, place)
        for turn, place in zip(tilt, rng.uniform([-1, -1, 0.5], [1, 1, 2], (count, 3)), strict=True)
    ]
    shape = (batch, cameras)
    return {
        "K": torch.from_numpy(K).float().unflatten(0, shape),
        "ego_T_cam": torch.from_numpy(np.stack(poses)).float().unflatten(0, shape),
        "mask": torch.from_numpy(rng.random(shape) < 0.9),
    }


def cell_of_points(plan: PoolPlan, points: int) -> torch.Tensor:
    """(B, points) the cell of each of a sample's points; -1: none."""
    batch, rows, columns = plan.shape
    cells = torch.full((batch * points,), -1)
    cells[plan.points] = torch.repeat_interleave(torch.arange(plan.cells) % (rows * columns), plan.offsets.diff())
    return cells.view(batch, points)


@pytest.mark.parametrize("mode", ["training", "evaluation", "inference under autocast"])
@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 3)])
def test_a_samples_geometry_does_not_depend_on_its_batch(size: tuple[int, int], mode: str) -> None:
    """Bit for bit: what trains in batches, on several processes or in parts sees what the node sees with its one sample."""
    model = small_model()
    lift = LiftGeometry(model.lift, model.grid).train(mode == "training")
    together = LiftGeometry(model.lift, model.grid).train()  # as in training
    for seed, (batch, cameras) in enumerate([(2, 6), (3, 1), (4, 6), (5, 7), (8, 5), (16, 6)]):
        rigs = random_rigs(batch, cameras, seed)
        points = cameras * size[0] * size[1] * len(lift.depths)
        cells = cell_of_points(together.plan(**rigs, size=size), points)
        looks = together.where_pixels_look(**rigs, size=size)
        frustum = together.frustum(rigs["K"], rigs["ego_T_cam"], size)
        assert (cells >= 0).float().mean() > 0.1
        for i in range(batch):
            own = {name: value[i : i + 1] for name, value in rigs.items()}
            with torch.inference_mode("inference" in mode), torch.autocast("cpu", torch.bfloat16, "autocast" in mode):
                for _ in range(2):  # calculated, and kept where it is kept
                    assert torch.equal(cell_of_points(lift.plan(**own, size=size), points)[0], cells[i])
                assert torch.equal(lift.where_pixels_look(**own, size=size)[0], looks[i])
                assert torch.equal(lift.frustum(own["K"], own["ego_T_cam"], size)[0], frustum[i])


def test_mixed_precision_does_not_touch_the_geometry(network: LSS, camera_rig) -> None:
    inputs = camera_rig(3)
    exact = network.lift.frustum(inputs["K"], inputs["ego_T_cam"], (8, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.lift.frustum(inputs["K"], inputs["ego_T_cam"], (8, 12)), exact)


def test_gradients_after_inference_with_the_same_calibration(network: LSS, camera_rig) -> None:
    inputs = camera_rig(4)
    with torch.inference_mode():
        network(**inputs)
    network(**inputs).center.heatmap.sum().backward()  # the plan that inference has cached serves here, too
    assert network.backbone.conv1.weight.grad.abs().sum() > 0
    network.zero_grad()


def test_order_of_cameras_does_not_matter(network: LSS, camera_rig) -> None:
    inputs = camera_rig(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(
        run(network, **inputs), run(network, **{k: v[:, order] for k, v in inputs.items()}), atol=1e-4
    )


def test_a_masked_camera_is_an_absent_one(network: LSS, camera_rig) -> None:
    inputs = camera_rig(6)
    mask = torch.tensor([[True, True, False, True, True, False]])
    expected = run(network, **{k: v[:, mask[0]] for k, v in inputs.items()})
    # Whatever stands in for the missing camera, even a calibration that is no number.
    inputs["images"][:, 2], inputs["K"][:, 2], inputs["ego_T_cam"][:, 5] = 255, math.nan, math.nan
    found = run(network, **inputs, mask=mask)
    assert torch.isfinite(found).all() and torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, run(network, **camera_rig(6)), atol=1e-2)  # and it did matter


def test_any_number_of_cameras(network: LSS, camera_rig) -> None:
    for count in (1, 4, 8):
        assert torch.isfinite(run(network, **camera_rig(count))).all()


def test_turning_the_rig_by_a_right_angle_turns_the_lifted_map(network: LSS, camera_rig) -> None:
    inputs = camera_rig(6)
    with torch.no_grad():

        def lifted(T: torch.Tensor) -> torch.Tensor:
            features = torch.randn(1, 6, 16, 8, 12, generator=torch.Generator().manual_seed(0))
            return network.lift(features, inputs["K"], T, torch.ones(1, 6, dtype=torch.bool))[0]

        turned_T_ego = torch.from_numpy(make_transform(rotation_z(math.pi / 2))).float()
        straight, turned = lifted(inputs["ego_T_cam"]), lifted(turned_T_ego @ inputs["ego_T_cam"])
    # +x becomes +y: value at (row r, column c) moves to (row c, column last - r).
    expected = torch.rot90(straight, -1, (2, 3))
    same = torch.isclose(turned, expected, atol=1e-4).float().mean()
    assert expected.abs().sum() > 0 and same > 0.99  # points on a cell's border may round to either side


def test_pool_plan_follows_calibration_and_mask(network: LSS, camera_rig) -> None:
    inputs = camera_rig(4)
    arguments = (inputs["K"], inputs["ego_T_cam"], torch.ones(1, 4, dtype=torch.bool), (8, 12))
    first = network.lift.plan(*arguments)
    assert (
        network.lift.plan(*(a.clone() if torch.is_tensor(a) else a for a in arguments)) is first
    )  # nothing changed: kept
    moved = inputs["ego_T_cam"].clone()
    moved[0, 1, 0, 3] += 1.0
    assert network.lift.plan(arguments[0], moved, *arguments[2:]) is not first
    masked = torch.tensor([[True, False, True, True]])
    assert len(network.lift.plan(*arguments[:2], masked, (8, 12)).points) < len(first.points)


@pytest.mark.parametrize("name", ["nano", "small", "lss_r50"])
def test_shipped_models_run(name: str) -> None:
    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml").model
    network = LSS(config).eval()
    size = config.image.height, config.image.width
    with torch.inference_mode():
        outputs = network(
            torch.zeros(1, 1, *size, 3, dtype=torch.uint8),
            torch.tensor([[[[size[1] * 0.8, 0, size[1] / 2], [0, size[1] * 0.8, size[0] / 2], [0, 0, 1]]]]),
            torch.from_numpy(make_transform(FORWARD)[None, None]).float(),
        )
    assert outputs.center.heatmap.shape == (1, 10, config.grid.rows, config.grid.columns)
    assert outputs.center.codes.shape == (1, 6, 10, config.grid.rows, config.grid.columns)
