"""benchmark/speed.py: what it writes of figures, and the page that it makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def speed(load_benchmark):
    return load_benchmark("speed")


def row(median: float, **more: float) -> dict:
    return {"median_ms": median, "p90_ms": 2 * median, "p99_ms": 3 * median, **more}


@pytest.fixture
def bench() -> dict:
    floor = {"flops": 8_000_000_000, "bytes": 96_000_000, "floor_ms": 100.0, "floor_ratio": 2.5}
    medians = {name: {"ours": 10.0, "straightforward": 25.0} for name in ("pipeline", "pool_forward", "pool_backward")}
    for name in ("preprocess_704x256", "preprocess_256x96"):
        medians[name] = {"ours": 10.0, "ours_normalised": 20.0, "straightforward": 30.0}
    ratios = {name: round(ms["straightforward"] / ms["ours"], 2) for name, ms in medians.items()}
    return {
        "model": "nano",
        "device": "cpu",
        "backend": "torch",
        "threads": {"torch": 2, "pictures": 2, "opencv": 1},
        "input": {
            "source": "made-up pictures",
            "cameras": ["a"] * 6,
            "picture_size": [1600, 900],
            "kilobytes_a_set": 1000.0,
        },
        "sets": 100,
        "sets_a_second": 7.0,
        "whole": row(350.0),
        "stages": {"preprocess": row(60.0), "decode": row(55.0), "network": row(250.0, **floor)},
        "floor_ratio": 2.5,
        "peaks": {"matmul_gflops": 80.0, "convolution_gflops": 70.0, "memory_gb_s": 10.0, "cache_gb_s": 90.0},
        "memory": {"resident_mb": 800.0},
        "compare": {
            "ratios": {**ratios, "preprocess_704x256_normalised": 1.5, "preprocess_256x96_normalised": 1.5},
            "median_ms": medians,
        },
    }


def run_of(median: float, answered: int) -> dict:
    return {
        "rate_hz": 12.0, "seconds": 10.0, "published": 120, "answered": answered, "sets_a_second": answered / 10,
        "latency": row(median), "p99_over_median": 3.0, "late_ms": 1.0, "stages": {"network": median / 2},
    }  # fmt: skip


def test_figures_have_the_keys_that_others_read(speed, bench):
    figures = speed.figures_of(bench, None)
    for key in ("preprocess_704x256", "preprocess_256x96", "pool_forward", "pool_backward"):
        assert figures[key] in (2.5, 3.0)
    assert figures["pipeline_nano"] == 2.5 and "pipeline" not in figures and "compare" not in figures
    assert figures["floor_ratio"] == 2.5 and figures["stage_median_ms"] == {
        "preprocess": 60.0,
        "decode": 55.0,
        "network": 250.0,
    }


def test_runs_of_one_node_become_one(speed):
    joined = speed.median_run([run_of(100.0, 80), run_of(120.0, 70), run_of(90.0, 85)])
    assert joined["runs"] == 3 and joined["published"] == 360 and joined["answered"] == 235
    assert joined["median_ms"] == 100.0 and joined["p99_ms"] == 300.0 and joined["sets_a_second"] == 8.0
    assert joined["stages"] == {"network": 50.0}


def test_the_page_is_made_of_the_results(speed, bench, tmp_path):
    dds = {
        name: speed.median_run([run_of(ms, n)])
        for name, ms, n in (("ours", 80.0, 110), ("stock", 400.0, 30), ("ours_10hz", 70.0, 100))
    }
    result = {
        "hardware": "a CPU, 2 cores",
        "commit": "0123456789",
        "date": "2026-01-02T03:04:05Z",
        "figures": speed.figures_of(bench, dds),
    }
    known, page = tmp_path / "speed.json", tmp_path / "speed.md"
    known.write_text(json.dumps(result))
    page.write_text("# Speed\n\n" + speed.MARK + "old\n")
    assert speed.main(["--from", str(known), "--docs", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Speed\n\n" + speed.MARK) and "old" not in text
    assert "| &nbsp;&nbsp;decode JPEG | 55.00 | 110.00 | 165.00 |" in text
    assert "| network | 250.00 | 500.00 | 750.00 | 8.00 | 96.0 | 100.00 | 2.5 |" in text
    assert "| `pipeline_nano` | 2.50 |" in text and "3.00 (1.50 with ours normalised, too)" in text
    assert "| stock synchroniser, cv_bridge | 12 | 3.00 a second, 30 of 120 | 400.0 |" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_documents_page_has_the_mark(speed):
    assert (REPOSITORY / "docs" / "speed.md").read_text().count(speed.MARK) == 1
