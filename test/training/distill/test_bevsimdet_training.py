"""A whole training of the simulating student by `train`, taught by one fusion teacher in both ways at once."""

from __future__ import annotations

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.detector import Detector
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

BOTH = [
    "model.backbone={depth: 18, width: 16, stages: 2}", "model.image.height=64", "model.image.width=96", "model.norm=group",
    "model.grid.cell=3.2", "model.head.channels=16", "model.bev={channels: 16, halvings: 1, blocks: 1}",
    "model.lift={stride: 8, bins: 12, depth_max: 61.0, channels: 16, neck_channels: 16}", "model.fused_channels=16",
]  # fmt: skip
TEACHER = [
    *BOTH, "model.pillars={cell: 1.6, channels: [16]}", "model.queries.queries=12", "model.queries.channels=16",
    "model.second={strides: [2, 2], layers: [1, 1], channels: [16, 16], channels_out: 24}",
]  # fmt: skip
STUDENT = [
    *BOTH, "model.compensation={heads: 2, image_points: 2, bev_points: 2}", "training.batch_size=2", "training.accumulate=2",
    "training.warmup_steps=1", "training.log_every=1", "training.steps=3",
    "training.image_supervision={depth: 1.0, classes: 1.0, alone_steps: 1}",
]  # fmt: skip
MODELS = share_directory() / "config" / "models"


def test_one_fusion_teacher_teaches_by_both_methods(tiny_nuscenes, tmp_path) -> None:
    config = load_config(MODELS / "teacher_fusion_both_nano.yaml", TEACHER).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_network(config).state_dict()
    teacher, output = tmp_path / "teacher.safetensors", tmp_path / "run"
    save_checkpoint(teacher, Checkpoint(config, state, ("CAM_FRONT",), {}))
    before = teacher.read_bytes()
    fields = [*STUDENT, f"training.distill={{teacher: {teacher}, bevsimdet: {{}}, bevdistill: {{}}}}"]
    data = ["--data", str(tiny_nuscenes), "--split", "mini_train", "--output", str(output), "--device", "cpu"]
    assert main(["train", "--config", "simulated_nano", *data, *(f"--set={field}" for field in fields)]) == 0

    events = EventAccumulator(str(output / "log"))
    events.Reload()
    logged = {name: [event.value for event in events.Scalars(f"loss/{name}")] for name in losses_of(events)}
    taught = {f"bevsimdet_{name}" for name in ("imd", "cmd", "mmd_fused", "mmd_classes", "mmd_boxes")}
    assert taught | {"bevdistill_dense", "bevdistill_boxes", "heatmap", "box", "depth", "classes"} <= set(logged)
    assert all(len(logged[name]) == 2 and max(logged[name]) > 0 for name in taught)  # not while images learn alone
    assert len(logged["depth"]) == 3 and teacher.read_bytes() == before

    deployed = load_checkpoint(output / "model.safetensors")
    assert deployed.state.keys() == build_network(deployed.config).state_dict().keys()
    detector = Detector.from_checkpoint(output / "model.safetensors")
    K = np.array([[60.0, 0.0, 47.5], [0.0, 60.0, 31.5], [0.0, 0.0, 1.0]])
    pose = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]])
    assert len(detector(np.zeros((1, 64, 96, 3), np.uint8), K[None], pose[None]))


def losses_of(events: EventAccumulator) -> list[str]:
    return [name.removeprefix("loss/") for name in events.Tags()["scalars"] if name.startswith("loss/")]
