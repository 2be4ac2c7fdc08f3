"""Multi-scale deformable attention's sampling as Triton kernels, forward and backward, without atomics.

Forward: one program reads all places of one head of a query. Backward: one program a head of a query for the gradients of its
places and weights, then one a cell and head for the maps': places are sorted by the cell to their upper left, so that a cell
finds in four runs what has read it. All sum in float32, always in the same order: the same input gives the same bits again.

How far it is tested: Triton's interpreter runs it on the CPU against ``grid_sample``. No GPU has run it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

WARPS = 1
"""Of a program. Chosen by thought, not by measurement."""

BLOCK = 8
"""Places that have read a cell, taken at once."""


@triton.jit
def _places(locations, place, there, h, w):
    """Columns and rows of the cells to the upper left of places, and how far the places are from them, 0 to 1.

    Places far outside, and those that are no numbers, must not overflow an integer: they become two cells outside, where no corner
    is on the map.
    """
    x = tl.load(locations + 2 * place, mask=there, other=0.0).to(tl.float32) * w - 0.5
    y = tl.load(locations + 2 * place + 1, mask=there, other=0.0).to(tl.float32) * h - 0.5
    x = tl.where((x > -2) & (x < w + 1), x, -2.0)
    y = tl.where((y > -2) & (y < h + 1), y, -2.0)
    left = tl.floor(x)
    upper = tl.floor(y)
    return left.to(tl.int32), upper.to(tl.int32), x - left, y - upper


@triton.jit
def _map_of(level, there):
    """Height and width of maps, their first cell, and the first were each map larger by a border; see ``_numbers``."""
    h = tl.load(level, mask=there, other=1)
    w = tl.load(level + 1, mask=there, other=1)
    first = tl.load(level + 2, mask=there, other=0)
    return h, w, first, tl.load(level + 3, mask=there, other=0)


@triton.jit
def _rows(table, row, there, channel, width):
    """Rows of a table of ``width`` columns, in float32; zeros for those that are not there."""
    places = table + (row * width)[:, None] + channel[None, :]
    return tl.load(places, mask=there[:, None] & (channel < width)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _sample_head(
    value,
    levels,
    locations,
    weights,
    sampled,
    queries,
    cells,
    heads,
    width,
    points,
    entries,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    sample = query // queries
    channel = tl.arange(0, WIDTH)
    entry = tl.arange(0, ENTRIES)
    there = entry < entries
    h, w, first, _ = _map_of(levels + 4 * (entry // points), there)
    place = (query * heads + head) * entries + entry
    left, upper, right_share, lower_share = _places(locations, place, there, h, w)
    weight = tl.load(weights + place, mask=there, other=0.0).to(tl.float32)
    total = tl.zeros((ENTRIES, WIDTH), dtype=tl.float32)
    for corner in tl.static_range(4):
        column = left + corner % 2
        row = upper + corner // 2
        share = weight
        share *= right_share if corner % 2 == 1 else 1 - right_share
        share *= lower_share if corner // 2 == 1 else 1 - lower_share
        cell = sample * cells + first + row * w + column
        read = there & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        held = _rows(value, cell * heads + head, read, channel, width)
        total += share[:, None] * held
    tl.store(sampled + (query * heads + head) * width + channel, tl.sum(total, axis=0), mask=channel < width)


@triton.jit
def _gradients_of_places(
    of_sampled,
    value,
    levels,
    locations,
    weights,
    of_locations,
    of_weights,
    runs,
    queries,
    cells,
    bordered,
    heads,
    width,
    points,
    entries,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Also into which run each place belongs: one a sample, head and cell of a map with a border above it and on its left."""
    query = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    sample = query // queries
    channel = tl.arange(0, WIDTH)
    entry = tl.arange(0, ENTRIES)
    there = entry < entries
    h, w, first, first_bordered = _map_of(levels + 4 * (entry // points), there)
    place = (query * heads + head) * entries + entry
    left, upper, right_share, lower_share = _places(locations, place, there, h, w)
    weight = tl.load(weights + place, mask=there, other=0.0).to(tl.float32)
    of_head = tl.load(of_sampled + (query * heads + head) * width + channel, mask=channel < width, other=0.0).to(
        tl.float32
    )
    of_weight = tl.zeros((ENTRIES,), dtype=tl.float32)
    of_x = tl.zeros((ENTRIES,), dtype=tl.float32)
    of_y = tl.zeros((ENTRIES,), dtype=tl.float32)
    for corner in tl.static_range(4):
        column = left + corner % 2
        row = upper + corner // 2
        across = right_share if corner % 2 == 1 else 1 - right_share
        down = lower_share if corner // 2 == 1 else 1 - lower_share
        cell = sample * cells + first + row * w + column
        read = there & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        held = _rows(value, cell * heads + head, read, channel, width)
        fits = tl.sum(held * of_head[None, :], axis=1)
        of_weight += across * down * fits
        of_x += down * fits if corner % 2 == 1 else -down * fits
        of_y += across * fits if corner // 2 == 1 else -across * fits
    tl.store(of_weights + place, of_weight, mask=there)
    tl.store(of_locations + 2 * place, of_x * weight * w, mask=there)
    tl.store(of_locations + 2 * place + 1, of_y * weight * h, mask=there)
    read_somewhere = (left >= -1) & (left < w) & (upper >= -1) & (upper < h)
    run = (sample * heads + head) * bordered + first_bordered + (upper + 1) * (w + 1) + left + 1
    tl.store(runs + place, tl.where(read_somewhere, run, -1), mask=there)


@triton.jit
def _gradients_of_maps(
    of_sampled,
    locations,
    weights,
    order,
    starts,
    of_value,
    cells,
    bordered,
    heads,
    width,
    entries,
    h,
    w,
    first,
    first_bordered,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    cell = tl.program_id(0)
    both = tl.program_id(1)  # sample and head
    sample = (both // heads).to(tl.int64)
    head = both % heads
    channel = tl.arange(0, WIDTH)
    total = tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for corner in tl.static_range(4):  # it is this corner of the places
        column = cell % w + 1 - corner % 2
        row = cell // w + 1 - corner // 2
        run = both.to(tl.int64) * bordered + first_bordered + row * (w + 1) + column
        begin = tl.load(starts + run)
        end = tl.load(starts + run + 1)
        for start in range(begin, end, BLOCK):
            entry = start + tl.arange(0, BLOCK)
            there = entry < end
            place = tl.load(order + entry, mask=there, other=0)
            _, _, right_share, lower_share = _places(locations, place, there, h, w)
            share = tl.load(weights + place, mask=there, other=0.0).to(tl.float32)
            share *= right_share if corner % 2 == 1 else 1 - right_share
            share *= lower_share if corner // 2 == 1 else 1 - lower_share
            total += share[:, None] * _rows(of_sampled, place // entries, there, channel, width)
    row = (sample * cells + first + cell) * heads + head
    tl.store(of_value + row * width + channel, tl.sum(total, axis=0), mask=channel < width)


@lru_cache(maxsize=64)
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """``_numbers`` on a device. Kept, for a CUDA graph cannot take it from the CPU."""
    return torch.tensor(_numbers(shapes), dtype=torch.int32, device=device)


def _numbers(shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Height, width and the first cell of each level, then the first cell were each map larger by one row and column."""
    numbers, first, first_bordered = [], 0, 0
    for h, w in shapes:
        numbers.append((h, w, first, first_bordered))
        first, first_bordered = first + h * w, first_bordered + (h + 1) * (w + 1)
    return numbers


def _pairs(shapes: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(shapes[::2], shapes[1::2]))


@torch.library.custom_op(
    "bevdistill::deformable_sample",
    mutates_args=(),
    schema="(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor",
)
def _deformable_sample(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    batch, cells, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    entries = len(shapes) // 2 * points
    sampled = value.new_empty((batch, queries, heads * width), dtype=torch.float32)
    if sampled.numel():
        with torch.cuda.device_of(value):  # Triton launches on the current device
            _sample_head[(batch * queries, heads)](
                value.contiguous(),
                _levels(_pairs(shapes), value.device),
                locations.contiguous(),
                weights.contiguous(),
                sampled,
                queries,
                cells,
                heads,
                width,
                points,
                entries,
                ENTRIES=triton.next_power_of_2(entries),
                WIDTH=triton.next_power_of_2(width),
                num_warps=WARPS,
            )
    return sampled


@_deformable_sample.register_fake
def _(value, shapes, locations, weights):
    batch, _, heads, width = value.shape
    return value.new_empty((batch, locations.shape[1], heads * width), dtype=torch.float32)


@torch.library.custom_op(
    "bevdistill::deformable_sample_gradients",
    mutates_args=(),
    schema="(Tensor of_sampled, Tensor value, int[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)",
)
def _deformable_sample_gradients(
    of_sampled: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, cells, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    entries = len(shapes) // 2 * points
    of_sampled, value, locations, weights = (t.contiguous() for t in (of_sampled, value, locations, weights))
    of_value, of_locations, of_weights = (torch.empty_like(t) for t in (value, locations, weights))
    if not of_sampled.numel():
        return of_value.zero_(), of_locations.zero_(), of_weights.zero_()
    pairs = _pairs(shapes)
    bordered = sum((h + 1) * (w + 1) for h, w in pairs)
    sizes = {"WIDTH": triton.next_power_of_2(width), "num_warps": WARPS}
    runs = torch.empty(weights.shape, dtype=torch.int32, device=weights.device)
    with torch.cuda.device_of(value):
        _gradients_of_places[(batch * queries, heads)](
            of_sampled,
            value,
            _levels(pairs, value.device),
            locations,
            weights,
            of_locations,
            of_weights,
            runs,
            queries,
            cells,
            bordered,
            heads,
            width,
            points,
            entries,
            ENTRIES=triton.next_power_of_2(entries),
            **sizes,
        )
        # A stable order makes the sums reproducible.
        runs, order = torch.sort(runs.flatten(), stable=True)
        numbers = torch.arange(batch * heads * bordered + 1, dtype=torch.int32, device=runs.device)
        starts = torch.searchsorted(runs, numbers)
        for h, w, first, first_bordered in _numbers(pairs):
            _gradients_of_maps[(h * w, batch * heads)](
                of_sampled,
                locations,
                weights,
                order,
                starts,
                of_value,
                cells,
                bordered,
                heads,
                width,
                entries,
                h,
                w,
                first,
                first_bordered,
                BLOCK=BLOCK,
                **sizes,
            )
    return of_value, of_locations, of_weights


@_deformable_sample_gradients.register_fake
def _(of_sampled, value, shapes, locations, weights):
    return tuple(t.new_empty(t.shape) for t in (value, locations, weights))


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: FunctionCtx, of_sampled: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    of_value, *others = _deformable_sample_gradients(of_sampled, value, ctx.shapes, locations, weights)
    return of_value, None, *others


_deformable_sample.register_autograd(_backward, setup_context=_remember)


def sample(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """See ``deformable_sample``; any of float32, float16 and bfloat16; the result is float32, differentiable once."""
    numbers = [int(number) for shape in shapes for number in shape]
    return _deformable_sample(value, numbers, locations, weights)
