"""What the tests of conversion share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

for _folder in (Path(__file__).parent, Path(__file__).parent.parent / "world"):  # fake_drive is the world's
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

pytest.importorskip("rosbags")
pytest.importorskip("nuscenes")


@pytest.fixture
def rig(tmp_path) -> Callable[..., Path]:
    """Writes a rig file: the robot's, with replacements."""
    import robot

    def write(*replacements: tuple[str, str], extra: str = "") -> Path:
        text = robot.RIG
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "rig.yaml"
        path.write_text(text + extra)
        return path

    return write
