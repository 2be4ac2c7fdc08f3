"""Curves of an evaluation, drawn: PNG files with the same numbers in JSON beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nuscenes.eval.detection.constants import DETECTION_NAMES

from bevdistill_ros.files import write_atomically
from bevdistill_ros.training.evaluation import RIGHT_WITHIN, ComparedBoxes
from bevdistill_ros.training.evaluation_calibration import BINS, Calibration, class_calibrations, pooled
from bevdistill_ros.training.evaluation_curves import PrecisionRecall, precision_recall

ALL = "all classes"

COLORS = dict(zip(DETECTION_NAMES, [f"C{number}" for number in range(10)], strict=True))
"""matplotlib's ten default colours, one a class."""


def write_plots(boxes: ComparedBoxes, folder: Path, suffix: str, title: str) -> None:
    """Write ``precision_recall{suffix}.png``, ``calibration{suffix}.png`` and ``curves{suffix}.json`` into a folder."""
    curves = precision_recall(boxes)
    calibrations = class_calibrations(boxes)
    calibrations = {ALL: pooled(calibrations.values()), **calibrations}
    numbers = {
        "distance": RIGHT_WITHIN,
        "precision_recall": {name: curves[name].to_json() if name in curves else None for name in DETECTION_NAMES},
        "calibration": {
            "edges": np.linspace(0, 1, BINS + 1).round(6).tolist(),
            **{"all" if name == ALL else name: found.to_json() for name, found in calibrations.items()},
        },
    }
    write_atomically(folder / f"curves{suffix}.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / f"precision_recall{suffix}.png", _png(draw_precision_recall(curves, title)))
    write_atomically(folder / f"calibration{suffix}.png", _png(draw_calibration(calibrations, title)))


def draw_precision_recall(curves: Mapping[str, PrecisionRecall], title: str) -> Figure:
    """A line a class, up to the largest recall it reaches; the legend has the average precisions."""
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        reached = curve.recall <= curve.max_recall
        label = f"{name}  {curve.ap:.3f}"
        axes.plot(curve.recall[reached], curve.precision[reached], color=COLORS[name], linewidth=1.8, label=label)
    _unit_square(axes)
    axes.set(xlabel="recall", ylabel="precision")
    axes.set_title(f"{title}\nprecision and recall at {RIGHT_WITHIN:g} m", fontsize=11)
    if curves:
        axes.legend(title=f"AP at {RIGHT_WITHIN:g} m", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def draw_calibration(calibrations: Mapping[str, Calibration], title: str) -> Figure:
    """A panel each: precision by bin of the score as bars, the bin's mean score and precision as a dot, and the diagonal on
    which a calibrated detector lies."""
    columns = 4
    rows = -(-len(calibrations) // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, found) in zip(panels, calibrations.items()):
        _draw_reliability(axes, name, found)
    for axes in panels[len(calibrations) :]:
        axes.set_visible(False)
    figure.supxlabel("score")
    figure.supylabel(f"precision at {RIGHT_WITHIN:g} m")
    figure.suptitle(
        f"{title}\ncalibration: share of right boxes by score; bars: bins, dots: their mean score", fontsize=11
    )
    return figure


def _draw_reliability(axes: Axes, name: str, found: Calibration) -> None:
    _unit_square(axes)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    boxes = int(found.boxes.sum())
    text = f"ECE {found.ece:.3f}, {boxes} boxes" if boxes else "no boxes"
    axes.set_title(f"{name}\n{text}", fontsize=9)
    filled = found.boxes > 0
    color = COLORS.get(name, "0.25")
    centers = (np.arange(BINS) + 0.5) / BINS
    axes.bar(centers[filled], found.precision[filled], 0.92 / BINS, color=color, alpha=0.35)
    axes.plot(found.score[filled], found.precision[filled], "o", color=color, markersize=4)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.grid(alpha=0.3)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)  # no window, whatever the machine has
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
