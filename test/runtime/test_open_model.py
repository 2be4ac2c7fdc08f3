"""Which file runs: the checkpoint, or what was exported from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime import onnx_runtime
from bevdistill_ros.runtime.onnx_file import OnnxModel
from bevdistill_ros.runtime.open_model import open_model


@pytest.fixture
def folder(exported, tmp_path: Path) -> Path:
    """Holds a checkpoint and what was exported from it."""
    for path in exported("nano")[:2]:
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_auto_takes_what_was_exported_on_a_cpu(folder: Path) -> None:
    path = folder / "model.safetensors"
    model, note = open_model(path, "auto")
    assert isinstance(model, OnnxModel) and not note
    for arguments in (("auto", "cuda"), ("torch",), ("torch_bfloat16",), ()):
        model, note = open_model(path, *arguments)
        assert isinstance(model, Checkpoint) and not note
    assert isinstance(open_model(folder / "model.onnx")[0], OnnxModel)
    with pytest.raises(
        UserError, match=r"model\.onnx: an exported model runs by onnxruntime, not by the backend 'torch'"
    ):
        open_model(folder / "model.onnx", "torch")


def refused(path: Path, text: str) -> None:
    """``auto`` falls back to PyTorch and says why; ``onnxruntime`` fails with the same reason."""
    model, note = open_model(path, "auto")
    assert isinstance(model, Checkpoint) and text in note and "\n" not in note
    with pytest.raises(UserError, match="backend 'onnxruntime': ") as error:
        open_model(path, "onnxruntime")
    assert text in str(error.value)


def test_without_an_exported_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    refused(folder / "model.safetensors", "bevdistill export")


def test_an_exported_file_of_other_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    checkpoint = load_checkpoint(path)
    state = {**checkpoint.state, "backbone.bn1.bias": checkpoint.state["backbone.bn1.bias"] + 1}
    save_checkpoint(path, Checkpoint(checkpoint.config, state, checkpoint.cameras, checkpoint.training))
    refused(path, "was exported from other weights")


def test_a_damaged_exported_file(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-5])
    refused(folder / "model.safetensors", "damaged")


def test_without_onnxruntime(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_runtime, "is_installed", lambda: False)
    refused(folder / "model.safetensors", "onnxruntime is not installed")
