"""What a demo leaves in summary.json (docs/demo.md describes it), and shows at its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bevdistill_ros.hardware import hardware
from bevdistill_ros.training.demo import figures
from bevdistill_ros.training.demo.figures import KeyframeBoxes
from bevdistill_ros.training.demo.records import DetectedSet, SetStatus
from bevdistill_ros.training.evaluation import DetectionResult


def summarise(
    frames: int,
    sets: Sequence[DetectedSet],
    statuses: Sequence[SetStatus],
    keyframes: Sequence[KeyframeBoxes],
    result: DetectionResult,
    score: float,
) -> dict[str, Any]:
    """The figures.

    Args:
        frames: of the reference camera in the bag.
        sets, statuses: what was received.
        keyframes: what was found of each.
        result: how right that was.
        score: boxes from it on are counted.
    """
    return {
        "frames": frames,
        **figures.counts(sets, statuses, score),
        "score": score,
        "latency_ms": figures.latencies(statuses),
        "ap_2m": figures.average_precisions(result),
        "mAP": round(result.mAP, 4),
        "NDS": round(result.NDS, 4),
        "keyframes": len(keyframes),
        "keyframes_with_set": sum(keyframe.boxes is not None for keyframe in keyframes),
    }


def circumstances(name: str, model: Path, player: Path) -> dict[str, Any]:
    """What the figures hang on.

    Args:
        name: of the model, as the user gave it.
        model: its file.
        player: the player's summary.
    """
    return {
        "model": {"name": name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
        "player_max_late_ms": round(1e3 * json.loads(player.read_text())["max_late_s"], 1),
        "hardware": hardware(),
    }


def table(summary: dict[str, Any]) -> str:
    """The figures for people."""
    received = f"{summary['sets']} sets of {summary['frames']} frames, {summary['partial_sets']} of them partial"
    rows = [f"{received}; {summary['detections']} boxes with a score of {summary['score']:g} or more", ""]
    rows.append(f"{'latency (ms)':<24}{'p50':>8}{'p99':>8}")
    rows += [f"  {name:<22}{value['p50']:>8.1f}{value['p99']:>8.1f}" for name, value in summary["latency_ms"].items()]
    rows += ["", f"{'average precision':<24}{'at 2 m':>8}"]
    rows += [f"  {name:<22}{'-' if ap is None else f'{ap:.3f}':>8}" for name, ap in summary["ap_2m"].items()]
    lost = summary["keyframes"] - summary["keyframes_with_set"]
    if lost:
        rows += [
            "",
            f"note: no boxes came of {lost} of the {summary['keyframes']} keyframes, which count as nothing found.",
        ]
    if lost and summary["superseded_sets"]:
        rows.append("The detector was slower than the cameras: a smaller --rate gives it more time.")
    return "\n".join(rows)
