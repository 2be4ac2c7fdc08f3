"""Decoding of the centre head, on maps drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.config import CenterHeadConfig, SuppressionConfig
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import BOX_CODE
from bevdistill_ros.models.center_head import decode, suppress
from bevdistill_ros.models.outputs import CenterOutputs

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.5)
CLASSES = ("car", "barrier")
CONFIG = CenterHeadConfig(
    groups=(("car",), ("barrier",)),
    suppression={"car": SuppressionConfig(kernel=3, radius=1.5), "barrier": SuppressionConfig(kernel=1, radius=0.35)},
    max_boxes=50,
)


def empty_maps() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 2, GRID.rows, GRID.columns), -20.0), torch.zeros(1, 2, BOX_CODE, GRID.rows, GRID.columns)


def test_a_box_by_hand() -> None:
    heatmap, codes = empty_maps()
    heatmap[0, 0, 3, 10] = (
        0.0  # probability 0.5 at row 3, column 10: the cell's centre is at x = -8 + 10.5 / 2, y = -4 + 3.5 / 2
    )
    code = [0.2, -0.4, 0.7, math.log(4), math.log(2), math.log(1.5), math.sin(1.0), math.cos(1.0), 3.0, -2.0]
    codes[0, 0, :, 3, 10] = torch.tensor(code)
    (boxes,) = decode(CenterOutputs(heatmap, codes), GRID, CLASSES, CONFIG, min_score=0.1)
    assert boxes.names == ["car"] and boxes.scores == pytest.approx([0.5])
    assert np.allclose(boxes.centers, [[-2.75 + 0.1, -2.25 - 0.2, 0.7]]) and np.allclose(boxes.sizes, [[4, 2, 1.5]])
    assert boxes.yaws == pytest.approx([1.0]) and np.allclose(boxes.velocities, [[3, -2]])


def test_adjacent_barriers_stay_and_adjacent_car_peaks_merge() -> None:
    heatmap, codes = empty_maps()
    for label in (0, 1):
        heatmap[0, label, 8, 20], heatmap[0, label, 8, 21] = 2.0, 1.0  # neighbours, 0.5 m apart
    (boxes,) = decode(CenterOutputs(heatmap, codes), GRID, CLASSES, CONFIG, min_score=0.1)
    assert sorted(boxes.names) == ["barrier", "barrier", "car"]


def test_cells_that_repeat_one_barrier_merge() -> None:
    heatmap, codes = empty_maps()
    heatmap[0, 1, 8, 20], heatmap[0, 1, 8, 21] = 2.0, 1.0
    codes[0, 1, 0, 8, 21] = -0.9  # the second cell points back to the first one's barrier
    (boxes,) = decode(CenterOutputs(heatmap, codes), GRID, CLASSES, CONFIG, min_score=0.1)
    assert len(boxes) == 1 and boxes.scores[0] == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_suppression_is_within_a_class_and_best_first() -> None:
    boxes = Boxes(
        centers=[[0, 0, 0], [1, 0, 0], [1.2, 0, 0], [0.1, 0, 0]],
        sizes=np.ones((4, 3)),
        yaws=np.zeros(4),
        velocities=np.zeros((4, 2)),
        scores=[0.9, 0.8, 0.7, 0.6],
        labels=[0, 0, 0, 1],
        class_names=CLASSES,
    )
    assert suppress(boxes, np.array([1.1, 0.3]), 50).tolist() == [
        0,
        2,
        3,
    ]  # the second falls to the first, so it cannot fell the third
    assert suppress(boxes, np.array([0.1, 0.3]), 2).tolist() == [0, 1]


def test_empty_maps_give_no_boxes() -> None:
    (boxes,) = decode(CenterOutputs(*empty_maps()), GRID, CLASSES, CONFIG, min_score=0.1)
    assert len(boxes) == 0 and boxes.class_names == CLASSES


def test_batches_are_decoded_apart() -> None:
    heatmap, codes = (torch.cat([a, b]) for a, b in zip(empty_maps(), empty_maps(), strict=True))
    heatmap[1, 0, 3, 10] = 3.0
    first, second = decode(CenterOutputs(heatmap, codes), GRID, CLASSES, CONFIG, min_score=0.1)
    assert len(first) == 0 and len(second) == 1
