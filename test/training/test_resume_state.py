"""A training's saved state that is damaged, or holds more than numbers, is refused before anything of it is used."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.train import step_of


class Program:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    "content",
    [
        {"global_step": -1}, {"global_step": "7"}, {"global_step": torch.tensor(7)}, {"global_step": True}, {}, [1], torch.zeros(3),
        {"global_step": 7, "more": Program()},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_state_is_refused(content: object, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be resumed from") as error:
        step_of(tmp_path / "last.ckpt")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [0, 3, 100, -10])
def test_damaged_files_are_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"global_step": 7, "weights": torch.zeros(9)}, path)
    assert step_of(path) == 7
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot be resumed from"):
        step_of(path)
    path.write_bytes(pickle.dumps({"global_step": 7}))
    with pytest.raises(UserError, match="cannot be resumed from"):
        step_of(path)
