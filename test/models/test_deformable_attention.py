"""Deformable attention against a loop over everything, its gradients, and what it is before training."""

from __future__ import annotations

import math

import pytest
import torch

from bevdistill_ros.models.deformable_attention import DeformableAttention, deformable_sample

SHAPES = [(5, 7), (3, 4), (1, 2)]
CELLS = sum(h * w for h, w in SHAPES)


def bilinear(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """(D, h, w) at (x, y) in cells from the upper left corner's edge; zero outside."""
    _, h, w = image.shape
    column, row = x - 0.5, y - 0.5
    result = torch.zeros(image.shape[0], dtype=image.dtype)
    for j in (math.floor(row), math.floor(row) + 1):
        for i in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < w and 0 <= j < h:
                result += (1 - abs(column - i)) * (1 - abs(row - j)) * image[:, j, i]
    return result


def naive(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    batch, queries, heads, levels, points, _ = locations.shape
    result = torch.zeros(batch, queries, heads, value.shape[3], dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for head in range(heads):
                start = 0
                for level, (h, w) in enumerate(SHAPES):
                    image = value[b, start : start + h * w, head].T.reshape(-1, h, w)
                    start += h * w
                    for p in range(points):
                        x, y = locations[b, q, head, level, p].tolist()
                        result[b, q, head] += weights[b, q, head, level, p] * bilinear(image, x * w, y * h)
    return result.flatten(2)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, locations (some outside the maps) and weights of 2 samples, 3 queries, 4 heads, 2 points."""
    torch.manual_seed(0)
    value = torch.randn(2, CELLS, 4, 3, dtype=torch.float64)
    locations = torch.rand(2, 3, 4, len(SHAPES), 2, 2, dtype=torch.float64) * 1.6 - 0.3
    return value, locations, torch.rand(2, 3, 4, len(SHAPES), 2, dtype=torch.float64)


def test_equals_a_loop_over_everything(inputs: tuple) -> None:
    value, locations, weights = inputs
    torch.testing.assert_close(
        deformable_sample(value, SHAPES, locations, weights), naive(value, locations, weights), rtol=1e-12, atol=1e-12
    )
    as_float = deformable_sample(value.float(), SHAPES, locations.float(), weights.float())
    torch.testing.assert_close(as_float, naive(value, locations, weights).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_both_ways_equal_a_loop_over_everything(inputs: tuple, wants_gradient: bool) -> None:
    """Without gradients it is another way of computing."""
    value, locations, weights = inputs
    expected = naive(value, locations, weights)
    value = value.clone().requires_grad_(wants_gradient)
    found = deformable_sample(value, SHAPES, locations, weights)
    assert found.requires_grad == wants_gradient
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(deformable_sample(value, SHAPES, locations, weights), found) != wants_gradient


@torch.no_grad()
def test_places_far_outside_and_none_at_all_are_zero_or_no_number_and_raise_nothing(inputs: tuple) -> None:
    value, locations, weights = inputs
    for far in (-1e30, 1e30, math.inf, -math.inf, 2.0, -1.0):
        assert not deformable_sample(value, SHAPES, torch.full_like(locations, far), weights).any()
    value, locations, weights = (tensor[:, :, :1] for tensor in (value, locations, weights))
    lost = locations.clone()
    lost[0, 0] = torch.nan
    found = deformable_sample(value, SHAPES, lost, weights)
    assert torch.equal(found[:, 1:], deformable_sample(value, SHAPES, locations, weights)[:, 1:])


@torch.no_grad()
def test_edges_of_the_maps_are_read_in_part() -> None:
    """Half a cell beyond the last centre the outside's zero has half of the weight, on every side and in the corners."""
    value = torch.ones(1, 6, 1, 1)
    places = [(0.0, 0.25), (1.0, 0.75), (0.5, 0.0), (0.5, 1.0), (0.0, 0.0), (1.0, 1.0), (-0.1, 0.25), (1.2, 0.75)]
    read = deformable_sample(value, [(2, 3)], torch.tensor(places).reshape(1, 8, 1, 1, 1, 2), torch.ones(1, 8, 1, 1, 1))
    torch.testing.assert_close(read[0, :, 0], torch.tensor([0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.0]))


def test_a_cell_centre_reads_that_cell_and_the_outside_is_zero() -> None:
    value = torch.arange(6.0).reshape(1, 6, 1, 1)  # 2 rows, 3 columns
    centres = [[(column + 0.5) / 3, (row + 0.5) / 2] for row in range(2) for column in range(3)]
    locations = torch.tensor(centres + [[-0.5, 0.5], [0.5, 1.5]]).reshape(1, 8, 1, 1, 1, 2)
    read = deformable_sample(value, [(2, 3)], locations, torch.ones(1, 8, 1, 1, 1))
    torch.testing.assert_close(read[0, :, 0], torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0]))


def test_gradients_are_those_of_finite_differences(inputs: tuple) -> None:
    tensors = [tensor.clone().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_sample(v, SHAPES, x, w), tensors)


def test_samples_of_a_batch_do_not_see_one_another(inputs: tuple) -> None:
    value, locations, weights = inputs
    whole = deformable_sample(value, SHAPES, locations, weights)
    for i in range(2):
        alone = deformable_sample(value[i, None], SHAPES, locations[i, None], weights[i, None])
        torch.testing.assert_close(alone[0], whole[i])


def test_before_training_it_is_the_mean_over_a_ring() -> None:
    """Weights are equal, and head k of 4 looks 1, 2, ... cells right, down, left and up."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, heads=4, levels=1, points=2, value_channels=5).double()
    h, w = 9, 11
    value = torch.randn(1, h * w, 5, dtype=torch.float64)
    references = torch.tensor([[(4 + 0.5) / w, (3 + 0.5) / h]], dtype=torch.float64).reshape(1, 1, 1, 2)
    query = torch.randn(1, 1, 8, dtype=torch.float64)
    found = attention(query, references, value, [(h, w)])
    projected = attention.value(value).reshape(h, w, 4, 2)
    ways = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    heads = [sum(projected[3 + k * dy, 4 + k * dx, i] for k in (1, 2)) / 2 for i, (dx, dy) in enumerate(ways)]
    torch.testing.assert_close(found[0, 0], attention.output(torch.cat(heads)), rtol=1e-6, atol=1e-6)


def test_offsets_are_in_cells_of_each_level() -> None:
    """A reference per point equals the one reference that they share; an offset of one cell moves it by one cell of its level."""
    torch.manual_seed(0)
    attention = DeformableAttention(16, heads=2, levels=len(SHAPES), points=3)
    query, value = torch.randn(2, 4, 16), torch.randn(2, CELLS, 16)
    references = torch.rand(2, 4, len(SHAPES), 2)
    shared = attention(query, references, value, SHAPES)
    each = attention(query, references[:, :, :, None].expand(-1, -1, -1, 3, -1), value, SHAPES)
    torch.testing.assert_close(shared, each, rtol=0, atol=0)

    cell = torch.tensor([[1.0 / w, 1.0 / h] for h, w in SHAPES])
    with torch.no_grad():
        attention.offsets.bias += torch.tensor([1.0, -2.0]).repeat(2 * len(SHAPES) * 3)
    moved = attention(query, references - cell * torch.tensor([1.0, -2.0]), value, SHAPES)
    torch.testing.assert_close(moved, shared, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_locations_keep_their_precision_under_autocast() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16, heads=4, levels=1, points=2)
    size = 200
    stripes = torch.arange(size).remainder(2)[None, :, None].float()  # neighbouring columns differ as far as any do
    value = stripes.expand(size, size, 16).reshape(1, -1, 16)
    query, references = torch.randn(1, 50, 16), torch.rand(1, 50, 1, 2) * 0.8 + 0.1
    exact = attention(query, references, value, [(size, size)])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention(query, references, value, [(size, size)])
    assert mixed.dtype == torch.bfloat16
    # References rounded to bfloat16, by up to 0.4 cells, would be wrong by a large part of the stripes' contrast.
    spread = exact.std(dim=1).max()
    rounded = attention(query, references.bfloat16().float(), value, [(size, size)])
    assert (rounded - exact).abs().max() > 0.5 * spread
    assert (mixed.float() - exact).abs().max() < 0.1 * spread


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16, heads=2, levels=len(SHAPES), points=2)
    attention(
        torch.randn(2, 4, 16), torch.rand(2, 4, len(SHAPES), 2), torch.randn(2, CELLS, 16), SHAPES
    ).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())


def test_exported_programs_hold_grid_sample() -> None:
    """ONNX has an operator for it."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, heads=2, levels=len(SHAPES), points=2).eval().requires_grad_(False)

    class OfThreeMaps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, query: torch.Tensor, references: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return self.attention(query, references, value, SHAPES)

    arguments = torch.randn(1, 4, 8), torch.rand(1, 4, len(SHAPES), 2), torch.randn(1, CELLS, 8)
    exported = torch.export.export(OfThreeMaps(), arguments).graph_module
    graphs = [
        part.graph for part in exported.modules() if isinstance(part, torch.fx.GraphModule)
    ]  # autocast makes parts
    names = {str(node.target) for graph in graphs for node in graph.nodes}
    assert any("grid_sampler" in name for name in names) and not any("embedding_bag" in name for name in names)
    kinds = {node.kind() for node in torch.jit.trace(OfThreeMaps(), arguments).inlined_graph.nodes()}
    assert "aten::grid_sampler" in kinds and "aten::embedding_bag" not in kinds
