"""The LiDAR teacher: its maps are on the grid of its student, and what must not matter to them does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import LidarModelConfig, PillarsConfig, SecondConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models import build_network
from bevdistill_ros.models.box_code import BOX_CODE
from bevdistill_ros.models.pillar_net import PillarNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

MODELS = share_directory() / "config" / "models"


def small_model() -> LidarModelConfig:
    """teacher_nano's architecture at a size for tests; the grid is wider than high."""
    model = load_config(MODELS / "teacher_nano.yaml").model
    return replace(
        model,
        grid=BevGrid(-16.0, 16.0, -8.0, 8.0, 2.0),
        pillars=PillarsConfig(cell=0.5, channels=(8,)),
        second=SecondConfig(strides=(2, 2, 2), layers=(1, 1, 1), channels=(8, 12, 16), channels_out=12),
        head=replace(model.head, channels=8),
    )


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform((-17, -9, -3, 0, 0), (17, 9, 5, 255, 0.5), (count, 5))).float()


@pytest.fixture(scope="module")
def network() -> PillarNet:
    torch.manual_seed(0)
    network = PillarNet(small_model())
    with torch.no_grad():  # statistics of real activations
        network.train()([cloud(2000), cloud(3000, 1)])
    return network.eval()


def run(network: PillarNet, *clouds: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs = network(clouds)
    return torch.cat([outputs.center.heatmap, outputs.center.codes.flatten(1, 2), outputs.bev], dim=1)


@pytest.mark.parametrize(
    ("teacher", "students"),
    [
        ("teacher_nano", ["nano"]),
        ("teacher_small", ["small", "lss_r50"]),
        ("teacher_r50", ["small", "lss_r50"]),
        ("teacher_keyframe", ["keyframe"]),
    ],
)
def test_a_shipped_teacher_is_on_its_students_grid(teacher: str, students: list[str]) -> None:
    model = load_config(MODELS / f"{teacher}.yaml").model
    for student in students:
        other = load_config(MODELS / f"{student}.yaml").model
        assert (other.grid, other.classes, other.head.groups) == (model.grid, model.classes, model.head.groups)
    network = build_network(model).eval()
    with torch.no_grad():
        outputs = network([cloud(500)])
    shape = (model.grid.rows, model.grid.columns)
    assert outputs.bev.shape == (1, network.channels, *shape)
    assert outputs.center.heatmap.shape == (1, 10, *shape) and outputs.center.codes.shape == (1, 6, BOX_CODE, *shape)
    (boxes,) = network.decode(outputs)
    assert len(boxes) and boxes.class_names == model.classes


def test_teachers_with_queries_differ_from_the_others_by_their_heads() -> None:
    for size in ("nano", "r50"):
        queries, center = (load_config(MODELS / f"{name}_{size}.yaml").model for name in ("teacher_query", "teacher"))
        assert queries.head is None and replace(queries, name=center.name, head=center.head, queries=None) == center
    student = load_config(MODELS / "lss_query_nano.yaml").model
    model = load_config(MODELS / "teacher_query_nano.yaml").model
    assert (student.grid, student.classes, student.queries) == (model.grid, model.classes, model.queries)
    torch.manual_seed(0)
    network = build_network(model).eval()
    with torch.no_grad():
        outputs = network([cloud(500), cloud(0)])
    assert outputs.queries.codes.shape == (1, 2, model.queries.queries, BOX_CODE) and outputs.center is None
    assert network.heatmap_features(outputs.bev).shape == (2, 64, 64, 64)
    boxes = network.decode(outputs)
    assert [len(found) for found in boxes] == [model.queries.max_boxes] * 2 and boxes[0].class_names == model.classes


def test_maps_lie_on_the_grid(network: PillarNet) -> None:
    """What stands in one cell changes the features about it, and none far away (batch normalisation is at rest)."""
    assert network.config.grid.rows == 8 and network.config.grid.columns == 16
    background = cloud(1500)
    x, y = -11.0, 5.0  # column 2, row 6
    object_ = torch.tensor([[x, y, z, 200.0, 0.0] for z in np.linspace(-1, 2, 30)]).float()
    changed = (run(network, torch.cat([background, object_])) - run(network, background)).abs().sum(dim=1)[0]
    row, column = divmod(int(changed.argmax()), 16)
    assert abs(row - 6) <= 1 and abs(column - 2) <= 1


def test_the_order_of_points_does_not_matter(network: PillarNet) -> None:
    points = cloud(4000)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(run(network, points[order]), run(network, points), atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch(network: PillarNet) -> None:
    clouds = [cloud(1000), cloud(0), cloud(300, 2)]
    together = run(network, *clouds)
    assert torch.isfinite(together).all()
    for own, found in zip(clouds, together, strict=True):
        assert torch.allclose(run(network, own)[0], found, atol=1e-5)


def test_gradients_reach_every_weight(network: PillarNet) -> None:
    outputs = network([cloud(1000)])
    (outputs.center.heatmap.square().sum() + outputs.center.codes.square().sum()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    network.zero_grad()
    assert not without


def test_mixed_precision_does_not_touch_the_pillars(network: PillarNet) -> None:
    points = [cloud(500), cloud(100, 1)]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network.pillars(points)
        assert network(points).bev.dtype == torch.bfloat16  # the rest is
    with torch.no_grad():
        assert torch.equal(mixed, network.pillars(points))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.pillars.cell=0.5", "one of them must be grid.cell, 1.6"),
        ("model.second.strides=[2, 2]", "must have an entry a stage"),
        ("model.second.strides=[2, 3, 2]", "strides must be 1 or 2"),
        ("model.pillars.channels=[]", "channels must be positive"),
        ("model.pillars.z_max=-4", "z_min < z_max"),
        ("model.points.seconds=-1", "seconds -1 must be from 0 to 60"),
        ("model.points.ego=[1, 0, 0, 1]", r"ego is \[x_min, x_max, y_min, y_max\]"),
        (
            "model.image={height: 64, width: 96}",
            "model: field 'backbone' is missing",
        ),  # LiDAR and images: a fusion model
        ("model.lidar=1", "model: unknown field 'lidar'; known are name, classes, grid, head, queries, norm, points"),
    ],
)
def test_wrong_fields_are_named(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config(MODELS / "teacher_nano.yaml", [override])
