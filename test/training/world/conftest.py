"""What the tests of the world share: the fake drive, importable in spawned processes, too, and how MuJoCo draws here."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.world.rendering import choose_backend, thread_limits

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

# MuJoCo looks at MUJOCO_GL when it is first imported: before any test module can.
try:
    if find_spec("mujoco") is not None:
        os.environ.setdefault("MUJOCO_GL", choose_backend())
except UserError:
    pass
for _name, _value in thread_limits(2).items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="session")
def renderer() -> None:
    """Asked for by tests that draw: skips where nothing can."""
    if find_spec("mujoco") is None:
        pytest.skip("MuJoCo is not installed")
    if "MUJOCO_GL" not in os.environ:
        pytest.skip("neither EGL nor OSMesa works here")
