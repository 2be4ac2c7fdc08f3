"""BEV pooling as Triton kernels: the sums of ``bev_pool`` for CUDA, forward and backward, without atomics.

Each result is summed by one program, in the plan's order, in float32: the same input gives the same bits again. Neither the
features of the points nor their gradients are held in memory.

How far it is tested: Triton's interpreter runs it on the CPU against ``embedding_bag``. No GPU has run it yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Tile(NamedTuple):
    """Block sizes of the kernels; powers of two. They change the order of the sums, and so the last bits.

    Attributes:
        points: entries of a cell that the forward reads at once.
        channels: channels that one program of the forward sums.
        warps: of a program of the forward.
        gradient_values: what the backward reads at once, points times channels; it has all channels in one program.
        gradient_warps: of a program of the backward.
    """

    points: int = 32
    channels: int = 32
    warps: int = 2
    gradient_values: int = 4096
    gradient_warps: int = 4


TILE = Tile()
"""Chosen by thought, not by measurement; ``benchmark/pool.py --device cuda --tiles`` measures others."""


@triton.jit
def _sum_cells(
    context,
    context_stride,
    depth,
    points,
    pixels,
    offsets,
    pooled,
    channels,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program a cell and block of channels: the weighted sum of the context of the cell's points."""
    cell = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin = tl.load(offsets + cell)
    end = tl.load(offsets + cell + 1)
    total = tl.zeros((POINTS, CHANNELS), dtype=tl.float32)
    for start in range(begin, end, POINTS):
        entry = start + tl.arange(0, POINTS)
        there = entry < end
        pixel = tl.load(pixels + entry, mask=there, other=0).to(tl.int64)
        point = tl.load(points + entry, mask=there, other=0).to(tl.int64)
        weight = tl.load(depth + point, mask=there, other=0.0).to(tl.float32)
        features = tl.load(
            context + pixel[:, None] * context_stride + channel[None, :],
            mask=there[:, None] & (channel < channels)[None, :],
            other=0.0,
        )
        total += weight[:, None] * features.to(tl.float32)
    tl.store(pooled + cell * channels + channel, tl.sum(total, axis=0), mask=channel < channels)


