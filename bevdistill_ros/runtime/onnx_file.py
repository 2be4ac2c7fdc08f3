"""Exported models: ONNX files that hold their configuration, read as something that a stranger may have made.

A file is looked through, without the package onnx, before ONNX Runtime sees it. What no export of ours has is refused: data outside
of the file, functions and operators that are not ONNX's own, graphs within graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevdistill_ros.checkpoint import ModelCard, card_from_texts
from bevdistill_ros.config import ModelConfig
from bevdistill_ros.errors import UserError, brief

FORMAT = "bevdistill-onnx"
VERSION = 1

WEIGHTS_SHA256 = "weights_sha256"
"""Name of the metadata that tells of which checkpoint file it was exported."""

MAX_BYTES = (1 << 31) - 1
"""A protobuf message cannot be longer."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Kinds of values on protobuf's wire."""

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 14, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS, _ATTRIBUTE_INNER = 5, 10, (6, 11, 22, 23)
_TENSOR_OUTSIDE = (13, 14)
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass(frozen=True)
class OnnxModel:
    """An exported model as stored.

    Attributes:
        content: the whole file.
        config, cameras, training: see ``Checkpoint``.
        weights_sha256: of the checkpoint file that it was exported from.
    """

    content: bytes
    config: ModelConfig
    cameras: tuple[str, ...]
    training: dict[str, Any]
    weights_sha256: str


def read_onnx(path: str | Path) -> OnnxModel:
    """Read an exported file.

    Raises:
        UserError: the file is missing, truncated, not one of ours or of another version, or holds what none of ours does.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise ValueError(f"it has {size} bytes, not from 1 to {MAX_BYTES}")
        content = path.read_bytes()
        metadata = _look_through(memoryview(content))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read as an exported model, it is damaged or of another kind ({error})"
        ) from None
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: is an ONNX file, but not a {FORMAT} (its metadata says {brief(metadata.get('format'))}): "
            "`bevdistill export` makes one"
        )
    if metadata.get("version") != str(VERSION):
        raise UserError(
            f"{path}: has export version {brief(metadata.get('version'))}; this release reads version {VERSION}: "
            "export the checkpoint again"
        )
    card: ModelCard = card_from_texts(metadata, path)
    return OnnxModel(content, card.config, card.cameras, card.training, metadata.get(WEIGHTS_SHA256, ""))


def _look_through(model: memoryview) -> dict[str, str]:
    """The metadata of a model; ValueError where it is damaged, or has what none of ours has."""
    metadata: dict[str, str] = {}
    graphs = 0
    for field, value in _fields(model):
        if field == _MODEL_GRAPH:
            graphs += 1
            _look_through_graph(_message(value))
        elif field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ValueError("it holds functions of its own")
        elif field == _MODEL_METADATA:
            entry = dict(_fields(_message(value)))
            key, text = (_text(entry.get(part, memoryview(b""))) for part in (_ENTRY_KEY, _ENTRY_VALUE))
            if key in metadata:
                raise ValueError(f"its metadata have {brief(key)} twice")
            metadata[key] = text
    if graphs != 1:
        raise ValueError(f"it holds {graphs} graphs, not one")
    return metadata


def _look_through_graph(graph: memoryview) -> None:
    for field, value in _fields(graph):
        if field == _GRAPH_NODE:
            _look_through_node(_message(value))
        elif field == _GRAPH_INITIALIZER:
            _look_through_tensor(_message(value))
        elif field == _GRAPH_SPARSE:
            raise ValueError("it holds sparse tensors")


def _look_through_node(node: memoryview) -> None:
    for field, value in _fields(node):
        if field == _NODE_DOMAIN and _text(value) not in ("", "ai.onnx"):
            raise ValueError(f"it has operators of {brief(_text(value))}, not of ONNX alone")
        if field == _NODE_ATTRIBUTE:
            for part, content in _fields(_message(value)):
                if part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    _look_through_tensor(_message(content))
                elif part in _ATTRIBUTE_INNER:
                    raise ValueError("it has operators with graphs or sparse tensors inside")


def _look_through_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field in _TENSOR_OUTSIDE and value != 0:
            raise ValueError("it keeps tensors in other files")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and values of a message's fields: a number where it is one, else its bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"it has a field of kind {kind} at byte {position}")
        if length > len(message) - position:
            raise ValueError(f"it ends too early: a field claims {length} bytes where {len(message) - position} are")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("it has a number of too many bytes")


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it has a number where a message should be")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_message(value)).decode("utf-8")
