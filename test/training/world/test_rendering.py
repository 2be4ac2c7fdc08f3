"""Which backend MuJoCo draws with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.world import rendering

CAN_RENDER = Path(__file__).resolve().parents[3] / "standalone" / "can_render.py"

# Stands in for MuJoCo in the process that tries it: draws with the backends that WORKS names.
FAKE_MUJOCO = """
import os

class GLContext:
    def __init__(self, width, height):
        if os.environ["MUJOCO_GL"] not in os.environ["WORKS"].split():
            raise RuntimeError("no such library")

    def make_current(self): pass

    def free(self): pass
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which the named backends work."""
    (tmp_path / "mujoco.py").write_text(FAKE_MUJOCO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return lambda works: monkeypatch.setenv("WORKS", works)


@pytest.mark.parametrize(("works", "chosen"), [("egl osmesa", "egl"), ("egl", "egl"), ("osmesa", "osmesa")])
def test_egl_is_preferred_where_it_works(machine, works, chosen):
    machine(works)
    assert rendering.choose_backend() == chosen


def test_the_users_choice_is_kept(machine, monkeypatch):
    machine("egl osmesa")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.choose_backend() == "osmesa"


def test_a_choice_that_does_not_work_is_named(machine, monkeypatch):
    machine("egl")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(UserError, match="MUJOCO_GL=glfw: MuJoCo cannot draw with it here; unset it"):
        rendering.choose_backend()


def test_packages_are_named_where_nothing_works(machine):
    machine("")
    with pytest.raises(UserError, match="apt-get install libegl1 libgl1-mesa-dri .*libosmesa6"):
        rendering.choose_backend()


def test_missing_mujoco_is_named(monkeypatch):
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mujoco"):
        rendering.choose_backend()


def test_workers_share_the_cores(monkeypatch):
    for name in rendering.thread_limits(1):
        monkeypatch.delenv(name, raising=False)
    cores = rendering.available_cores()
    assert set(rendering.thread_limits(1).values()) == {str(cores)}
    assert set(rendering.thread_limits(2 * cores).values()) == {"1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert rendering.thread_limits(cores)["OMP_NUM_THREADS"] == "3"
    assert rendering.thread_limits(cores)["LP_NUM_THREADS"] == "1"


def test_the_check_for_system_packages_agrees_with_mujoco(monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    try:
        rendering.choose_backend()
        expected = 0
    except UserError:
        expected = 1
    assert subprocess.run([sys.executable, str(CAN_RENDER)], check=False).returncode == expected
