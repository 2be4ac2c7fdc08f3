"""Files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from bevdistill_ros.files import write_atomically


def test_new_and_old_files(tmp_path) -> None:
    write_atomically(tmp_path / "new" / "a.txt", "text")
    write_atomically(tmp_path / "new" / "a.txt", b"bytes")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"bytes"
    assert os.stat(tmp_path / "new" / "a.txt").st_mode & 0o777 == 0o644


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    write_atomically(tmp_path / "a", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
