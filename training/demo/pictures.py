"""Mosaics of keyframes: the six images whole, and the view from above, with found and true boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.data.nuscenes import NuScenesSamples
from bevdistill_ros.training.demo.figures import KeyframeBoxes
from bevdistill_ros.training.pictures import draw_sample

CELL_WIDTH = 640


def write_mosaic(
    path: Path, samples: NuScenesSamples, index: int, keyframe: KeyframeBoxes, grid: BevGrid, score: float
) -> None:
    """Draw a keyframe of ``samples`` into a PNG file; found boxes from ``score`` on. All its images must be there."""
    found = keyframe.in_base()
    found = Boxes.empty(samples.class_names) if found is None else found[found.scores >= score]
    records = samples.records(index)
    images = np.stack([_read(samples.image_path(records[name])) for name in samples.cameras])
    K = np.stack([samples.camera(records[name]).K for name in samples.cameras])
    picture = draw_sample(replace(keyframe.sample, images=images, K=K), samples.cameras, found, grid, CELL_WIDTH)
    write_atomically(path, cv2.imencode(".png", picture)[1].tobytes())


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise UserError(f"{path}: cannot be read as a picture")
    return image
