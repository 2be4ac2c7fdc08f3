"""A training that is killed without warning, at the worst moments, ends with the weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.callbacks import AtomicCheckpointIO

OPTIONS = [
    "model.backbone.width=16", "model.image.height=64", "model.image.width=96", "model.grid.cell=3.2", "training.steps=5",
    "training.batch_size=2", "training.checkpoint_every=1", "training.ema_decay=0.9", "training.image_supervision={}",
]  # fmt: skip

DRIVER = """
import io, os, signal, sys
import torch
from bevdistill_ros.cli import main
from bevdistill_ros.training import callbacks, module, train

moment, arguments = sys.argv[1], sys.argv[2:]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

save, replace = torch.save, os.replace
if moment == "writing the state of step 2":
    def save_half(state, file):
        if state["global_step"] == 2:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            kill()
        save(state, file)
    torch.save = save_half
elif moment == "renaming the state of step 3":
    def never_renamed(source, target):
        if str(target).endswith("last.ckpt") and torch.load(source, weights_only=True)["global_step"] == 3:
            kill()
        replace(source, target)
    os.replace = never_renamed
elif moment == "the backward pass of step 4":
    original = module.DetectionModule.on_after_backward
    def killed(self):
        if self.global_step == 3:
            kill()
        original(self)
    module.DetectionModule.on_after_backward = killed
elif moment == "writing the model":
    train.save_checkpoint = lambda *_, **__: kill()
sys.exit(main(arguments))
"""


def arguments(data: Path, output: Path) -> list[str]:
    common = ["--data", str(data), "--version", "v1.0-mini", "--output", str(output), "--device", "cpu"]
    return ["train", *common, *(f"--set={option}" for option in OPTIONS)]


def test_a_training_killed_at_any_moment_goes_on(tiny_nuscenes, tmp_path) -> None:
    # One thread: sums over several end in other last digits, which Adam's first steps make large.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def start(moment: str, output: Path, *more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", DRIVER, moment, *arguments(tiny_nuscenes, output), *more]
        return subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300)

    output = tmp_path / "killed"
    reached = []
    for moment in (
        "writing the state of step 2",
        "renaming the state of step 3",
        "the backward pass of step 4",
        "writing the model",
    ):
        ended = start(moment, output, *(["--resume"] if reached else ["--config", "nano"]))
        assert ended.returncode == -signal.SIGKILL, f"{moment}: {ended.stderr}"
        reached.append(torch.load(output / "last.ckpt", weights_only=True)["global_step"])
        assert not (output / "model.safetensors").exists()
    assert reached == [1, 2, 3, 5]
    # All steps are done: the last start writes the model alone.
    assert main([*arguments(tiny_nuscenes, output), "--resume"]) == 0
    whole = tmp_path / "whole"
    ended = start("never", whole, "--config", "nano")
    assert ended.returncode == 0, ended.stderr
    killed, never = (load_checkpoint(run / "model.safetensors") for run in (output, whole))
    assert killed.training["steps"] == never.training["steps"] == 5
    assert all(torch.allclose(killed.state[name], never.state[name], atol=1e-6) for name in never.state)
    assert not list(output.glob("*.partial"))


def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"global_step": 1}, path)

    def full(state, file) -> None:
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"last.ckpt: the training's state cannot be written \(No space left on device\)"
    ):
        writer.save_checkpoint({"global_step": 2}, path)
    assert torch.load(path, weights_only=True) == {"global_step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
