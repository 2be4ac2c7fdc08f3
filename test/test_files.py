"""Files are written whole or not at all, and read within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bevdistill_ros.errors import UserError, brief
from bevdistill_ros.files import read_yaml, write_atomically


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is not YAML"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi")
        ), "aliases make more than"),
        ("a: &a {x: 1}\n" + "".join(
            f"{after}: &{after}\n  <<: [{', '.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi")
        ), "aliases make more than"),
        ("&a [*a]", "alias to what it is a part of"),
        ("a: &a {b: *a}", "alias to what it is a part of"),
        ("[" * 5000, "nested too deeply"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("!!int ''", "is not YAML"),
        ("!!timestamp x", "is not YAML"),
        ("2001-99-99", "is not YAML"),
        ("a: \x01", "is not YAML"),
    ],
    ids=lambda value: value[:20].split("\n")[0],
)  # fmt: skip
def test_yaml_that_is_none_or_too_much_is_refused_in_one_line(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value) and len(str(error.value)) < 700


def test_aliases_that_are_no_bomb_are_read(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {x: 1}\na:\n  <<: *base\n  y: 2\nb: [*base, *base]\n")
    assert read_yaml(path) == {"base": {"x": 1}, "a": {"x": 1, "y": 2}, "b": [{"x": 1}, {"x": 1}]}
    path.write_text("")
    assert read_yaml(path) is None


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match="/dev/zero: has more than"):
        read_yaml(Path("/dev/zero"))


def test_what_was_found_is_shown_briefly() -> None:
    for value in (10**10_000, ["x" * 1000] * 1000, {"a": {"b": {"c": {"d": [1] * 9}}}}, "a\nb" * 500):
        assert len(brief(value)) < 2500 and "\n" not in brief(value)
