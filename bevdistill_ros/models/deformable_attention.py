"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, eq. 3) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.models.own_kernels import triton_can_run

TRITON_ON_CUDA = False
"""Whether ``deformable_sample`` uses the Triton kernels where it can and is not told. Not before a GPU has run and timed them:
until then Triton's interpreter alone tests them."""


def deformable_sample(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    use_triton: bool | None = None,
) -> Tensor:
    """For every query, the weighted sum of what the maps hold at its locations; bilinear, zero outside the maps.

    It computes in float32 under autocast, for locations need more than bfloat16's eight bits.

    Args:
        value: (B, sum(h * w), heads, D), the levels' maps one after another, each row by row.
        shapes: (h, w) of each level.
        locations: (B, Q, heads, levels, points, 2) as (x, y) in 0..1 of the map: 0 is its left or upper edge, so that cell ``i`` of
            ``n`` has its centre at (i + 0.5) / n.
        weights: (B, Q, heads, levels, points).
        use_triton: the kernels of ``deformable_attention_triton`` or what torch has; None: the kernels where ``TRITON_ON_CUDA``
            says so and ``triton_can_run``.

    Returns:
        (B, Q, heads * D), float32 at least.
    """
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (value, locations, weights))
    # What records operators for others to run knows grid_sample well, and the other ways badly.
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if use_triton is None:
        use_triton = TRITON_ON_CUDA and triton_can_run(value, locations, weights)
    if use_triton and not recorded:
        from bevdistill_ros.models.deformable_attention_triton import sample  # here: not everybody has triton

        return sample(value, shapes, locations, weights)
    with torch.autocast(value.device.type, enabled=False):
        exact = torch.float64 if value.dtype == torch.float64 else torch.float32
        value, locations, weights = (tensor.to(exact) for tensor in (value, locations, weights))
        if value.device.type == "cpu" and not wants_gradient and not recorded:
            return _sample_by_bags(value, shapes, locations, weights)
        return _sample_by_grid(value, shapes, locations, weights)


def _sample_by_grid(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """By a call of ``grid_sample`` a level, the heads side by side in its batch; the fastest of torch's ways that has gradients."""
    batch, _, heads, width = value.shape
    queries = locations.shape[1]
    places = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5)  # (B, heads, levels, Q, points, 2)
    share = weights.permute(0, 2, 3, 1, 4)
    maps = value.split([h * w for h, w in shapes], dim=1)
    total = value.new_zeros(())
    for level, ((h, w), cells) in enumerate(zip(shapes, maps, strict=True)):
        image = cells.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        place = places[:, :, level].reshape(batch * heads, queries, -1, 2)
        sampled = F.grid_sample(image, place, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * share[:, :, level].reshape(batch * heads, 1, queries, -1)).sum(dim=-1)
    return total.reshape(batch, heads * width, queries).transpose(1, 2)


def _sample_by_bags(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """By one ``embedding_bag``: a bag is a head of a query, its entries the four cells about each location.

    A cell's D values lie side by side here, and none of what is sampled is kept. On a CPU it is faster than ``grid_sample``; its
    gradients are slower. Each map gets a border of zeros, so that no location needs to be told from one outside.
    """
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    each = (
        heads,
        len(shapes),
        points,
    )  # factors are as large as a query's part: tensors that repeat a few numbers are slow
    maps = value.split([h * w for h, w in shapes], dim=1)
    # A row before the map and two behind, since the cell behind a location's is read, too. Columns likewise.
    bordered = [
        F.pad(cells.unflatten(1, shape), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for cells, shape in zip(maps, shapes, strict=True)
    ]
    counts = [cells.shape[1] for cells in bordered]

    sizes = locations.new_tensor([(w, h) for h, w in shapes])[:, None].expand(*each, 2).contiguous()
    place = locations * sizes + 0.5
    place = torch.minimum(torch.where(place > 0, place, 0.0), sizes + 1)  # what is no number becomes 0, on the border
    cell = place.floor()
    x, y = (place - cell).unbind(-1)
    column, row = cell.int().unbind(-1)

    def integers(numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int32, device=value.device)

    # Numbers of the table's rows; of the next row of cells on each level; of where sample, level and head start.
    down = integers((w + 3) * heads for _, w in shapes)[:, None].expand(each).contiguous()
    start = integers(sum(counts[:level]) for level in range(len(counts)))[:, None] * heads
    start = start + integers(range(heads))[:, None, None]
    start = start + integers(range(batch))[:, None, None, None, None] * (sum(counts) * heads)
    upper_left = start.expand(-1, 1, *each) + row * down + column * heads
    right, down = torch.full_like(down[0], heads).flatten(), down[0].flatten()
    corners = torch.stack([torch.zeros_like(down), right, down, down + right])
    lower = weights * y
    upper = weights - lower
    lower_right, upper_right = lower * x, upper * x
    shares = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=3)
    sampled = F.embedding_bag(
        (upper_left.flatten(3)[..., None, :] + corners).view(batch * queries * heads, -1),
        torch.cat(bordered, dim=1).view(-1, width),
        per_sample_weights=shares.view(batch * queries * heads, -1),
        mode="sum",
    )
    return sampled.view(batch, queries, heads * width)


class DeformableAttention(nn.Module):
    """Every query reads ``points`` places on each level, in each head, about its reference; it chooses places and weights itself.

    Args:
        channels: of queries and result; a multiple of ``heads``.
        value_channels: of the maps that are read; None: ``channels``.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int, value_channels: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels {channels} must be a multiple of heads {heads}")
        self._shape = (heads, levels, points)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels if value_channels is None else value_channels, channels)
        self.output = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Each head looks its own way, its point ``i`` at ``i + 1`` cells from the reference (section A.4 of the paper)."""
        heads, levels, points = self._shape
        angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        way = torch.stack([angle.cos(), angle.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)
        ring = way[:, None, None, :] * torch.arange(1.0, points + 1)[None, None, :, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(heads, levels, points, 2).flatten())
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(tensor)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, query: Tensor, references: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Read the maps at the references.

        Args:
            query: (B, Q, channels).
            references: (B, Q, levels, 2) as (x, y) in 0..1 of each map, see ``deformable_sample``; or (B, Q, levels, points, 2),
                where each point has a reference of its own.
            value: (B, sum(h * w), value_channels), the levels' maps one after another, each row by row.
            shapes: (h, w) of each level.

        Returns:
            (B, Q, channels).
        """
        heads, levels, points = self._shape
        if references.dim() == 4:
            references = references[..., None, :]
        offsets = self.offsets(query).unflatten(-1, (heads, levels, points, 2))
        # Made by the device itself: a copy from the CPU's memory would wait for a GPU, and no CUDA graph can take it.
        sizes = [query.new_full((1,), n, dtype=references.dtype) for h, w in shapes for n in (w, h)]
        size = torch.cat(sizes).view(levels, 1, 2)
        size = size.expand(levels, points, 2).contiguous()  # a tensor that repeats a few numbers is slow
        locations = references[:, :, None] + offsets.to(references.dtype) / size
        weights = self.weights(query).unflatten(-1, (heads, levels * points)).softmax(dim=-1)
        sampled = deformable_sample(
            self.value(value).unflatten(-1, (heads, -1)), shapes, locations, weights.unflatten(-1, (levels, points))
        )
        return self.output(sampled)
