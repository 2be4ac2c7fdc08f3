"""BEV pooling: the sum of depth-weighted pixel features over the points that fall into each BEV cell.

``embedding_bag`` does it without materialising the points' features: the table is the pixels' context vectors, a bag is a BEV
cell, its entries are the points inside, their weights the depth probabilities. Exact, differentiable in both, CPU and CUDA.
The gradient of the context vectors is a bag again, with pixels and cells changing places.

On CUDA, kernels of this package's own can do the same, see ``bev_pool_triton`` and ``TRITON_ON_CUDA``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from bevdistill_ros.models.own_kernels import triton_can_run

TRITON_ON_CUDA = False
"""Whether ``bev_pool`` uses the Triton kernels where it can and is not told. Not before a GPU has run and timed them: until then
Triton's interpreter alone tests them."""

PADDING_BAG = 64
"""Entries that are padding are summed, for nothing, in bags of this size: one bag of all of them would be summed by one thread."""


@dataclass(frozen=True)
class PoolPlan:
    """Which points fall into which cell; depends on the calibration only.

    How many points fall onto the grid depends on the calibration, too, and so do the tensors' sizes. What was recorded for one
    calibration, a CUDA graph for instance, and is to run under another one, needs a plan that is ``padded``.

    Attributes:
        points: (M,) index of each kept point among all (batch, camera, row, column, depth bin), sorted by cell.
        pixels: (M,) index of its pixel among all (batch, camera, row, column).
        offsets: (B * rows * columns + 1,) where each cell's points start, and where the last one's end. A padded plan has more,
            see ``padded``.
        points_by_pixel: (M,) the kept points in their own order, which is that of their pixels, for the gradient.
        cells_by_pixel: (M,) the cell, among all (batch, row, column), of each of ``points_by_pixel``.
        shape: (B, rows, columns).
    """

    points: Tensor
    pixels: Tensor
    offsets: Tensor
    points_by_pixel: Tensor
    cells_by_pixel: Tensor
    shape: tuple[int, int, int]

    @property
    def cells(self) -> int:
        """B * rows * columns."""
        batch, rows, columns = self.shape
        return batch * rows * columns

    @property
    def is_padded(self) -> bool:
        """Whether this is a plan of ``padded``."""
        return len(self.offsets) > self.cells + 1

    def padded(self, capacity: int) -> PoolPlan:
        """The same plan in tensors whose sizes depend on ``capacity`` and ``shape`` alone; for inference only, without gradients.

        Behind the points there is padding, entries of pixel 0, and behind the cells' offsets those of further bags that hold it. It
        pools the same values, bit for bit.

        Args:
            capacity: number of points to make room for: as many as there are, B * P * D, are always enough.
        """
        points = len(self.points)
        if self.is_padded or capacity < max(points, 1):
            raise ValueError(
                f"capacity {capacity} must be positive and hold the {points} points of a plan without padding"
            )
        bags = torch.arange(1, -(-capacity // PADDING_BAG) + 1, device=self.offsets.device)
        ends = (self.offsets[-1] + PADDING_BAG * bags).clamp(max=capacity)
        return replace(
            self,
            points=F.pad(self.points, (0, capacity - points)),
            pixels=F.pad(self.pixels, (0, capacity - points)),
            offsets=torch.cat([self.offsets, ends.to(self.offsets.dtype)]),
            points_by_pixel=self.points_by_pixel[:0],
            cells_by_pixel=self.cells_by_pixel[:0],
        )

    def copy_(self, other: PoolPlan) -> None:
        """Become ``other``, a padded plan of the same capacity, in the same memory."""
        if not (self.is_padded and other.is_padded) or (self.shape, len(self.points)) != (
            other.shape,
            len(other.points),
        ):
            raise ValueError("only padded plans of the same shape and capacity can be copied onto one another")
        for field in fields(self):
            if field.name != "shape":
                getattr(self, field.name).copy_(getattr(other, field.name))


def make_pool_plan(x: Tensor, y: Tensor, valid: Tensor, rows: int, columns: int) -> PoolPlan:
    """Sort points by BEV cell.

    Args:
        x, y: (B, P, D) continuous cell coordinates (column, row) of the P pixels' points at D depths; any value, NaN too, where
            not valid.
        valid: (B, P, D) points that lie on the grid and belong to a camera that is present.
    """
    batch, pixels, bins = valid.shape
    by_pixel = valid.flatten().nonzero()[:, 0]
    # Only valid points are cast to integers.
    column, row = (c.flatten().index_select(0, by_pixel).int() for c in (x, y))
    if batch > 1:
        row += (by_pixel // (pixels * bins)).int() * rows
    cells_by_pixel = row.mul_(columns).add_(column)
    cells = batch * rows * columns
    # A stable order makes the sums, and so the network, reproducible. 16 bits sort faster than 32, and those than 64.
    keys = cells_by_pixel.short() if cells <= torch.iinfo(torch.short).max else cells_by_pixel
    points = by_pixel.index_select(0, torch.sort(keys, stable=True)[1])
    offsets = F.pad(torch.bincount(cells_by_pixel, minlength=cells).cumsum(0), (1, 0))
    return PoolPlan(points, points // bins, offsets, by_pixel, cells_by_pixel, (batch, rows, columns))


def bev_pool(context: Tensor, depth: Tensor, plan: PoolPlan, use_triton: bool | None = None) -> Tensor:
    """Pool onto the grid.

    Args:
        context: (B * N * H * W, C) features of the pixels.
        depth: (B * N * H * W, D) probability of each depth bin.
        use_triton: the kernels of ``bev_pool_triton`` or ``embedding_bag``; None: the kernels where ``TRITON_ON_CUDA`` says so and
            ``triton_can_run``.

    Returns:
        (B, C, rows, columns), float32 at least.
    """
    batch, rows, columns = plan.shape
    wants_gradient = torch.is_grad_enabled() and (context.requires_grad or depth.requires_grad)
    if wants_gradient and plan.is_padded:
        raise ValueError("a padded plan is for inference: it has no gradients")
    if use_triton is None:
        use_triton = TRITON_ON_CUDA and triton_can_run(context, depth)
    pooled = _pool_by_triton(context, depth, plan) if use_triton else _pool_by_bags(context, depth, plan)
    return pooled.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def _pool_by_triton(context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
    from bevdistill_ros.models.bev_pool_triton import pool_cells  # here: not everybody has triton

    return pool_cells(
        context,
        depth,
        plan.points,
        plan.pixels,
        plan.offsets,
        plan.points_by_pixel,
        plan.cells_by_pixel,
        plan.cells,
    )


def _pool_by_bags(context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
    # In float32 under autocast, too: a cell sums hundreds of points.
    context = _at_least_float32(context)
    weights = _weights(depth, plan.points)
    if torch.is_grad_enabled() and context.requires_grad:
        pooled = _sum_bags(context.detach(), plan.pixels, plan.offsets, weights)
        return _ContextGradient.apply(pooled, context, depth.detach(), plan)
    return _sum_bags(context, plan.pixels, plan.offsets, weights)[: plan.cells]


def _weights(depth: Tensor, points: Tensor) -> Tensor:
    return _at_least_float32(depth.flatten().index_select(0, points))


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _sum_bags(table: Tensor, entries: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """(bags, C) weighted sums of the rows of ``table`` (n, C) that each bag's entries name."""
    return F.embedding_bag(entries, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


class _ContextGradient(torch.autograd.Function):
    """Passes the pooled cells on, and their gradient back to them and to the context vectors, which they were pooled from detached.

    Autograd's own gradient of a bag's table adds point by point, which is slow. That of the bag's weights is not: it stays.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, pooled: Tensor, context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
        ctx.save_for_backward(depth)
        ctx.plan = plan
        return pooled.view_as(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, of_cells: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (depth,) = ctx.saved_tensors
        pixels, bins = depth.shape
        points, cells = ctx.plan.points_by_pixel, ctx.plan.cells_by_pixel
        starts = torch.arange(0, (pixels + 1) * bins, bins, device=points.device)
        offsets = torch.searchsorted(points, starts, out_int32=True)  # embedding_bag wants the type of ``cells``
        of_cells = of_cells.contiguous()
        return of_cells, _sum_bags(of_cells, cells, offsets, _weights(depth, points)), None, None
