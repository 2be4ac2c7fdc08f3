"""Several processes train like one: really started, on the CPU with gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.loader import ProcessBatches, StepSampler
from bevdistill_ros.training.processes import Processes, choose_processes

OPTIONS = [
    "model.backbone.width=16", "model.image.height=64", "model.image.width=96", "model.grid.cell=3.2", "model.norm=group",
    "training.batch_size=4", "training.warmup_steps=1", "training.learning_rate=2e-4", "training.log_every=1",
    "training.image_supervision={depth: 1, classes: 0.5}", "training.pictures_every=1",
    "training.schedule=constant", "training.ema_decay=0.9",
]  # fmt: skip
LAUNCHERS = {
    "itself": [sys.executable, "-m", "bevdistill_ros"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "bevdistill_ros"],
}  # fmt: skip


def run(launcher: str, data: Path, output: Path, steps: int, *more: str) -> str:
    """Train in real processes; what they told on stderr."""
    overrides = [f"--set={option}" for option in (*OPTIONS, f"training.steps={steps}")]
    common = ["--data", str(data), "--version", "v1.0-mini", "--output", str(output), "--device", "cpu"]
    given = () if "--resume" in more else ("--config", "nano")
    command = [*LAUNCHERS[launcher], "train", *common, *given, *overrides, "--json", str(output) + ".json", *more]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")
    }
    environment["OMP_NUM_THREADS"] = "1"  # launchers share the processor among their processes, each in its own way
    ended = subprocess.run(command, cwd=output.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def gradients(output: Path) -> torch.Tensor:
    """AdamW's running means of all gradients, which after one step are a tenth of them."""
    state = torch.load(output / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    return torch.cat([own["exp_avg"].flatten() for own in state.values()])


def assert_same(first: Path, second: Path) -> None:
    """Alike to the rounding of sums over samples."""
    a, b = gradients(first), gradients(second)
    assert (a - b).norm() <= 1e-5 * b.norm() and b.norm() > 0
    weights, others = (load_checkpoint(run / "model.safetensors").state for run in (first, second))
    for name in others:
        # The mean by tensor: where a gradient is almost nothing, AdamW makes a whole step of its rounding.
        assert (weights[name] - others[name]).abs().mean() <= 1e-5, name
    losses = [json.loads(Path(f"{run}.json").read_text())["loss"] for run in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_two_processes_train_like_one(tiny_nuscenes, tmp_path) -> None:
    """In parts of a batch besides; then resumed by another launcher, for a step that does not use all weights.

    The network sees one sample at a time in both, with the same weights, and gives the same values bit for bit: only sums over
    samples are rounded otherwise. Convolutions round by the number of images; a value next to zero, of a whole batch or of a part,
    then falls on either side of a ReLU, and gradients differ by up to some thousandths. That parts train like a whole batch is
    tested in `test_train.py`.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    alone, shared = "--set=training.accumulate=4", "--set=training.accumulate=2"
    run("itself", tiny_nuscenes, one, 1, alone)
    told = run("itself", tiny_nuscenes, two, 1, "--devices=2", "--cache-images", shared)
    assert_same(two, one)
    assert told.count("model.safetensors: 1 steps") == 1  # the first process alone writes and tells
    assert len(list((two / "log").glob("*tfevents*"))) == len(list((two / "image_cache").glob("*.images"))) == 1
    shutil.copy(two / "last.ckpt", one / "last.ckpt")
    images_alone = "--set=training.image_supervision.alone_steps=2"
    run("itself", tiny_nuscenes, one, 2, "--resume", alone, images_alone)
    run("torchrun", tiny_nuscenes, two, 2, "--resume", shared, images_alone)
    assert_same(two, one)


def losses_of(output: Path) -> dict[str, float]:
    """Of the last step, by name."""
    events = EventAccumulator(str(output / "log"))
    events.Reload()
    names = (name for name in events.Tags()["scalars"] if name.startswith("loss/"))
    return {name.removeprefix("loss/"): events.Scalars(name)[-1].value for name in names}


def write_teacher(path: Path) -> None:
    """One of random weights, which see what the students of ``OPTIONS`` do: its objects are nonsense, but each sample's own."""
    options = ("model.grid.cell=3.2", "model.pillars={cell: 1.6, channels: [16]}")
    second = "model.second={strides: [2], layers: [1], channels: [16], channels_out: 24}"
    config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml", [*options, second]).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config)
    save_checkpoint(path, Checkpoint(config, network.state_dict(), (), {}))


def test_two_processes_distil_like_one(tiny_nuscenes, tmp_path) -> None:
    """Three methods at once, with every loss of BEVDistill; see ``test_two_processes_train_like_one``."""
    write_teacher(tmp_path / "teacher.safetensors")
    losses = "dense: {features: bev}, classes: {weight: 0.25}, contrast: {centers: teacher, weighted: true}"
    methods = f"bevdistill: {{{losses}}}, fitnet: {{}}, distillbev: {{score: 0.1, background: 0}}"
    distilled = f"--set=training.distill={{teacher: {tmp_path / 'teacher.safetensors'}, {methods}}}"
    plain = ("--set=training.image_supervision={}", "--set=training.pictures_every=0", distilled)
    one, two = tmp_path / "one", tmp_path / "two"
    run("itself", tiny_nuscenes, one, 1, "--set=training.accumulate=4", *plain)
    run("itself", tiny_nuscenes, two, 1, "--devices=2", "--set=training.accumulate=2", *plain)
    assert_same(two, one)
    taught = {name: value for name, value in losses_of(one).items() if name not in ("heatmap", "box")}
    assert len(taught) == 7 and min(taught.values()) > 0, taught
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_draws_of_one(processes: int) -> None:
    draws = StepSampler(5, 24, seed=3, start=6)
    one = list(ProcessBatches(draws, 6))
    shares = [list(ProcessBatches(draws, 6, rank, processes)) for rank in range(processes)]
    assert [[key for share in step for key in share] for step in zip(*shares, strict=True)] == one
    assert all(len(batch) == 6 // processes for share in shares for batch in share)


def test_what_cannot_train_together_is_said(monkeypatch) -> None:
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["training.accumulate=2"])
    Processes("cpu", 2).check(config)
    with pytest.raises(UserError, match=r"batch_size 4 is that of all processes together and must be a multiple of 6"):
        Processes("cpu", 3).check(config)
    assert choose_processes("cpu", 2, None) == Processes("cpu", 2, 1, False)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert choose_processes("cpu", None, None) == choose_processes("cpu", 2, 3) == Processes("cpu", 2, 3, True)
    with pytest.raises(UserError, match="torchrun started 2 processes on each of 3 machines"):
        choose_processes("cpu", 4, None)
