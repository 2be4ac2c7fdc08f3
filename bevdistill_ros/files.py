"""Reading files that people write, and writing files so that nobody ever meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bevdistill_ros.errors import UserError


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None


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
