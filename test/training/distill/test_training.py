"""A whole training by `train`, distilled by one switch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.detector import Detector
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

STUDENT = [
    "model.backbone={depth: 18, width: 16, stages: 2}", "model.image.height=64", "model.image.width=96", "model.norm=group",
    "model.grid.cell=3.2", "model.head.channels=16", "model.bev={channels: 16, halvings: 1, blocks: 1}", "training.batch_size=2",
    "training.warmup_steps=1", "training.learning_rate=2e-3", "training.image_supervision={}", "training.log_every=1",
]  # fmt: skip
TEACHER = [
    "model.grid.cell=3.2", "model.pillars={cell: 1.6, channels: [16]}", "model.head.channels=16",
    "model.second={strides: [2, 2], layers: [1, 1], channels: [16, 16], channels_out: 24}",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A checkpoint of random weights."""
    config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml", TEACHER).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_network(config).state_dict()
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    save_checkpoint(path, Checkpoint(config, state, ("CAM_FRONT",), {}))
    return path


def train(data, output, steps: int, *fields: str) -> dict[str, torch.Tensor]:
    """Weights of a training, which goes on where ``output`` has one."""
    start = ["--resume"] if output.exists() else ["--config", "nano"]
    overrides = [f"--set={field}" for field in (*STUDENT, f"training.steps={steps}", *fields)]
    common = ["--data", str(data), "--split", "mini_train", "--output", str(output), "--device", "cpu"]
    assert main(["train", *start, *common, *overrides]) == 0
    return load_checkpoint(output / "model.safetensors").state


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    """Mean difference by tensor: where a gradient is almost nothing, AdamW makes a whole step of its rounding."""
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name] - second[name]).abs().float().mean() <= tolerance, name


def logged(output) -> set[str]:
    events = EventAccumulator(str(output / "log"))
    events.Reload()
    return {name.removeprefix("loss/") for name in events.Tags()["scalars"] if name.startswith("loss/")}


def test_one_switch_distils_and_leaves_a_plain_student(tiny_nuscenes, teacher, tmp_path, capsys) -> None:
    """With a weight of next to nothing it is the plain training: the same first weights, samples and draws."""
    plain = train(tiny_nuscenes, tmp_path / "plain", 2)
    switch = f"training.distill.teacher={teacher}"
    idle = train(tiny_nuscenes, tmp_path / "idle", 2, switch, "training.distill.fitnet.weight=1e-12")
    assert_same(plain, idle, 1e-7)
    note = "'teacher_nano' reads a single LiDAR sweep"
    assert note not in capsys.readouterr().err
    whole = train(tiny_nuscenes, tmp_path / "whole", 2, switch, "training.distill.bevdistill={}")
    assert capsys.readouterr().err.count(note) == 1
    assert whole.keys() == plain.keys()
    assert any((whole[name] - plain[name]).abs().float().mean() > 1e-5 for name in plain)
    assert logged(tmp_path / "plain") == {"heatmap", "box"}
    assert logged(tmp_path / "whole") == {
        "heatmap",
        "box",
        *(f"bevdistill_{n}" for n in ("dense", "boxes", "contrast")),
    }
    Detector.from_checkpoint(tmp_path / "whole" / "model.safetensors")


def test_in_parts_interrupted_or_at_once_it_is_the_same(tiny_nuscenes, teacher, tmp_path, monkeypatch) -> None:
    """And a path that is relative is found again from elsewhere."""
    monkeypatch.chdir(teacher.parent)
    fields = (
        "training.distill={teacher: model.safetensors, bevdistill: {}, distillbev: {}}",
        "training.schedule=constant",
    )
    whole = train(tiny_nuscenes, tmp_path / "whole", 2, *fields)
    in_parts = train(tiny_nuscenes, tmp_path / "parts", 2, *fields, "training.accumulate=2")
    assert_same(whole, in_parts, 1e-5)
    train(tiny_nuscenes, tmp_path / "resumed", 1, *fields)
    monkeypatch.chdir(tmp_path)
    assert_same(whole, train(tiny_nuscenes, tmp_path / "resumed", 2), 1e-7)
