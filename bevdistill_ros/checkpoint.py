"""One file is one model: weights as safetensors, with its configuration and origin in the file's metadata. Never pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.errors import UserError, brief
from bevdistill_ros.files import write_atomically
from bevdistill_ros.plain_data import from_dict, to_dict

FORMAT = "bevdistill-checkpoint"
VERSION = 1

MAX_HEADER = 1 << 24
"""Bytes. Ours have some ten thousand."""

MAX_CAMERAS = 64
MAX_DIMENSIONS = 8

_LENGTH = 8
"""Bytes in which a safetensors file says how long its header is."""

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Of a value, by safetensors' name of its kind."""


class ModelCard(NamedTuple):
    """What a model is, apart from its weights; see ``Checkpoint``."""

    config: ModelConfig
    cameras: tuple[str, ...]
    training: dict[str, Any]


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

    @property
    def card(self) -> ModelCard:
        """All but the weights."""
        return ModelCard(self.config, self.cameras, self.training)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write atomically: a reader sees the old file or the whole new one.

    ``half`` stores floating-point tensors as float16, for half the size; networks get float32 back.
    """
    metadata = {"format": FORMAT, "version": str(VERSION), **card_to_texts(checkpoint.card)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    if half:
        state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file. What its header and configuration claim is looked at before anything of that size is made.

    Raises:
        UserError: the file is missing, truncated, not one of ours or of another version, its configuration is wrong, or its weights
            are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    card = card_from_texts(_read_metadata(path), path)
    state = {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_tensor(name)
                if not torch.isfinite(tensor).all():
                    raise UserError(f"{path}: '{name}' holds values that are not finite: its training has failed")
                state[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    return Checkpoint(card.config, state, card.cameras, card.training)


def card_to_texts(card: ModelCard) -> dict[str, str]:
    """A card as a file's metadata: JSON texts by name."""
    return {
        "config": json.dumps(to_dict(card.config)),
        "cameras": json.dumps(list(card.cameras)),
        "training": json.dumps(card.training),
    }


def card_from_texts(metadata: Mapping[str, str], path: Path) -> ModelCard:
    """The card that a file's metadata hold.

    Raises:
        UserError: something is missing, or is not what it should be; ``path`` is the file to name.
    """
    try:
        config = from_dict(ModelConfig, read_json(metadata["config"]), f"{path}: config")
        cameras, training = read_json(metadata["cameras"]), read_json(metadata["training"])
        if not isinstance(training, dict):
            raise ValueError(f"training is {brief(training)}, not an object")
        _check_cameras(cameras)
    except KeyError as error:
        raise UserError(f"{path}: its metadata lacks {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: its metadata is damaged ({error})") from None
    return ModelCard(config, tuple(cameras), training)


def _check_cameras(cameras: Any) -> None:
    if not isinstance(cameras, list) or len(cameras) > MAX_CAMERAS:
        raise ValueError(f"cameras is {brief(cameras)}, not a list of at most {MAX_CAMERAS} names")
    for name in cameras:
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable():
            raise ValueError(f"cameras has {brief(name)}, which is no name of a camera")


def _read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file whose header is that of a safetensors file, describes its bytes exactly, and says that it is ours."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 0 < length <= min(MAX_HEADER, size - _LENGTH):
                raise ValueError(f"its first bytes claim a header of {length} bytes in a file of {size}")
            header = read_json(file.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ is no object of texts")
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(getattr(error, "strerror", None) or error)) from None
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: is a safetensors file, but not a {FORMAT} (its metadata says {brief(metadata.get('format'))})"
        )
    if metadata.get("version") != str(VERSION):
        raise UserError(
            f"{path}: has checkpoint version {brief(metadata.get('version'))}; this release reads version {VERSION}"
        )
    try:
        _check_tensors(header, size - _LENGTH - length)
    except ValueError as error:
        raise _unreadable(path, str(error)) from None
    return metadata


def _check_tensors(header: dict[str, Any], size: int) -> None:
    """Raise ValueError unless the tensors of a header fill ``size`` bytes without gaps and overlaps."""
    places = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {brief(name)} has not exactly dtype, shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _BYTES:
            raise ValueError(f"tensor {brief(name)} has dtype {brief(kind)}, not one of {', '.join(_BYTES)}")
        if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"tensor {brief(name)} has shape {brief(shape)}")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _BYTES[kind]:
            raise ValueError(f"tensor {brief(name)} of shape {brief(shape)}, {kind}, is said to be at {brief(offsets)}")
        places.append(offsets)
    end = 0
    for begin, behind in sorted(places):
        if begin != end:
            raise ValueError(f"its tensors do not lie one behind the other, at byte {end}")
        end = behind
    if end != size:
        raise ValueError(f"its tensors are {end} bytes, but the file has {size} for them")


def _are_counts(values: Any) -> bool:
    """Whether it is a list of whole numbers that a file can have so many of."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def read_json(text: str) -> Any:
    """What a JSON text from outside says; strictly.

    Raises:
        ValueError: it is no JSON, names something twice, is nested too deeply, or holds numbers that are not finite or too long.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError(f"an object of {brief(list(result))} has a name twice")
        return result

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{brief(number)} is not finite")
        return value

    try:
        return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: cannot be read as a checkpoint, it is damaged or of another kind ({' '.join(why.split())})"
    )
