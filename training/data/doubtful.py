"""Boxes that ``bevdistill label`` was not sure of: ROOT/VERSION/doubtful.json, beside nuScenes' tables.

Training takes such a place neither for an object nor for empty ground, as ST3D (Yang et al. 2021) does with pseudo-labels between
two thresholds. The file is a list of objects in the form of nuScenes' detection results: ``sample_token``, ``translation``,
``size`` (width, length, height), ``rotation``, ``detection_name``, ``detection_score``; global frame, at the sample's reference
time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bevdistill_ros.errors import UserError, first_line
from bevdistill_ros.geometry import Boxes, rotation_z, yaw_of
from bevdistill_ros.training.data.nuscenes_tables import rounded, wxyz
from bevdistill_ros.training.data.records import rotation_of

DOUBTFUL = "doubtful.json"


def doubtful_rows(sample_token: str, boxes: Boxes) -> list[dict[str, Any]]:
    """Rows of a sample's boxes, which are in the global frame."""
    return [
        {
            "sample_token": sample_token,
            "translation": rounded(center),
            "size": rounded(size[[1, 0, 2]]),
            "rotation": wxyz(rotation_z(yaw)),
            "detection_name": name,
            "detection_score": round(float(score), 4),
        }
        for center, size, yaw, name, score in zip(boxes.centers, boxes.sizes, boxes.yaws, boxes.names, boxes.scores)
    ]


def read_doubtful(folder: Path) -> list[dict[str, Any]]:
    """Rows of the tables in ``folder``; none where it has no such file.

    Raises:
        UserError: the file is not as it should be.
    """
    path = folder / DOUBTFUL
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_bytes())
        for row in rows:
            numbers = [*row["translation"], *row["size"], *row["rotation"]]
            if len(numbers) != 10 or not np.isfinite(np.array(numbers, float)).all():
                raise ValueError(f"a box of sample {row['sample_token']} is none")
            str(row["detection_name"]), float(row["detection_score"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as boxes of `bevdistill label` ({first_line(error)}): label again"
        ) from None
    return rows


def doubtful_boxes(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Boxes:
    """Boxes of the rows of one sample, in the global frame; those of other classes are left out."""
    rows = [row for row in rows if row["detection_name"] in class_names]
    if not rows:
        return Boxes.empty(class_names)
    sizes = np.array([row["size"] for row in rows], float)[:, [1, 0, 2]]
    return Boxes(
        centers=np.array([row["translation"] for row in rows], float),
        sizes=sizes,
        yaws=np.array([yaw_of(rotation_of(row["rotation"])) for row in rows]),
        velocities=np.full((len(rows), 2), np.nan),
        scores=np.array([row["detection_score"] for row in rows], float),
        labels=np.array([list(class_names).index(row["detection_name"]) for row in rows], float),
        class_names=tuple(class_names),
    )
