"""Plots: the files, that something is drawn, and that the JSON holds the numbers."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from bevdistill_ros.training.evaluation_calibration import class_calibrations
from bevdistill_ros.training.evaluation_curves import precision_recall
from bevdistill_ros.training.evaluation_plots import write_plots


def test_files_and_numbers(scattered, tmp_path):
    boxes = scattered(0)
    write_plots(boxes, tmp_path / "new", "_yaw0", "a model")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "calibration_yaw0.png",
        "curves_yaw0.json",
        "precision_recall_yaw0.png",
    ]
    numbers = json.loads((tmp_path / "new" / "curves_yaw0.json").read_text())
    assert numbers["distance"] == 2.0 and numbers["precision_recall"]["bus"] is None
    curve = precision_recall(boxes)["car"]
    assert numbers["precision_recall"]["car"]["precision"] == pytest.approx(curve.precision.tolist())
    assert numbers["precision_recall"]["car"]["recall"] == [i / 100 for i in range(101)]
    assert numbers["calibration"]["car"]["ece"] == pytest.approx(class_calibrations(boxes)["car"].ece)
    assert numbers["calibration"]["all"]["boxes"] == [
        a + b for a, b in zip(numbers["calibration"]["car"]["boxes"], numbers["calibration"]["pedestrian"]["boxes"])
    ]
    assert numbers["calibration"]["edges"] == [i / 10 for i in range(11)]


def coloured(path) -> int:
    """Pixels that are neither white nor grey."""
    picture = cv2.imread(str(path)).astype(int)
    return int((np.ptp(picture, axis=2) > 40).sum())


def test_what_is_found_is_drawn_and_nothing_where_nothing_is(scattered, compare, tmp_path):
    write_plots(scattered(0), tmp_path, "_found", "a model")
    write_plots(compare([], []), tmp_path, "_nothing", "a model")
    for name in ("precision_recall", "calibration"):
        assert coloured(tmp_path / f"{name}_found.png") > 1000
        assert coloured(tmp_path / f"{name}_nothing.png") == 0
