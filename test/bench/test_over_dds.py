"""From the cameras' stamp to boxes, with rig and node as processes of their own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from bevdistill_ros import cli

pytest.importorskip("vision_msgs")
pytest.importorskip("bevdistill_ros.msg")

from bevdistill_ros.bench.end_to_end import Answerer, over_dds
from bevdistill_ros.errors import UserError

STOCK_NODE = Path(__file__).resolve().parent.parent.parent / "benchmark" / "stock_node.py"


def check(figures: dict) -> None:
    """What must hold on the busiest machine."""
    assert 0 < figures["answered"] <= figures["published"]
    latency = figures["latency"]
    assert 0 < latency["median_ms"] <= latency["p90_ms"] <= latency["p99_ms"] < 60_000
    assert figures["sets_a_second"] == pytest.approx(figures["answered"] / figures["seconds"], abs=0.01)


def test_the_detector_node(tiny_checkpoint, tmp_path, capsys):
    path = tmp_path / "speed.json"
    words = ["--model", tiny_checkpoint, "--sets", "2", "--device", "cpu", "--json", path]
    words += ["--end-to-end", "--rate", "5", "--seconds", "2"]
    assert cli.main(["bench", *map(str, words)]) == 0
    figures = json.loads(path.read_text())
    check(figures["end_to_end"])
    assert figures["end_to_end"]["published"] <= 11
    assert {"preprocess", "network", "publish", "total"} <= set(figures["end_to_end"]["stages"])
    assert "messages" in figures["stages"]
    assert "over DDS, 5 sets of images a second" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("message_filters") is None, reason="no message_filters here")
def test_a_node_of_the_usual_parts(tiny_checkpoint, tmp_path):
    source = ["--seed", "1"]
    words = ["--model", str(tiny_checkpoint), "--", *source]
    figures = over_dds(Answerer("stock", words, (sys.executable, str(STOCK_NODE))), source, 5.0, 2.0, tmp_path)
    check(figures)
    assert figures["stages"] == {}


def test_a_node_that_fails_is_an_error_with_its_last_words(tmp_path):
    program = (sys.executable, "-c", "import sys; print('no camera today'); sys.exit(3)")
    with pytest.raises(UserError, match=r"(?s)stock ended with exit status 3.*no camera today"):
        over_dds(Answerer("stock", [], program), [], 5.0, 2.0, tmp_path)
