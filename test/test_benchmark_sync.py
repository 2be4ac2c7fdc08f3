"""The synchroniser benchmark on short streams, and the file that it writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmark"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "deep" / "sync.json"
    lines = []
    assert load("sync").main(["--minutes", "1", "--json", str(path)], report=lines.append) == 0
    return json.loads(path.read_text()), lines


def test_envelope_says_how_where_and_when(result):
    content, _ = result
    assert set(content) == {"command", "commit", "date", "hardware", "figures"}
    assert "cores" in content["hardware"] and content["date"].endswith("Z")


def test_command_line_holds_no_path_of_this_machine():
    command_line = load("results_file").command_line
    script = str(BENCHMARK / "sync.py")
    inside = str(BENCHMARK / "results" / "sync.json")
    assert command_line([script, "--json", inside]) == "python benchmark/sync.py --json benchmark/results/sync.json"
    assert command_line([script, "--json=/elsewhere/x.json"]) == "python benchmark/sync.py --json=elsewhere/x.json"
    assert command_line(["/opt/bin/bevdistill", "evaluate", "/data/nuscenes"]) == "bevdistill evaluate nuscenes"


def test_no_stream_is_ever_mixed_and_no_complete_frame_missed(result):
    content, lines = result
    figures = content["figures"]
    assert {"nuscenes_12hz", "even_10hz"} <= set(figures)
    for name, row in figures.items():
        assert row["mixed_sets"] == row["out_of_order"] == 0, name
        if name == "even_10hz_learnt":
            assert row["offsets"] == "ambiguous" and row["emitted_complete"] == row["partial_flagged"] == 0
        elif name == "nuscenes_12hz_learnt":
            assert row["offsets"] == "learned" and row["emitted_complete"] >= row["complete_frames"] - 12
        elif name.endswith("camera_lost"):  # a set may go out just before the camera's first image after the outage
            assert row["emitted_complete"] >= row["complete_frames"] - 1
            assert row["partial_flagged"] >= row["partial_frames"] and row["partial_frames"] >= 60
        else:
            assert row["emitted_complete"] == row["complete_frames"] > 0, name
            assert row["partial_flagged"] == row["partial_frames"] > 0, name
    assert sum(any(name in line for line in lines) for name in figures) == len(figures)


def test_stock_policy_mixes_the_same_streams(result):
    pytest.importorskip("message_filters", reason="needs message_filters")
    figures = result[0]["figures"]
    assert figures["nuscenes_12hz"]["stock_mixed_sets"] > 0 and figures["even_10hz"]["stock_mixed_sets"] > 0
