"""Reading files that people write, and writing files so that nobody ever meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bevdistill_ros.errors import UserError

MAX_YAML_BYTES = 1 << 24
MAX_YAML_VALUES = 1 << 20
"""Values of a document with every alias written out. A few lines of aliases to aliases make billions, which PyYAML shares in
memory, but whatever walks through them, or prints them, does not."""


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: it cannot be read, is not YAML, or is larger than any file that people write.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_YAML_BYTES:
        raise UserError(f"{path}: has more than {MAX_YAML_BYTES} bytes, too many for a YAML file")
    try:
        return parse_yaml(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not YAML: {error}") from None


def parse_yaml(text: str) -> Any:
    """What a YAML document says: plain values alone, as ``yaml.safe_load``.

    Raises:
        ValueError: it is not YAML, refers to itself, or is larger than ``MAX_YAML_VALUES``. The text is one line.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > MAX_YAML_VALUES:
                raise ValueError(f"its aliases make more than {MAX_YAML_VALUES} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # a tag on what it is not, as '!!int ""', makes PyYAML raise nearly anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for, aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    count = known[id(node)]
    if count is None:
        raise ValueError("it holds an alias to what it is a part of")
    return count


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all: a reader, a kill or a full disk leaves the old one or the new one.

    Raises:
        OSError: it cannot be written, ``filename`` is ``path``; the old file, if any, is as it was.
    """
    path = Path(path)
    try:
        _replace(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        error.filename = str(
            path
        )  # a full disk names no file of its own, and the temporary one is not what was asked for
        raise


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
