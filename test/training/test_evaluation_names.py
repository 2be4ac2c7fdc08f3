"""Names that tell checkpoints apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.evaluation_names import distinct_names


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_as_much_of_the_path_as_is_needed(tmp_path):
    assert distinct_names(files(tmp_path, "a/model.safetensors")) == ["model"]
    assert distinct_names(files(tmp_path, "nano.safetensors", "b/small.safetensors")) == ["nano", "small"]
    assert distinct_names(files(tmp_path, "a/model.safetensors", "b/model.safetensors")) == ["a/model", "b/model"]
    deep = files(tmp_path, "a/run/model.safetensors", "b/run/model.safetensors", "c.safetensors")
    assert distinct_names(deep)[:2] == ["a/run/model", "b/run/model"]
    assert distinct_names(files(tmp_path, "x.safetensors", "x.backup"))[0].endswith("x.safetensors")


def test_the_same_file_twice_is_refused(tmp_path):
    (path,) = files(tmp_path, "a/model.safetensors")
    with pytest.raises(UserError, match="this checkpoint is named twice"):
        distinct_names([path, tmp_path / "a" / ".." / "a" / "model.safetensors"])
