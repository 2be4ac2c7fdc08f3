"""A short campaign of benchmark/fuzz.py: nothing but documented refusals; and the campaign sees what is none."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark"
INPUTS = 60


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    command = [sys.executable, str(BENCHMARK / "fuzz.py"), "--inputs", str(INPUTS), "--json", str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize("target", ["images", "camera_info", "tf", "checkpoint", "calibration_file"])
def test_damaged_inputs_are_refused_as_documented(result: dict, target: str) -> None:
    figures = result["figures"]
    assert figures["inputs"][target] == INPUTS and figures["uncaught"][target] == 0
    assert figures["accepted"][target] + figures["refused"][target] == INPUTS
    assert figures["refused"][target] > 5


def test_inputs_are_neither_all_refused_nor_all_taken(result: dict) -> None:
    accepted = result["figures"]["accepted"]
    assert sum(count > 0 for count in accepted.values()) >= 4 and max(accepted.values()) < INPUTS


@pytest.fixture(scope="module")
def campaign(load_benchmark):
    return load_benchmark("fuzz")


def test_what_is_no_documented_refusal_counts(campaign, monkeypatch) -> None:
    import signal

    class Panic(BaseException):
        """As extensions in Rust raise."""

    class Faulty:
        refusals = (ValueError,)

        def run(self, rng: random.Random) -> bool:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 1:
                raise ValueError("refused")
            if self.calls == 2:
                raise KeyError("a defect")
            if self.calls == 3:
                raise Panic("another")
            if self.calls == 4:
                while True:  # interrupted by the time limit
                    pass
            return True

    monkeypatch.setattr(campaign, "TIME_LIMIT", 0.05)
    before = signal.signal(signal.SIGPROF, campaign._out_of_time)
    try:
        log = io.StringIO()
        outcome = campaign.fuzz("faulty", Faulty(), 0, 0, 6, log)
    finally:
        signal.signal(signal.SIGPROF, before)
    assert (outcome.inputs, outcome.refused, outcome.uncaught, outcome.accepted) == (6, 1, 3, 2)
    assert {kind.split(" at ")[0] for kind in outcome.failures} == {"KeyError", "Panic", "TimeoutError"}
    assert "faulty 1: KeyError at test_fuzz.py" in log.getvalue()


def test_an_input_can_be_made_again(campaign, tmp_path) -> None:
    import fuzz_mutations

    data = bytes(range(200))
    first, again, other = (fuzz_mutations.changed_bytes(random.Random(seed), data) for seed in ("a", "a", "b"))
    assert first == again != other
