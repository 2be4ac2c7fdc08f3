"""Which file runs: the checkpoint, or what was exported from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.config import BackboneConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime import onnx_runtime, processor
from bevdistill_ros.runtime import open_model as module
from bevdistill_ros.runtime.onnx_file import OnnxModel
from bevdistill_ros.runtime.open_model import open_model, scored_in_bfloat16


@pytest.fixture
def folder(exported, tmp_path: Path) -> Path:
    """Holds a checkpoint and what was exported from it."""
    for path in exported("nano")[:2]:
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_auto_takes_what_was_exported_on_a_cpu_without_bfloat16(folder: Path) -> None:
    path = folder / "model.safetensors"
    opened = open_model(path, "auto", fast_bfloat16=False)
    assert isinstance(opened.model, OnnxModel) and opened.note == "auto: the processor has no avx512_bf16"
    assert isinstance(open_model(path, "onnxruntime", fast_bfloat16=True).model, OnnxModel)
    dtypes = {
        "torch": torch.float32,
        "torch_bfloat16": torch.bfloat16,
        "torch_float16": torch.float16,
        None: torch.float32,
    }
    for backend, dtype in dtypes.items():
        opened = open_model(path, backend, fast_bfloat16=True)
        assert isinstance(opened.model, Checkpoint) and opened.dtype == dtype and not opened.note
    assert isinstance(open_model(folder / "model.onnx", "auto", fast_bfloat16=True).model, OnnxModel)
    with pytest.raises(
        UserError, match=r"model\.onnx: an exported model runs by onnxruntime, not by the backend 'torch'"
    ):
        open_model(folder / "model.onnx", "torch")


def test_auto_takes_bfloat16_where_the_processor_is_fast_in_it(folder: Path) -> None:
    opened = open_model(folder / "model.safetensors", "auto", fast_bfloat16=True)
    assert isinstance(opened.model, Checkpoint) and opened.dtype == torch.bfloat16
    assert opened.note == "auto: the processor has avx512_bf16"


def test_auto_leaves_models_that_nobody_scored_in_bfloat16_in_float32(student, tmp_path: Path) -> None:
    network, path = student("bevformer_nano"), tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(network.config, network.state_dict(), (), {}))
    opened = open_model(path, "auto", fast_bfloat16=True)
    assert opened.dtype == torch.float32 and "no model of this kind was scored in bfloat16" in opened.note
    opened = open_model(path, "auto", "cuda", fast_bfloat16=True)
    assert opened.dtype == torch.float32 and opened.note == "auto: no model of this kind was scored in bfloat16"
    assert open_model(path, "torch_bfloat16").dtype == torch.bfloat16


def test_auto_takes_bfloat16_on_gpus_that_have_it_and_nothing_exported_on_others(folder: Path, monkeypatch) -> None:
    for has, dtype, note in (
        (True, torch.bfloat16, "auto: the GPU has bfloat16"),
        (False, torch.float32, "auto: the GPU has no bfloat16"),
    ):
        monkeypatch.setattr(module, "gpu_calculates_in_bfloat16", lambda device, has=has: has and device == "cuda:1")
        opened = open_model(folder / "model.safetensors", "auto", "cuda:1")
        assert isinstance(opened.model, Checkpoint) and opened.dtype == dtype and opened.note == note


def test_gpus_have_bfloat16_since_ampere(monkeypatch) -> None:
    for capability, has in (((7, 5), False), ((8, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert processor.gpu_calculates_in_bfloat16("cuda") == has

    def refuse(device: str) -> None:
        raise AssertionError("Invalid device id")

    monkeypatch.setattr(torch.cuda, "get_device_capability", refuse)
    assert not processor.gpu_calculates_in_bfloat16("cuda:99")


@pytest.mark.parametrize("backbone", [BackboneConfig(deformable_stages=1), BackboneConfig(timm="resnet18")])
def test_backbones_that_nobody_scored_in_bfloat16(backbone: BackboneConfig, student) -> None:
    for name in ("nano", "simulated_nano"):
        config = student(name).config
        assert scored_in_bfloat16(config)
        assert not scored_in_bfloat16(replace(config, backbone=backbone))


def test_flags_as_linux_lists_them(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor.linux_features(cpuinfo) == {"fpu", "avx512_bf16", "amx_tile"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # Arm
    assert processor.linux_features(cpuinfo) == processor.linux_features(tmp_path / "none") == frozenset()


@pytest.mark.parametrize("torch_tells", [True, False])
def test_the_processors_own_flags_decide(torch_tells: bool, monkeypatch) -> None:
    def tell(*flags: str) -> None:
        if torch_tells:
            told = {"avx512_bf16": False, "l2_cache_size": 1024, **dict.fromkeys(flags, True)}
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
        else:
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
            monkeypatch.setattr(processor, "linux_features", lambda: frozenset(flags))

    tell("avx2", "avx512_f", "avx512_bf16")
    assert processor.calculates_in_bfloat16()
    tell("avx2", "avx512_f")
    assert not processor.calculates_in_bfloat16()


def refused(path: Path, text: str) -> None:
    """``auto`` falls back to PyTorch and says why, without a path; ``onnxruntime`` fails with the same reason."""
    opened = open_model(path, "auto", fast_bfloat16=False)
    assert isinstance(opened.model, Checkpoint) and opened.dtype == torch.float32
    assert opened.note.startswith("auto: the processor has no avx512_bf16; ") and text in opened.note
    assert "\n" not in opened.note and str(path.parent) not in opened.note
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
