"""Where objects are on the grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.training.distill.config import Merge
from bevdistill_ros.training.distill.masks import box_areas, foreground_masks

GRID = BevGrid(-8.0, 8.0, -4.0, 4.0, 0.8)
CPU = torch.device("cpu")


def boxes_at(*rows: tuple[int, float, float, float, float, float]) -> Boxes:
    """Boxes of (label, x, y, length, width, yaw)."""
    values = np.array(rows, dtype=float).reshape(-1, 6)
    return Boxes(
        centers=np.column_stack([values[:, 1:3], np.zeros(len(rows))]),
        sizes=np.column_stack([values[:, 3:5], np.ones(len(rows))]),
        yaws=values[:, 5],
        velocities=np.zeros((len(rows), 2)),
        scores=np.ones(len(rows)),
        labels=values[:, 0],
        class_names=CLASS_NAMES,
    )


def test_a_car_marks_its_cell_and_those_about_it() -> None:
    """Radius 1 cell, sigma 1/2: exp(-2) beside, exp(-4) at the corners; column by x, row by y."""
    (mask,) = foreground_masks([boxes_at((0, 2.1, -1.0, 4.6, 1.9, 0.3))], GRID, 0.1, 1, Merge.MAX, CPU)
    expected = torch.zeros(1, GRID.rows, GRID.columns)
    column, row = 12, 3  # (2.1 + 8) / 0.8 = 12.6, (-1 + 4) / 0.8 = 3.75
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            expected[0, row + dy, column + dx] = math.exp(-2 * (dx * dx + dy * dy))
    torch.testing.assert_close(mask, expected)


def test_a_bus_marks_more() -> None:
    """Radius 2 cells, sigma 5/6."""
    (mask,) = foreground_masks([boxes_at((2, 0.4, 0.4, 11.0, 2.9, 0.0))], GRID, 0.1, 1, Merge.MAX, CPU)
    assert int((mask > 0).sum()) == 25
    assert float(mask[0, 5, 12]) == pytest.approx(math.exp(-4 / (2 * (5 / 6) ** 2)))


@pytest.mark.parametrize(("merge", "expected"), [(Merge.MAX, 1.0), (Merge.SUM, 2.0)])
def test_classes_that_meet(merge: Merge, expected: float) -> None:
    """Two classes in a cell add up or not; two boxes of one class never do."""
    two_classes = boxes_at((0, 1, 1, 4, 2, 0), (5, 1, 1, 0.5, 0.5, 0))
    one_class = boxes_at((0, 1, 1, 4, 2, 0), (0, 1, 1, 4, 2, 0))
    masks = foreground_masks([two_classes, one_class, Boxes.empty(CLASS_NAMES)], GRID, 0.1, 1, merge, CPU)
    assert masks.shape == (3, 1, GRID.rows, GRID.columns)
    assert masks.amax(dim=(1, 2, 3)).tolist() == [expected, 1.0, 0.0]


def test_areas_are_those_of_the_turned_boxes() -> None:
    grid = BevGrid(-8.0, 8.0, -8.0, 8.0, 0.1)
    areas = box_areas(boxes_at((0, 1.0, -2.0, 4.0, 2.0, 0.7), (0, 3.0, 3.0, 1.0, 5.0, 0.0)), grid, CPU)
    assert (areas.sum(dim=(1, 2)) * 0.01).tolist() == pytest.approx([8.0, 5.0], rel=0.02)
    row, column = areas[1].nonzero().float().mean(dim=0).tolist()
    assert grid.to_meters(np.array([column + 0.5, row + 0.5])) == pytest.approx([3.0, 3.0])
    # The first one's nose is along its yaw, and not across.
    for direction, inside in ((0.7, True), (0.7 + math.pi / 2, False)):
        x, y = 1.0 + 1.8 * math.cos(direction), -2.0 + 1.8 * math.sin(direction)
        column, row = np.floor(grid.to_cells(np.array([x, y]))).astype(int)
        assert bool(areas[0, row, column]) is inside


def test_a_box_smaller_than_a_cell_has_its_cell_and_one_off_the_grid_none() -> None:
    areas = box_areas(boxes_at((5, 1.0, 1.0, 0.1, 0.1, 0.0), (5, 9.0, 0.0, 4.0, 4.0, 0.0)), GRID, CPU)
    assert areas.shape == (1, GRID.rows, GRID.columns)
    assert areas.nonzero().tolist() == [[0, 6, 11]]
    assert box_areas(Boxes.empty(CLASS_NAMES), GRID, CPU).shape == (0, GRID.rows, GRID.columns)
