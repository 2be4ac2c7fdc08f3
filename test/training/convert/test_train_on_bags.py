"""`train --bags`: recordings become a dataset, once, and are trained on."""

from __future__ import annotations

import pytest
import robot

pytest.importorskip("lightning")

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.train_command import main

SMALL = (
    "model.backbone.width=16", "model.image.height=64", "model.image.width=96", "model.grid.cell=3.2", "training.batch_size=2",
    "training.image_supervision.alone_steps=1",
)  # fmt: skip


def train(output, steps: int, *options: object) -> int:
    config = [] if "--resume" in options else ["--config", "nano"]
    fields = [f"--set={field}" for field in (*SMALL, f"training.steps={steps}")]
    return main([*config, *fields, "--device", "cpu", "--output", str(output), *map(str, options)])


def test_bags_are_converted_once_and_trained_on(tmp_path, capsys):
    robot.record(tmp_path / "bags" / "first")
    output = tmp_path / "run"
    assert train(output, 2, "--bags", tmp_path / "bags") == 0
    assert "rig.yaml: guessed from the bags" in capsys.readouterr().err
    checkpoint = load_checkpoint(output / "model.safetensors")
    assert set(checkpoint.cameras) == {"CAM_FRONT", "CAM_BACK"} and checkpoint.training["version"] == "v1.0-bags"
    before = {path: path.stat().st_mtime_ns for path in (output / "dataset").rglob("*.jpg")}
    assert before
    robot.record(tmp_path / "bags" / "second", start=robot.START + 60_000_000_000)
    assert (
        train(
            tmp_path / "again",
            2,
            "--bags",
            tmp_path / "bags",
            "--rig",
            output / "rig.yaml",
            "--data",
            output / "dataset",
        )
        == 0
    )
    after = {path: path.stat().st_mtime_ns for path in (output / "dataset").rglob("*.jpg")}
    assert len(after) == 2 * len(before) and all(after[path] == stamp for path, stamp in before.items())
    assert (
        load_checkpoint(tmp_path / "again" / "model.safetensors").training["samples"]
        == 2 * checkpoint.training["samples"]
    )


def test_bags_without_annotations_are_no_use_to_train_on(tmp_path):
    robot.record(
        tmp_path / "bag", change=lambda events, _: [event for event in events if event.topic != "/annotations"]
    )
    with pytest.raises(UserError, match="the chosen scenes have no annotations; `bevdistill label` writes"):
        train(tmp_path / "run", 1, "--bags", tmp_path / "bag")
