"""One file holds a model whole; a damaged or foreign one is refused in one line."""

from __future__ import annotations

import errno
import json
import os

import pytest
import safetensors.torch
import torch

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["model.backbone.width=8"]).model
    return Checkpoint(config, LSS(config).state_dict(), ("CAM_FRONT", "CAM_BACK"), {"data": "none", "steps": 0})


def test_round_trip(tmp_path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "model.safetensors", checkpoint)
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert (again.config, again.cameras, again.training) == (checkpoint.config, checkpoint.cameras, checkpoint.training)
    assert again.state.keys() == checkpoint.state.keys()
    assert all(torch.equal(again.state[name], tensor) for name, tensor in checkpoint.state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_the_size_for_the_same_weights_within_rounding(tmp_path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "whole.safetensors", checkpoint)
    save_checkpoint(tmp_path / "half.safetensors", checkpoint, half=True)
    again = load_checkpoint(tmp_path / "half.safetensors")
    for name, tensor in checkpoint.state.items():
        assert again.state[name].dtype == tensor.dtype
        torch.testing.assert_close(again.state[name], tensor, rtol=1e-3, atol=1e-7)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, checkpoint: Checkpoint, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(path, checkpoint)
    assert caught.value.filename == str(path)  # which the command line names
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_is_no_checkpoint_is_refused(tmp_path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, checkpoint)
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"absent\.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "absent.safetensors")
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint at all", whole[:5]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as a checkpoint"):
            load_checkpoint(path)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {"format": "other"}))
    with pytest.raises(UserError, match="not a bevdistill-checkpoint"):
        load_checkpoint(path)
    path.write_bytes(
        safetensors.torch.save({"a": torch.zeros(1)}, {"format": "bevdistill-checkpoint", "version": "99"})
    )
    with pytest.raises(UserError, match="version '99'"):
        load_checkpoint(path)
    header = {
        "format": "bevdistill-checkpoint",
        "version": "1",
        "config": json.dumps({"name": "x"}),
        "cameras": "[]",
        "training": "{}",
    }
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, header))
    with pytest.raises(UserError, match=r"config: field 'classes' is missing"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("head.heatmap.1.bias"), "'head.heatmap.1.bias' is missing"),
        (lambda s: s.update({"head.heatmap.1.bias": torch.zeros(3)}), "has shape"),
        (lambda s: s.update({"head.heatmap.1.bias": torch.full((10,), torch.nan)}), "not finite"),
        (lambda s: s.update({"teacher.weight": torch.zeros(3)}), "'teacher.weight' is not part"),
    ],
)
def test_weights_that_do_not_fit_are_refused(checkpoint: Checkpoint, change, says: str) -> None:
    state = dict(checkpoint.state)
    change(state)
    with pytest.raises(UserError, match=says):
        Detector(Checkpoint(checkpoint.config, state, checkpoint.cameras, {}))
