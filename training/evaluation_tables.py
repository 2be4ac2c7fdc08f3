"""Figures of an evaluation as text, for the terminal; ``-`` is what does not apply or is not annotated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nuscenes.eval.detection.constants import DETECTION_NAMES

from bevdistill_ros.training.evaluation import ERRORS, DetectionResult, nanmean
from bevdistill_ros.training.evaluation_ranges import RangeFigures

SHORT_NAMES = {
    "construction_vehicle": "constr",
    "pedestrian": "pedest",
    "motorcycle": "motorc",
    "traffic_cone": "cone",
}
"""Column headings of the longer class names."""


def summary_table(result: DetectionResult) -> str:
    """One evaluation: a row a class, then the means."""
    thresholds = list(next(iter(result.classes.values())).ap)
    header = ["class", "boxes", "AP", *(f"AP@{threshold:g}" for threshold in thresholds), *ERRORS]
    rows = [header]
    for name, metrics in result.classes.items():
        figures = (
            [metrics.mean_ap, *metrics.ap.values()] if metrics.ground_truth else [math.nan] * (1 + len(thresholds))
        )
        figures += [metrics.known_error(key) for key in ERRORS]
        rows.append([name, str(metrics.ground_truth), *map(_cell, figures)])
    present = [result.classes[name] for name in result.present]
    by_threshold = [nanmean([metrics.ap[threshold] for metrics in present]) for threshold in thresholds]
    means = [result.mAP_present, *by_threshold, *result.errors_present.values()]
    rows.append([f"mean of {len(present)} present", str(result.ground_truth), *map(_cell, means)])
    lines = _aligned(rows)
    rule = "-" * len(lines[0])
    present_figures = (
        f"mAP {_cell(result.mAP_present)}  NDS {_cell(result.NDS_present)}  AP at 2 m {_cell(result.ap_2m)}"
    )
    counts = f"{result.ground_truth} boxes annotated and {result.predictions} predicted within range"
    summary = [
        f"classes present: {present_figures}",
        f"all ten classes (official): mAP {_cell(result.mAP)}  NDS {_cell(result.NDS)}",
        f"{result.samples} samples, {counts}",
    ]
    if not result.ground_truth:
        summary.append("note: the benchmark leaves out boxes out of range and those without a LiDAR or radar point")
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *summary])


def range_table(bins: Sequence[RangeFigures]) -> str:
    """AP at 2 m by distance from the ego vehicle: a row a class, a column a bin, with the number of boxes annotated there."""
    rows = [["AP at 2 m by range", *(cell for found in bins for cell in (f"{found.near:g}-{found.far:g} m", "boxes"))]]
    for name in DETECTION_NAMES:
        figures = [(found.ap[name][2.0] if name in found.ap else math.nan, found.ground_truth[name]) for found in bins]
        rows.append([name, *(cell for ap, boxes in figures for cell in (_cell(ap), str(boxes)))])
    means = [(found.ap_2m, sum(found.ground_truth.values())) for found in bins]
    rows.append(["mean of those present", *(cell for ap, boxes in means for cell in (_cell(ap), str(boxes)))])
    lines = _aligned(rows)
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def camera_missing_table(rows: Mapping[str, Mapping[str, float | int]]) -> str:
    """A row a number of cameras gone."""
    cells = [["cameras gone", "choices", "mAP", "NDS"]]
    cells += [[gone, str(row["choices"]), _cell(row["mAP"]), _cell(row["NDS"])] for gone, row in rows.items()]
    lines = _aligned(cells)
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def comparison_table(checkpoints: Sequence[Mapping]) -> str:
    """Several checkpoints: a row each.

    Args:
        checkpoints: entries of the JSON report: ``name``, ``mean`` (None where nothing was scored) and ``complete``.
    """
    classes = [SHORT_NAMES.get(name, name) for name in DETECTION_NAMES]
    cells = [["checkpoint", "mAP", "NDS", *ERRORS, "AP@2", *classes]]
    for entry in checkpoints:
        name, mean = entry["name"] if entry["complete"] else f"{entry['name']} (incomplete)", entry["mean"]
        if mean is None:
            cells.append([entry["name"], "failed", *[""] * (len(cells[0]) - 2)])
            continue
        figures = [mean["mAP"], mean["NDS"], *(mean["errors"][key] for key in ERRORS), mean["ap_2m"]]
        figures += [mean["ap_2m_classes"][class_name] for class_name in DETECTION_NAMES]
        cells.append([name, *(_cell(math.nan if figure is None else figure) for figure in figures)])
    lines = _aligned(cells)
    note = "mAP, NDS and errors over all ten classes (official); AP at 2 m: the mean over the classes present, and each"
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], note])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