@triton.jit
def _sum_pixels(
    of_cells,
    context,
    context_stride,
    depth,
    points,
    cells,
    offsets,
    of_context,
    of_depth,
    channels,
    CONTEXT: tl.constexpr,
    DEPTH: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program a pixel: the gradient of its context, and that of the depths of its points, which are no other pixel's."""
    pixel = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    begin = tl.load(offsets + pixel)
    end = tl.load(offsets + pixel + 1)
    features = tl.load(context + pixel * context_stride + channel, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((POINTS, CHANNELS), dtype=tl.float32)
    for start in range(begin, end, POINTS):
        entry = start + tl.arange(0, POINTS)
        there = entry < end
        point = tl.load(points + entry, mask=there, other=0).to(tl.int64)
        cell = tl.load(cells + entry, mask=there, other=0).to(tl.int64)
        of_cell = tl.load(
            of_cells + cell[:, None] * channels + channel[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        if DEPTH:
            tl.store(of_depth + point, tl.sum(of_cell * features[None, :], axis=1), mask=there)
        if CONTEXT:
            weight = tl.load(depth + point, mask=there, other=0.0).to(tl.float32)
            total += weight[:, None] * of_cell
    if CONTEXT:
        tl.store(of_context + pixel * channels + channel, tl.sum(total, axis=0), mask=inside)


@torch.library.custom_op(
    "bevdistill::pool",
    mutates_args=(),
    schema="(Tensor context, Tensor depth, Tensor points, Tensor pixels, Tensor offsets, Tensor points_by_pixel, "
    "Tensor cells_by_pixel, int cells, int[] tile) -> Tensor",
)
def _pool(
    context: Tensor,
    depth: Tensor,
    points: Tensor,
    pixels: Tensor,
    offsets: Tensor,
    points_by_pixel: Tensor,
    cells_by_pixel: Tensor,
    cells: int,
    tile: list[int],
) -> Tensor:
    channels, sizes = context.shape[1], Tile(*tile)
    context = _rows(context)
    pooled = context.new_empty((cells, channels), dtype=torch.float32)
    if pooled.numel():
        with torch.cuda.device_of(context):  # Triton launches on the current device
            _sum_cells[(cells, triton.cdiv(channels, sizes.channels))](
                context,
                context.stride(0),
                depth.contiguous(),
                points,
                pixels,
                offsets,
                pooled,
                channels,
                POINTS=sizes.points,
                CHANNELS=sizes.channels,
                num_warps=sizes.warps,
            )
    return pooled


@_pool.register_fake
def _(context, depth, points, pixels, offsets, points_by_pixel, cells_by_pixel, cells, tile):
    return context.new_empty((cells, context.shape[1]), dtype=torch.float32)


@torch.library.custom_op(
    "bevdistill::pool_gradients",
    mutates_args=(),
    schema="(Tensor of_cells, Tensor context, Tensor depth, Tensor points, Tensor cells, bool wants_context, "
    "bool wants_depth, int[] tile) -> (Tensor, Tensor)",
)
def _pool_gradients(
    of_cells: Tensor,
    context: Tensor,
    depth: Tensor,
    points: Tensor,
    cells: Tensor,
    wants_context: bool,
    wants_depth: bool,
    tile: list[int],
) -> tuple[Tensor, Tensor]:
    """Gradients of context and depth; an empty one where it is not wanted."""
    of_context, of_depth = _empty_gradients(context, depth, wants_context, wants_depth)
    of_depth.zero_()  # points off the grid are visited by nobody
    (pixels, channels), (_, bins), sizes = context.shape, depth.shape, Tile(*tile)
    if not context.numel():
        return of_context, of_depth
    starts = torch.arange(0, (pixels + 1) * bins, bins, device=points.device)
    context = _rows(context)
    block = triton.next_power_of_2(channels)
    with torch.cuda.device_of(context):
        _sum_pixels[(pixels,)](
            of_cells.contiguous(),
            context,
            context.stride(0),
            depth.contiguous(),
            points,
            cells,
            torch.searchsorted(points, starts, out_int32=True),
            of_context,
            of_depth,
            channels,
            CONTEXT=wants_context,
            DEPTH=wants_depth,
            POINTS=max(sizes.gradient_values // block, 1),
            CHANNELS=block,
            num_warps=sizes.gradient_warps,
        )
    return of_context, of_depth


@_pool_gradients.register_fake
def _(of_cells, context, depth, points, cells, wants_context, wants_depth, tile):
    return _empty_gradients(context, depth, wants_context, wants_depth)


def _empty_gradients(context: Tensor, depth: Tensor, wants_context: bool, wants_depth: bool) -> tuple[Tensor, Tensor]:
    """Memory for the gradients: of the inputs' kind, row by row."""
    return tuple(
        value.new_empty(value.shape if wanted else (0,))
        for value, wanted in ((context, wants_context), (depth, wants_depth))
    )


def _rows(values: Tensor) -> Tensor:
    """With the channels of a row side by side; rows may be apart, as in a slice of a channels_last tensor."""
    return values if values.stride(1) == 1 else values.contiguous()


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    context, depth, _, _, _, points_by_pixel, cells_by_pixel, _, tile = inputs
    ctx.save_for_backward(context, depth, points_by_pixel, cells_by_pixel)
    ctx.tile = tile


def _backward(ctx: FunctionCtx, of_cells: Tensor) -> tuple[Tensor | None, ...]:
    wants_context, wants_depth = ctx.needs_input_grad[:2]
    of_context, of_depth = _pool_gradients(of_cells, *ctx.saved_tensors, wants_context, wants_depth, ctx.tile)
    return of_context if wants_context else None, of_depth if wants_depth else None, *[None] * 7


_pool.register_autograd(_backward, setup_context=_remember)


def pool_cells(
    context: Tensor,
    depth: Tensor,
    points: Tensor,
    pixels: Tensor,
    offsets: Tensor,
    points_by_pixel: Tensor,
    cells_by_pixel: Tensor,
    cells: int,
    tile: Tile = TILE,
) -> Tensor:
    """(cells, C) float32 sums; differentiable once in ``context`` and ``depth``; also under autocast and torch.compile.

    Args:
        context: (pixels, C) float32, float16 or bfloat16, whichever strides.
        depth: (pixels, D) likewise.
        points, pixels, offsets, points_by_pixel, cells_by_pixel: see ``PoolPlan``. Points after ``offsets[cells]`` are not read.
    """
    return _pool(context, depth, points, pixels, offsets, points_by_pixel, cells_by_pixel, cells, list(tile))
