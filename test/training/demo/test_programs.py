"""Processes of the demo: their ends, good and bad."""

from __future__ import annotations

import os
import tempfile

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.demo import isolation, programs
from bevdistill_ros.training.demo.isolation import private_domain
from bevdistill_ros.training.demo.programs import Program

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def wait(program: Program) -> None:
    program._process.wait(60)


def test_a_program_that_fails_is_an_error_with_the_end_of_its_log(tmp_path):
    with Program("player", ["play", "/nowhere/bag"], tmp_path) as program:
        wait(program)
        with pytest.raises(UserError) as error:
            program.has_ended()
    text = str(error.value)
    assert "the player ended with exit status 1" in text and str(tmp_path / "player.log") in text
    assert "error: /nowhere/bag" in text.splitlines()[-1]


def test_only_the_last_lines_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "VERB", "import sys; [print('line', i) for i in range(99)]; sys.exit(3)")
    with Program("detector", [], tmp_path) as program:
        wait(program)
        with pytest.raises(UserError, match="exit status 3") as error:
            program.check_running()
    lines = str(error.value).splitlines()[1:]
    assert lines == [f"    line {i}" for i in range(99 - programs.LOG_LINES, 99)]


def test_a_good_end_is_an_error_only_for_what_should_run_on(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "VERB", "print('bye')")
    with Program("detector", [], tmp_path) as program:
        wait(program)
        assert program.has_ended()
        with pytest.raises(UserError, match=r"(?s)the detector ended early.*bye"):
            program.check_running()


def test_a_death_by_signal_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "VERB", "import os; os.kill(os.getpid(), 9)")
    with Program("detector", [], tmp_path) as program:
        wait(program)
        with pytest.raises(UserError, match=r"(?s)ended with signal 9.*\(nothing\)"):
            program.has_ended()


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_programs_end_with_their_context_whatever_happens(tmp_path, monkeypatch, error):
    monkeypatch.setattr(programs, "VERB", SLEEP)
    program = Program("detector", [], tmp_path)
    try:
        with program:
            assert not program.has_ended()
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert program._process.returncode is not None


def test_who_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "VERB", STUBBORN)
    monkeypatch.setattr(programs, "TOLD_TO_END_S", 0.2)
    with Program("detector", [], tmp_path) as program:
        while "deaf" not in program.log.read_text():
            program.check_running()
    assert program._process.returncode == -9


def test_every_demo_has_a_domain_of_its_own_and_gives_the_environment_back(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "DOMAINS", (60, 61, 62))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other demos on this machine have no say here
    monkeypatch.setenv("ROS_DOMAIN_ID", "60")  # the robot's
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    before = dict(os.environ)
    with private_domain(tmp_path) as first:
        assert os.environ["ROS_DOMAIN_ID"] == str(first)
        assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert dict(os.environ) == before
    with isolation._free_domain() as first, isolation._free_domain() as second:
        assert {first, second} == {61, 62}
        with pytest.raises(UserError, match="from 60 to 62 are in use"), isolation._free_domain():
            pass
