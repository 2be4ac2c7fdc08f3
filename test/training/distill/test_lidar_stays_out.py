"""What LiDAR teaches a student never enters it: of two worlds that differ in their clouds alone, the student sees the same."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bevformer import BevFormer
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.simulated import SimulatedNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import Config, load_config
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.distill.teacher import load_teacher
from bevdistill_ros.training.loader import AugmentedSamples, collate, make_loader
from bevdistill_ros.training.module import DetectionModule

MODELS = share_directory() / "config" / "models"
BATCHES = 2

ALL = ["model.grid.cell=6.4", "model.norm=batch"]
IMAGES = ["model.backbone={depth: 18, width: 16}", "model.image={height: 64, width: 96}"]
LIFT = [
    *IMAGES, "model.lift={stride: 8, bins: 12, depth_max: 61.0, channels: 16, neck_channels: 16, ray_channels: 8}",
    "model.bev={channels: 16, halvings: 1, blocks: 1}",
]  # fmt: skip
HEAD = ["model.head.channels=16"]
QUERIES = [
    "model.queries={queries: 12, channels: 16, layers: 2, heads: 2, points: 2, feedforward: 16, dropout: 0.1}",
    "model.queries.auxiliary_channels=16",
]
LIDAR = [
    "model.pillars={cell: 3.2, channels: [16]}",
    "model.second={strides: [2, 2], layers: [1, 1], channels: [16, 16], channels_out: 24}",
]
TRAINING = ["training.batch_size=2", "training.steps=2", "training.warmup_steps=1", "training.log_every=1"]


class Case(NamedTuple):
    """A student, its teacher, and the losses that are the same whatever LiDAR sees; all of the others have to differ.

    Attributes:
        student, teacher: names of shipped configurations.
        changes, teacher_changes: that make them small.
        methods: of distillation, as YAML.
        network: what the student is.
        blind: names of losses.
    """

    student: str
    changes: list[str]
    teacher: str
    teacher_changes: list[str]
    methods: str
    network: type[nn.Module]
    blind: set[str]


SUPERVISED = "training.image_supervision={depth: 1.0, classes: 1.0, alone_steps: %d}"
OWN = {"heatmap", "box"}
CASES = {
    "lss": Case(
        "nano", [*LIFT, *HEAD, SUPERVISED % 0], "teacher_nano", [*LIDAR, *HEAD],
        "fitnet: {}, distillbev: {score: 0.0}, bevdistill: {classes: {weight: 0.1}}", LSS,
        OWN | {"distillbev_background"},  # 0: at that score whatever is no object is a false positive
    ),
    "images alone": Case(
        "nano", [*LIFT, *HEAD, SUPERVISED % 9], "teacher_nano", [*LIDAR, *HEAD], "fitnet: {}", LSS, set(),
    ),
    "simulated": Case(
        "simulated_nano",
        [*LIFT, *HEAD, "model.compensation={heads: 2, image_points: 2, bev_points: 2}", "model.fused_channels=16", SUPERVISED % 0],
        "teacher_fusion_nano", [*LIFT, *HEAD, *LIDAR, "model.fused_channels=16"],
        "bevsimdet: {}, bevdistill: {}", SimulatedNet,
        OWN | {"bevsimdet_imd"},  # of the teacher's camera features
    ),
    "bevformer": Case(
        "bevformer_nano",
        [
            *IMAGES, *QUERIES, "model.bevformer.channels=16", "model.bevformer.heads=2", "model.bevformer.feedforward=16",
            "model.bevformer.dropout=0.1",
        ],
        "teacher_query_nano", [*LIDAR, *QUERIES], "fitnet: {}, bevdistill: {classes: {weight: 0.1}}", BevFormer,
        {"query_class", "query_box", "auxiliary_heatmap"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def worlds(tiny_nuscenes, tmp_path_factory) -> tuple[Path, Path]:
    """A dataset, and its copy with other LiDAR files: the points are elsewhere, and there are fewer of them."""
    other = tmp_path_factory.mktemp("worlds") / "other"
    shutil.copytree(tiny_nuscenes, other)
    rng = np.random.default_rng(7)
    clouds = sorted((other / "samples" / "LIDAR_TOP").iterdir())
    for path in clouds:
        rng.uniform((-30, -30, -2, 0, 0), (30, 30, 1, 255, 32), (430, 5)).astype(np.float32).tofile(path)
    same = [path.relative_to(other) for path in other.rglob("*") if path.is_file() and path not in clouds]
    assert len(clouds) == 8 and len(same) > 48
    assert all((tiny_nuscenes / path).read_bytes() == (other / path).read_bytes() for path in same)
    return tiny_nuscenes, other


@pytest.fixture(scope="module")
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def teacher(case, tmp_path_factory) -> Path:
    """A checkpoint of random weights."""
    config = load_config(MODELS / f"{case.teacher}.yaml", [*ALL, *case.teacher_changes]).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = build_network(config).state_dict()
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(config, state, ("CAM_FRONT",), {}))
    return path


def settings(case: Case, teacher: Path) -> list[str]:
    return [*ALL, *case.changes, *TRAINING, f"training.distill={{teacher: {teacher}, {case.methods}}}"]


def tensors_in(value: Any, name: str) -> list[tuple[str, Tensor]]:
    """All numbers of a module's result, or of a batch, with where they are."""
    if isinstance(value, Boxes):
        return [(f"{name}.{key}", torch.from_numpy(getattr(value, key))) for key in ("centers", "sizes", "yaws")]
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in tensors_in(part, f"{name}.{key}")]
    return [(name, value.detach().clone())] if isinstance(value, Tensor) else []


