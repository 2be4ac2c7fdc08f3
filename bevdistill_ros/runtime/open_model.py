"""Which of a model's files runs: its checkpoint by PyTorch, or what was exported from it by ONNX Runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime import onnx_runtime
from bevdistill_ros.runtime.backends import AUTO, ONNXRUNTIME, TORCH, TORCH_BFLOAT16
from bevdistill_ros.runtime.onnx_file import SUFFIX, OnnxModel, read_onnx


def open_model(path: str | Path, backend: str | None = None, device: str = "cpu") -> tuple[Checkpoint | OnnxModel, str]:
    """Read the file that is to run.

    An exported file runs by ONNX Runtime. A checkpoint runs by PyTorch, or, where ``backend`` is ``onnxruntime``, what was exported
    from it: the file beside it of the same name that ends in .onnx. ``auto`` does that on a CPU, where it is faster, if it can;
    None is just what was named.

    Returns:
        What was read, and why it is not the exported file, where ``auto`` has tried it in vain; else an empty text.

    Raises:
        UserError: the file cannot be read, or is none that ``backend`` runs.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        if backend in (TORCH, TORCH_BFLOAT16):
            raise UserError(
                f"{path}: an exported model runs by onnxruntime, not by the backend '{backend}': name its checkpoint"
            )
        return read_onnx(path), ""
    if backend in (None, TORCH, TORCH_BFLOAT16) or (backend == AUTO and device != "cpu"):
        return load_checkpoint(path), ""
    try:
        return _exported_from(path), ""
    except UserError as error:
        if backend == ONNXRUNTIME:
            raise UserError(f"backend '{ONNXRUNTIME}': {error}") from None
        return load_checkpoint(path), str(error)


def _exported_from(path: Path) -> OnnxModel:
    """What was exported from a checkpoint, from the file beside it."""
    if not onnx_runtime.is_installed():
        raise UserError("the Python package onnxruntime is not installed")
    exported = path.with_suffix(SUFFIX)
    if not exported.is_file():
        raise UserError(f"there is no {exported}, which `bevdistill export {path}` makes")
    model = read_onnx(exported)
    if model.weights_sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
        raise UserError(f"{exported} was exported from other weights than {path} holds: export them again")
    return model
