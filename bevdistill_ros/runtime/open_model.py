"""Which of a model's files runs, and how: its checkpoint by PyTorch, or what was exported from it by ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.config import LssModelConfig, ModelConfig, SimulatedModelConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime import onnx_runtime
from bevdistill_ros.runtime.backends import AUTO, EXPORTED_SUFFIX, ONNXRUNTIME
from bevdistill_ros.runtime.onnx_file import OnnxModel, read_onnx
from bevdistill_ros.runtime.precision import DTYPES
from bevdistill_ros.runtime.processor import BFLOAT16, calculates_in_bfloat16, gpu_calculates_in_bfloat16


class Opened(NamedTuple):
    """What is to run.

    Attributes:
        model: a checkpoint, for PyTorch, or an exported model, for ONNX Runtime.
        dtype: see ``TorchRuntime``.
        note: why ``auto`` has chosen this, in words; empty where nothing was chosen.
    """

    model: Checkpoint | OnnxModel
    dtype: torch.dtype = torch.float32
    note: str = ""


def open_model(
    path: str | Path, backend: str | None = None, device: str = "cpu", fast_bfloat16: bool | None = None
) -> Opened:
    """Read the file that is to run.

    An exported file runs by ONNX Runtime. A checkpoint runs by PyTorch, or, where ``backend`` is ``onnxruntime``, what was exported
    from it: the file beside it of the same name that ends in .onnx. ``auto`` takes the fastest that is known to be as accurate:
    PyTorch in bfloat16 where the processor, or the GPU, is fast in it and ``scored_in_bfloat16``, else on a CPU what was exported
    if it can, else PyTorch. None is just what was named.

    Args:
        fast_bfloat16: whether the processor, or the GPU, is fast in bfloat16; None: look.

    Raises:
        UserError: the file cannot be read, or is none that ``backend`` runs.
    """
    path = Path(path)
    if path.suffix == EXPORTED_SUFFIX:
        if backend in DTYPES:
            raise UserError(
                f"{path}: an exported model runs by onnxruntime, not by the backend '{backend}': name its checkpoint"
            )
        return Opened(read_onnx(path))
    if backend == ONNXRUNTIME:
        try:
            return Opened(_exported_from(path))
        except UserError as error:
            raise UserError(f"backend '{ONNXRUNTIME}': {error}") from None
    checkpoint = load_checkpoint(path)
    if backend != AUTO:
        return Opened(checkpoint, DTYPES.get(backend, torch.float32))
    on_gpu = device != "cpu"
    if fast_bfloat16 is None:
        fast_bfloat16 = gpu_calculates_in_bfloat16(device) if on_gpu else calculates_in_bfloat16()
    if not fast_bfloat16:
        against = "the GPU has no bfloat16" if on_gpu else f"the processor has no {BFLOAT16}"
    elif not scored_in_bfloat16(checkpoint.config):
        against = "no model of this kind was scored in bfloat16"
    else:
        has = "the GPU has bfloat16" if on_gpu else f"the processor has {BFLOAT16}"
        return Opened(checkpoint, torch.bfloat16, f"auto: {has}")
    if on_gpu:
        return Opened(checkpoint, note=f"auto: {against}")
    try:
        return Opened(_exported_from(path), note=f"auto: {against}")
    except UserError as error:
        why = str(error).replace(f"{path.parent}{os.sep}", "")  # names do: a note may go into results for others
        return Opened(checkpoint, note=f"auto: {against}; {why}")


def scored_in_bfloat16(config: ModelConfig) -> bool:
    """Whether trained models of this kind were scored in bfloat16, and were as good as in float32.

    Of others the parts work alike, and ``torch_bfloat16`` runs them; but nobody has scored one yet.
    """
    if not isinstance(config, (LssModelConfig, SimulatedModelConfig)) or config.head is None:
        return False
    return not (config.backbone.timm or config.backbone.deformable_stages)


def _exported_from(path: Path) -> OnnxModel:
    """What was exported from a checkpoint, from the file beside it."""
    if not onnx_runtime.is_installed():
        raise UserError("the Python package onnxruntime is not installed")
    exported = path.with_suffix(EXPORTED_SUFFIX)
    if not exported.is_file():
        raise UserError(f"there is no {exported}, which `bevdistill export {path}` makes")
    model = read_onnx(exported)
    if model.weights_sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
        raise UserError(f"{exported} was exported from other weights than {path} holds: export them again")
    return model