@dataclass
class Lesson:
    """What happens in the first batches of a training.

    Attributes:
        points: of each sample.
        batches: everything else that the loader gives, but for the targets that LiDAR draws.
        inside: results of the student and of all of its parts, in the order in which they come, with its state after it all.
        losses: of each batch.
    """

    points: list[Tensor]
    batches: list[tuple[str, Tensor]]
    inside: list[tuple[str, Tensor]]
    losses: list[dict[str, float]]


def learn(root: Path, config: Config) -> Lesson:
    """The first batches of a training on a dataset, by what ``train`` is made of; the student then in use."""
    checkpoint = load_teacher(config.training.distill.teacher, config.model)
    nusc = open_nuscenes(root, "v1.0-mini")
    tokens = choose_samples(nusc, "mini_train")
    samples = open_samples(nusc, tokens, config.model, points=checkpoint.config.points)
    torch.manual_seed(0)
    module = DetectionModule(config, teacher=checkpoint).train()
    lesson = Lesson([], [], [], [])
    for name, part in module.network.named_modules():
        part.register_forward_hook(lambda _, __, result, name=name: lesson.inside.extend(tensors_in(result, name)))
    loader = make_loader(AugmentedSamples(samples, config), config, 0, module.inputs)
    for batch in islice(loader, BATCHES):
        losses = module.losses(batch)
        lesson.losses.append({name: float(value.detach()) for name, value in losses.items()})
        sum(losses.values()).backward()
        lesson.points += batch["points"]
        lesson.batches += tensors_in(
            {name: value for name, value in batch.items() if name not in ("points", "image_targets")}, "batch"
        )
    held = AugmentedSamples(samples, config, on_device=True)  # what the device is told, where it holds the pixels
    told = collate([held[0, 0], held[1, 1]], module.inputs)
    lesson.batches += tensors_in({name: told[name] for name in ("index", "change", "K", "ego_T_cam", "mask")}, "held")
    with torch.no_grad():
        module.eval().network(*(batch[name] for name in module.network.inputs))
    lesson.inside.extend(module.network.state_dict().items())
    return lesson


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_student_is_the_same_whatever_lidar_sees(case, worlds, teacher) -> None:
    """Bit for bit, in every part of it, while it learns and in use; the losses that LiDAR teaches by do differ."""
    config = load_config(MODELS / f"{case.student}.yaml", settings(case, teacher))
    first, second = (learn(root, config) for root in worlds)
    assert len(first.points) == len(second.points) == 2 * BATCHES
    assert all(len(a) > len(b) > 300 for a, b in zip(first.points, second.points, strict=True))
    for of_first, of_second in ((first.batches, second.batches), (first.inside, second.inside)):
        assert [name for name, _ in of_first] == [name for name, _ in of_second]
        differing = [a for (a, one), (_, other) in zip(of_first, of_second, strict=True) if not torch.equal(one, other)]
        assert not differing, f"LiDAR changes {differing[:5]}, {len(differing)} of {len(of_first)}"
    assert len(first.inside) > 200 and all(bool(value.isfinite().all()) for _, value in first.inside)
    for one, other in zip(first.losses, second.losses, strict=True):
        assert one.keys() == other.keys() and {name for name in one if one[name] == other[name]} == case.blind


@pytest.mark.parametrize("case", ["lss", "simulated", "bevformer"], indirect=True)
def test_what_is_deployed_is_the_student_and_nothing_else(case, worlds, teacher, tmp_path) -> None:
    """The file that a distilled training leaves has the tensors of a network that was made without any training, no more."""
    output = tmp_path / "run"
    options = [f"--set={field}" for field in (*settings(case, teacher), "training.steps=1")]
    data = ["--data", str(worlds[0]), "--split", "mini_train", "--output", str(output), "--device", "cpu"]
    assert main(["train", "--config", case.student, *data, *options]) == 0
    deployed = load_checkpoint(output / "model.safetensors")
    with torch.device("meta"):
        own = case.network(deployed.config).state_dict()
    assert {name: value.shape for name, value in deployed.state.items()} == {n: t.shape for n, t in own.items()}
    assert case.network.inputs == ("images", "K", "ego_T_cam", "mask")
    assert type(Detector.from_checkpoint(output / "model.safetensors").network) is case.network
