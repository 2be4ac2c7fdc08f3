"""The fusion teacher by the same verbs as every model: trained and evaluated."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.config import FusionModelConfig
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.teacher import make_detector

MODELS = share_directory() / "config" / "models"

SMALL = [
    "model.backbone={depth: 18, width: 16, stages: 2}", "model.image.height=64", "model.image.width=96", "model.norm=group",
    "model.grid.cell=3.2", "model.head.channels=16", "model.bev={channels: 16, halvings: 1, blocks: 1}",
    "model.lift={stride: 8, bins: 12, depth_max: 61.0, channels: 16, neck_channels: 16}", "model.fused_channels=16",
    "model.pillars={cell: 1.6, channels: [16]}", "model.points.seconds=0.6", "training.warmup_steps=1", "training.batch_size=2",
    "model.second={strides: [2, 2], layers: [1, 1], channels: [16, 16], channels_out: 24}",
]  # fmt: skip


def test_it_is_trained_and_evaluated_with_both_senses(tiny_nuscenes, tmp_path) -> None:
    """Options about images are for it, too: it has some."""
    output, file = tmp_path / "run", tmp_path / "figures.json"
    fields = [f"--set={field}" for field in (*SMALL, "training.steps=2", "training.log_every=1")]
    data = ["--data", str(tiny_nuscenes), "--device", "cpu"]
    named = ["--config", "teacher_fusion_nano", "--split", "mini_train", "--output", str(output)]
    assert main(["train", *named, *data, *fields]) == 0
    events = EventAccumulator(str(output / "log"))
    events.Reload()
    assert {"loss/heatmap", "loss/box", "loss/depth", "loss/classes"} <= set(events.Tags()["scalars"])
    assert isinstance(load_checkpoint(output / "model.safetensors").config, FusionModelConfig)

    options = ["--split", "mini_val", "--drop-cameras", "CAM_FRONT", "--black-images", "--json", str(file)]
    assert main(["evaluate", str(output / "model.safetensors"), *data, *options]) == 0
    report = json.loads(file.read_text())
    assert report["complete"] and report["checkpoints"][0]["runs"][0]["samples"] == 4


def test_what_it_sees_decides_what_it_finds(tiny_nuscenes) -> None:
    """From the dataset to the boxes: other points, or black images, and it finds something else."""
    model = load_config(MODELS / "teacher_fusion_nano.yaml", [f for f in SMALL if f.startswith("model.")]).model
    torch.manual_seed(0)
    teacher = make_detector(Checkpoint(model, build_network(model).state_dict(), (), {}), "cpu")
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    sample = open_samples(nusc, choose_samples(nusc, None, ["scene-0061"])[:1], model, None)[0]
    assert sample.images.shape == (6, 64, 96, 3) and len(sample.points) > 400
    boxes = teacher(sample)
    for change in ({"points": sample.points[:5]}, {"images": 0 * sample.images}):
        assert not np.array_equal(teacher(replace(sample, **change)).scores, boxes.scores)
    turned = teacher(replace(sample, points=sample.points[::-1].copy()))
    np.testing.assert_allclose(turned.scores, boxes.scores, atol=1e-5)  # those of equal scores may change places
