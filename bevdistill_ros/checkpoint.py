"""One file is one model: weights as safetensors, with its configuration and origin in the file's metadata. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.plain_data import from_dict, to_dict

FORMAT = "bevdistill-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model as stored.

    Attributes:
        config: builds the network.
        state: its state dict.
        cameras: names of the cameras it was trained on, in that order.
        training: where it comes from (data, command, steps, ...); free, for people and for ``/diagnostics``.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    cameras: tuple[str, ...]
    training: dict[str, Any]


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write atomically: a reader sees the old file or the whole new one.

    ``half`` stores floating-point tensors as float16, for half the size; networks get float32 back.
    """
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(to_dict(checkpoint.config)),
        "cameras": json.dumps(list(checkpoint.cameras)),
        "training": json.dumps(checkpoint.training),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    if half:
        state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        UserError: the file is missing, truncated, not one of ours, of another version, or its configuration is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path}: is a safetensors file, but not a {FORMAT} (its metadata says {metadata.get('format')!r})"
                )
            if metadata.get("version") != str(VERSION):
                raise UserError(
                    f"{path}: has checkpoint version {metadata.get('version')}; this release reads version {VERSION}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            state = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint, it is damaged or of another kind ({error})") from None
    try:
        config = from_dict(ModelConfig, json.loads(metadata["config"]), f"{path}: config")
        return Checkpoint(config, state, tuple(json.loads(metadata["cameras"])), json.loads(metadata["training"]))
    except (KeyError, json.JSONDecodeError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata is incomplete or damaged ({error})") from None
