"""The verb `train`, whole: it learns, resumes exactly, and leaves a file the detector reads."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal

import torch

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.detector import Detector
from bevdistill_ros.training.module import StepSampler

SMALL = [
    "model.backbone.width=16", "model.image.height=64", "model.image.width=96", "model.grid.cell=3.2", "training.batch_size=2",
    "training.warmup_steps=1", "training.learning_rate=2e-3",
]  # fmt: skip


def train(data, output, steps: int, *more: str) -> int:
    config = [] if "--resume" in more else ["--config", "nano"]
    overrides = [f"--set={o}" for o in (*SMALL, f"training.steps={steps}")]
    common = ["--data", str(data), "--version", "v1.0-mini", "--output", str(output), "--device", "cpu"]
    return main(["train", *config, *common, *overrides, *more])


def weights(output) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "model.safetensors").state


def test_training_writes_a_detector_and_learns(tiny_nuscenes, tmp_path) -> None:
    output = tmp_path / "run"
    options = ["--split", "mini_train", "--json", str(tmp_path / "run.json"), "--set=training.augmentation={}"]
    assert train(tiny_nuscenes, output, 80, *options) == 0
    detector = Detector.from_checkpoint(output / "model.safetensors")
    assert detector.cameras[0].startswith("CAM_") and detector.training["steps"] == 80
    with open(output / "log" / "metrics.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.7 * losses[0]
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 80


def test_a_resumed_training_ends_like_an_uninterrupted_one(tiny_nuscenes, tmp_path, monkeypatch, capsys) -> None:
    from bevdistill_ros.training import module

    assert train(tiny_nuscenes, tmp_path / "whole", 6) == 0
    seen: list[int] = []
    original = module.StudentModule.training_step

    def signal_in_the_fourth(self, batch, index):
        seen.append(index)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module.StudentModule, "training_step", signal_in_the_fourth)
        assert train(tiny_nuscenes, tmp_path / "parts", 6) == 1
    assert len(seen) == 4 and "interrupted after step 4; continue with --resume" in capsys.readouterr().err
    assert (tmp_path / "parts" / "last.ckpt").is_file() and not (tmp_path / "parts" / "model.safetensors").exists()
    assert (
        main(
            [
                "train",
                "--data",
                str(tiny_nuscenes),
                "--version",
                "v1.0-mini",
                "--output",
                str(tmp_path / "parts"),
                "--resume",
            ]
        )
        == 0
    )
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_nothing_done_is_overwritten(tiny_nuscenes, tmp_path, capsys) -> None:
    assert train(tiny_nuscenes, tmp_path / "run", 1) == 0
    assert train(tiny_nuscenes, tmp_path / "run", 1) == 1
    assert "pass --resume" in capsys.readouterr().err
    assert train(tiny_nuscenes, tmp_path / "new", 1, "--resume") == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_a_finished_training_can_be_given_more_steps(tiny_nuscenes, tmp_path, capsys) -> None:
    output = tmp_path / "run"
    assert train(tiny_nuscenes, output, 2) == 0 and train(tiny_nuscenes, output, 4, "--resume") == 0
    assert load_checkpoint(output / "model.safetensors").training["steps"] == 4
    # The losses of both parts are there.
    assert (output / "log" / "metrics.csv").is_file() and (output / "log_from_2" / "metrics.csv").is_file()
    state = output / "last.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    assert train(tiny_nuscenes, output, 6, "--resume") == 1
    assert "last.ckpt: cannot be resumed from" in capsys.readouterr().err


def test_a_bad_picture_is_one_line_from_a_worker_too(tiny_nuscenes, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes, root)
    for picture in (root / "samples" / "CAM_BACK").glob("*.jpg"):
        picture.write_bytes(b"hi")
    assert train(root, tmp_path / "run", 1, "--set=training.workers=1") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "CAM_BACK" in errors[0] and errors[0].endswith("can be decoded")


def test_the_order_of_samples_does_not_depend_on_where_it_starts() -> None:
    whole = list(StepSampler(5, 23, seed=1))
    assert list(StepSampler(5, 23, seed=1, start=9)) == whole[9:] and len(StepSampler(5, 23, seed=1, start=9)) == 23
    assert all(sorted(i for i, _ in whole[k : k + 5]) == list(range(5)) for k in (0, 5, 10, 15))
    assert [d for _, d in whole] == list(range(23))


def test_an_unknown_configuration_is_named(tiny_nuscenes, tmp_path, capsys) -> None:
    arguments = ["--data", str(tiny_nuscenes), "--version", "v1.0-mini", "--output", str(tmp_path / "x")]
    assert main(["train", "--config", "huge", *arguments]) == 1
    assert "--config huge: is neither" in capsys.readouterr().err
