"""A student as a graph of tensors: images and what its calibration gives, by name, to what boxes are decoded from.

What a graph takes of the calibration is geometry alone, without weights: whoever runs it needs no network to make its inputs.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bevdistill_ros.config import BevFormerModelConfig, LiftModelConfig, StudentConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.bevformer import BevFormer
from bevdistill_ros.models.cell_views import CellViews, ViewFinder
from bevdistill_ros.models.lift_geometry import LiftGeometry
from bevdistill_ros.models.outputs import CenterOutputs, QueryOutputs
from bevdistill_ros.models.simulated import SimulatedNet
from bevdistill_ros.models.student import Student

IMAGES = "images"
"""Name of the input (N, H, W, 3) uint8 BGR."""

CAMERAS, POINTS, SEEING, SEEN = "cameras", "points", "seeing", "seen"
"""Names of sizes that calibrations change: cameras, points on the grid, images that see cells, cells that an image sees."""


class CalibrationInputs(Protocol):
    """Makes a graph's inputs of a calibration.

    Attributes:
        sizes: by input's name, its changing sizes: by axis, their names.
    """

    sizes: dict[str, dict[int, str]]

    def make(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Inputs by name; arguments as for ``Student.calibrate``, with B = 1."""


class LiftInputs:
    """Of students that lift.

    ``points`` (M,) int64: index among all (camera, row, column, depth bin) of the feature maps of each point that falls onto the
    grid; ``pixels`` (M,) int64: that of its pixel among all (camera, row, column); ``cells`` (M,) int64: its cell, row * columns +
    column; ``looks`` (N, RAY, h, w) float32, where the model has a ray net: see ``LiftGeometry.where_pixels_look``.
    """

    def __init__(self, config: LiftModelConfig) -> None:
        self._geometry = LiftGeometry(config.lift, config.grid).eval()
        self._has_looks = config.lift.ray_channels > 0
        self.sizes: dict[str, dict[int, str]] = {name: {0: POINTS} for name in ("points", "pixels", "cells")}
        if self._has_looks:
            self.sizes["looks"] = {0: CAMERAS}

    def make(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """See ``CalibrationInputs``."""
        arguments = (K, ego_T_cam, mask, self._geometry.feature_size(size))
        plan = self._geometry.plan(*arguments)
        cells = torch.repeat_interleave(torch.arange(len(plan.offsets) - 1), plan.offsets.diff())
        inputs = {"points": plan.points, "pixels": plan.pixels, "cells": cells}
        if self._has_looks:
            inputs["looks"] = self._geometry.where_pixels_look(*arguments)[0]
        return inputs


class ViewInputs:
    """Of BEVFormer: the fields of ``CellViews``, ``images`` as ``seeing``."""

    def __init__(self, config: BevFormerModelConfig) -> None:
        part = config.bevformer
        self._views = ViewFinder(config.grid, part.heights, part.z_min, part.z_max).eval()
        listed = {0: SEEING, 1: SEEN}
        self.sizes = {"seeing": {0: SEEING}, "cells": listed, "shares": listed, "places": listed}

    def make(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """See ``CalibrationInputs``."""
        views = self._views(K, ego_T_cam, mask, size)
        return {"seeing": views.images, "cells": views.cells, "shares": views.shares, "places": views.places}


def calibration_inputs(config: StudentConfig) -> CalibrationInputs:
    """Of the graph of a network of ``config``."""
    return ViewInputs(config) if isinstance(config, BevFormerModelConfig) else LiftInputs(config)


class _Points(NamedTuple):
    """A pool plan of points that are listed with their cells."""

    points: Tensor
    pixels: Tensor
    cells: Tensor
    shape: tuple[int, int, int]


def _pool_points(context: Tensor, depth: Tensor, plan: _Points) -> Tensor:
    """What ``bev_pool`` gives, by a feature of every point: formats of graphs know no ``embedding_bag``."""
    batch, rows, columns = plan.shape
    cells = context.new_zeros(batch * rows * columns, context.shape[1])
    cells = cells.index_add(0, plan.cells, _features_of_points(context, depth, plan))
    return cells.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def _pool_values(context: Tensor, depth: Tensor, plan: _Points) -> Tensor:
    """``_pool_points`` value by value: exported, it adds by ScatterElements in place of ScatterND."""
    batch, rows, columns = plan.shape
    features = _features_of_points(context, depth, plan)
    cells = context.new_zeros(batch * rows * columns, context.shape[1])
    cells = cells.scatter_add(0, plan.cells[:, None].expand_as(features), features)
    return cells.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def _features_of_points(context: Tensor, depth: Tensor, plan: _Points) -> Tensor:
    weights = depth.flatten().index_select(0, plan.points)
    return context.index_select(0, plan.pixels) * weights[:, None]


class Graph(nn.Module):
    """A copy of a student that takes images (N, H, W, 3) and what ``CalibrationInputs`` makes; without a batch.

    It gives, in the order of ``outputs``: of a centre head ``heatmap`` (classes, Y, X) logits and ``codes`` (groups, BOX_CODE,
    Y, X); of a query head ``logits`` (queries, classes) and ``codes`` (queries, BOX_CODE).

    Args:
        by_elements: lifts add their points value by value, with ScatterElements, which TensorRT knows; it is slower elsewhere.

    Raises:
        UserError: ``by_elements`` of a network that does not lift.
    """

    def __init__(self, network: Student, by_elements: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        if isinstance(self.network, BevFormer):
            if by_elements:
                raise UserError(f"model '{network.config.name}': only models that lift have a form for TensorRT")
            return
        pool = _pool_values if by_elements else _pool_points
        self.network.lift.pool = pool
        if isinstance(self.network, SimulatedNet):
            self.network.simulated_lift.pool = pool

    def forward(self, images: Tensor, calibration: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        found = self.network.found(self.network.run(images[None], self._calibration(calibration)))
        if isinstance(found, CenterOutputs):
            return found.heatmap[0], found.codes[0]
        return found.logits[-1, 0], found.codes[-1, 0]

    def _calibration(self, inputs: dict[str, Tensor]) -> NamedTuple:
        network, grid = self.network, self.network.config.grid
        if isinstance(network, BevFormer):
            return CellViews(inputs["seeing"], inputs["cells"], inputs["shares"], inputs["places"])
        plan = _Points(inputs["points"], inputs["pixels"], inputs["cells"], (1, grid.rows, grid.columns))
        return network.calibration(plan, inputs["looks"][None] if "looks" in inputs else None)


def outputs(config: StudentConfig) -> tuple[str, str]:
    """Names of what a graph gives."""
    return ("logits", "codes") if config.head is None else ("heatmap", "codes")


def found(config: StudentConfig, first: Tensor, codes: Tensor) -> CenterOutputs | QueryOutputs:
    """What a graph gave, as a network gives it."""
    if config.head is None:
        return QueryOutputs(first[None, None], codes[None, None])
    return CenterOutputs(first[None], codes[None])
