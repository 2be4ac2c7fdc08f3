"""Tables for the terminal."""

from __future__ import annotations

from bevdistill_ros.training.evaluation import evaluate_boxes, mean_of_figures
from bevdistill_ros.training.evaluation_ranges import range_figures
from bevdistill_ros.training.evaluation_tables import (
    camera_missing_table,
    comparison_table,
    range_table,
    summary_table,
)

TRUTH = [("car", 10, 0), ("car", 30, 0), ("barrier", 5, 5)]
FOUND = [("car", 10, 0, 0.9), ("barrier", 5, 5, 0.8)]


def cells(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.split()}


def test_summary_shows_every_class_and_hides_what_is_unknown(compare):
    rows = cells(summary_table(evaluate_boxes(compare(TRUTH, FOUND))))
    assert rows["trailer"] == ["0"] + ["-"] * 10
    assert rows["barrier"][:6] == ["1"] + ["1.000"] * 5
    assert rows["barrier"][-2:] == ["-", "-"]  # the benchmark defines no velocity and attribute error of barriers
    assert rows["car"][0] == "2" and 0.3 < float(rows["car"][1]) < 0.6


def test_ranges(compare):
    table = range_table(range_figures(compare(TRUTH, FOUND), (0, 20, 50)))
    assert " ".join(table.splitlines()[0].split()) == "AP at 2 m by range 0-20 m boxes 20-50 m boxes"
    rows = cells(table)
    assert rows["car"] == ["1.000", "1", "0.000", "1"] and rows["bus"] == ["-", "0", "-", "0"]
    assert rows["mean"] == ["of", "those", "present", "1.000", "2", "0.000", "1"]


def test_cameras_missing():
    rows = {"0": {"mAP": 0.5, "NDS": 0.4, "choices": 1}, "1": {"mAP": 0.25, "NDS": 0.2, "choices": 6}}
    assert cells(camera_missing_table(rows))["1"] == ["6", "0.250", "0.200"]


def test_a_row_a_checkpoint(compare):
    good, none = (mean_of_figures([evaluate_boxes(compare(TRUTH, found)).to_json()]) for found in (FOUND, []))
    table = comparison_table(
        [
            {"name": "a/model", "mean": good, "complete": True},
            {"name": "b/model", "mean": None, "complete": False},
            {"name": "c/model", "mean": none, "complete": False},
        ]
    )
    lines = table.splitlines()
    header = lines[0].split()
    assert header[:4] == ["checkpoint", "mAP", "NDS", "ATE"] and len(header) == 1 + 2 + 5 + 1 + 10
    rows = cells(table)
    assert rows["b/model"] == ["failed"]
    shown = dict(zip(header[1:], rows["a/model"]))
    assert shown["barrier"] == "1.000" and shown["bus"] == "-"
    assert shown["AP@2"] == f"{good['ap_2m']:.3f}" and shown["ASE"] == f"{good['errors']['ASE']:.3f}"
    assert good["ap_2m"] != good["errors"]["ASE"] != good["errors"]["AOE"]
    assert rows["c/model"][0] == "(incomplete)" and rows["c/model"][1] == "0.000"
    assert len({len(line) for line in lines[:-1]}) == 1  # aligned
