"""BEV pooling against the plain scatter-add, values and gradients."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from bevdistill_ros.models import bev_pool as module
from bevdistill_ros.models.bev_pool import bev_pool, make_pool_plan


def scatter_add_reference(context, depth, cells, valid, rows: int, columns: int):
    """The straightforward way: every point's feature in memory, added to its cell."""
    batch, pixels, bins = valid.shape
    features = context.view(batch, pixels, 1, -1) * depth.view(batch, pixels, bins, 1)
    sample = torch.arange(batch).view(-1, 1, 1)
    rank = ((sample * rows + cells[..., 1]) * columns + cells[..., 0])[valid]
    out = torch.zeros(batch * rows * columns, context.shape[-1], dtype=context.dtype)
    return out.index_add(0, rank, features[valid]).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def plan_of(cells, valid, rows: int, columns: int):
    """The plan of points at the centres of integer cells (column, row); NaN where not valid."""
    x, y = torch.where(valid[..., None], cells + 0.5, torch.nan).unbind(-1)
    return make_pool_plan(x, y, valid, rows, columns)


def random_case(seed: int):
    generator = torch.Generator().manual_seed(seed)
    batch, pixels, bins, channels, rows, columns = 2, 30, 5, 4, 6, 7
    cells = torch.stack(
        [torch.randint(0, n, (batch, pixels, bins), generator=generator) for n in (columns, rows)], dim=-1
    )
    valid = torch.rand(batch, pixels, bins, generator=generator) < 0.8
    context = torch.randn(batch * pixels, channels, generator=generator, requires_grad=True)
    depth = torch.rand(batch * pixels, bins, generator=generator, requires_grad=True)
    return context, depth, cells, valid, rows, columns


def test_pooling_equals_scatter_add_in_values_and_gradients() -> None:
    for seed in range(3):
        context, depth, cells, valid, rows, columns = random_case(seed)
        pooled = bev_pool(context, depth, plan_of(cells, valid, rows, columns))
        expected = scatter_add_reference(context, depth, cells, valid, rows, columns)
        assert torch.allclose(pooled, expected, atol=1e-5)
        weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
        found = torch.autograd.grad((pooled * weight).sum(), (context, depth))
        wanted = torch.autograd.grad((expected * weight).sum(), (context, depth))
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_one_point_by_hand() -> None:
    cells = torch.tensor([[[[2, 1], [0, 0]]]])  # one pixel; depth 0 falls into column 2, row 1, depth 1 off the grid
    plan = plan_of(cells, torch.tensor([[[True, False]]]), 3, 4)
    pooled = bev_pool(torch.tensor([[10.0, 20.0]]), torch.tensor([[0.25, 0.75]]), plan)
    assert pooled.shape == (1, 2, 3, 4)
    assert pooled[0, :, 1, 2].tolist() == [2.5, 5.0] and pooled.sum() == 7.5


@pytest.mark.parametrize("rows, columns", [(6, 7), (150, 130)])  # 150 x 130 x 2 cells are more than 16 bits can name
def test_a_plan_lists_every_cells_points_in_their_own_order(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    batch, pixels, bins = 2, 40, 5
    x = torch.rand(batch, pixels, bins, generator=generator) * columns
    y = torch.rand(batch, pixels, bins, generator=generator) * rows
    x[:, : pixels // 2], y[:, : pixels // 2] = x[:, :1, :1].clone(), y[:, :1, :1].clone()  # cells with many points
    valid = torch.rand(batch, pixels, bins, generator=generator) < 0.8
    x[~valid], y[~valid] = torch.nan, 1e30
    plan = make_pool_plan(x, y, valid, rows, columns)
    listed = []
    for point, place in enumerate(valid.flatten().nonzero()[:, 0].tolist()):
        sample = place // (pixels * bins)
        cell = (sample * rows + int(y.flatten()[place])) * columns + int(x.flatten()[place])
        listed.append((cell, place, point))
    assert plan.points_by_pixel.tolist() == [place for _, place, _ in listed]
    assert plan.cells_by_pixel.tolist() == [cell for cell, _, _ in listed]
    listed.sort()
    assert plan.points.tolist() == [place for _, place, _ in listed]
    assert plan.pixels.tolist() == [place // bins for _, place, _ in listed]
    starts = [sum(cell < limit for cell, _, _ in listed) for limit in (0, 1, columns, batch * rows * columns)]
    assert plan.offsets[[0, 1, columns, -1]].tolist() == starts and len(plan.offsets) == batch * rows * columns + 1
    assert (plan.offsets.diff() == torch.bincount(plan.cells_by_pixel, minlength=plan.cells)).all()
    assert plan.offsets.diff().max() >= 0.7 * pixels / 2 * bins
    assert (plan.points.dtype, plan.pixels.dtype, plan.offsets.dtype) == (torch.int64,) * 3
    assert (plan.points_by_pixel.dtype, plan.cells_by_pixel.dtype) == (torch.int64, torch.int32)


def test_no_points_give_zeros() -> None:
    context, depth, cells, valid, rows, columns = random_case(0)
    assert not bev_pool(context, depth, plan_of(cells, torch.zeros_like(valid), rows, columns)).any()


def test_gradients_are_those_of_finite_differences() -> None:
    context, depth, cells, valid, rows, columns = random_case(1)
    valid[:, 3:6] = False  # pixels without any point, in the midst of others
    plan = plan_of(cells, valid, rows, columns)
    inputs = [t.detach().double().requires_grad_() for t in (context, depth)]
    assert torch.autograd.gradcheck(lambda *pair: bev_pool(*pair, plan), inputs)


def test_either_gradient_may_be_left_out() -> None:
    context, depth, cells, valid, rows, columns = random_case(1)
    plan = plan_of(cells, valid, rows, columns)
    both = torch.autograd.grad(bev_pool(context, depth, plan).square().sum(), (context, depth))
    (of_context,) = torch.autograd.grad(bev_pool(context, depth.detach(), plan).square().sum(), context)
    (of_depth,) = torch.autograd.grad(bev_pool(context.detach(), depth, plan).square().sum(), depth)
    assert torch.equal(of_context, both[0]) and torch.equal(of_depth, both[1])
    with torch.no_grad():
        assert torch.equal(bev_pool(context, depth, plan), bev_pool(context.detach(), depth.detach(), plan))


def test_no_points_give_zero_gradients() -> None:
    context, depth, cells, valid, rows, columns = random_case(0)
    pooled = bev_pool(context, depth, plan_of(cells, torch.zeros_like(valid), rows, columns))
    for gradient in torch.autograd.grad(pooled.sum(), (context, depth)):
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    # 4096 points of one cell, 1 each: halves would stop at 2048 or at 256.
    pixels = 4096
    cells, valid = torch.zeros(1, pixels, 1, 2), torch.ones(1, pixels, 1, dtype=torch.bool)
    plan = plan_of(cells, valid, 1, 1)
    context = torch.ones(pixels, 2, dtype=dtype, requires_grad=True)
    depth = torch.ones(pixels, 1, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        pooled = bev_pool(context, depth, plan)
        assert pooled.dtype == torch.float32 and pooled.flatten().tolist() == [4096, 4096]
        of_context, of_depth = torch.autograd.grad(pooled.sum(), (context, depth))
    assert of_context.dtype == of_depth.dtype == dtype
    assert (of_context == 1).all() and (of_depth == 2).all()


def test_gradients_of_a_pixel_with_many_points_are_summed_in_single_precision() -> None:
    # 4096 points of one pixel, each in a cell of its own.
    cells = torch.stack([torch.arange(4096), torch.zeros(4096)], dim=-1).view(1, 1, 4096, 2)
    plan = plan_of(cells, torch.ones(1, 1, 4096, dtype=torch.bool), 1, 4096)
    context = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    depth = torch.ones(1, 4096, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (of_context,) = torch.autograd.grad(bev_pool(context, depth, plan).sum(), context)
    assert of_context.item() == 4096


@torch.no_grad()
def test_a_padded_plan_pools_the_same_bits() -> None:
    for seed in range(3):
        context, depth, cells, valid, rows, columns = random_case(seed)
        plan = plan_of(cells, valid, rows, columns)
        wanted = bev_pool(context, depth, plan)
        for capacity in (len(plan.points), len(plan.points) + 1, depth.numel(), 2000):
            padded = plan.padded(capacity)
            assert len(padded.points) == len(padded.pixels) == capacity and padded.is_padded and not plan.is_padded
            assert torch.equal(bev_pool(context, depth, padded), wanted)
        # What the padding reads reaches no cell.
        context, padded = context.clone(), plan.padded(depth.numel())
        context[0] = torch.nan
        assert torch.equal(bev_pool(context, depth, padded).isnan(), bev_pool(context, depth, plan).isnan())


@torch.no_grad()
def test_two_calibrations_pass_through_the_same_buffers() -> None:
    context, depth, cells, valid, rows, columns = random_case(0)
    plans = [
        plan_of(cells, keep, rows, columns) for keep in (valid, valid & (cells[..., 0] < 4), torch.zeros_like(valid))
    ]
    assert len({len(plan.points) for plan in plans}) == 3
    buffers = plans[0].padded(depth.numel())
    memory = [t.data_ptr() for t in (buffers.points, buffers.pixels, buffers.offsets)]
    for plan in plans[1:] + plans[:1]:
        buffers.copy_(plan.padded(depth.numel()))
        assert torch.equal(bev_pool(context, depth, buffers), bev_pool(context, depth, plan))
    assert memory == [t.data_ptr() for t in (buffers.points, buffers.pixels, buffers.offsets)]


def test_plans_that_do_not_fit_are_refused() -> None:
    context, depth, cells, valid, rows, columns = random_case(0)
    plan = plan_of(cells, valid, rows, columns)
    padded = plan.padded(300)
    for capacity in (len(plan.points) - 1, 0):
        with pytest.raises(ValueError, match="capacity"):
            plan.padded(capacity)
    with pytest.raises(ValueError, match="capacity"):
        padded.padded(400)
    for one, other in ((plan, padded), (padded, plan), (padded, plan.padded(301))):
        with pytest.raises(ValueError, match="same shape and capacity"):
            one.copy_(other)
    for pair in ((context, depth.detach()), (context.detach(), depth)):
        with pytest.raises(ValueError, match="inference"):
            bev_pool(*pair, padded)


def test_which_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    context, depth, cells, valid, rows, columns = random_case(0)
    plan = plan_of(cells, valid, rows, columns)
    answer = torch.full((plan.cells, context.shape[1]), 7.0)
    stand_in = SimpleNamespace(pool_cells=lambda *arguments: answer)
    monkeypatch.setitem(sys.modules, "bevdistill_ros.models.bev_pool_triton", stand_in)

    def by_triton(use_triton: bool | None) -> bool:
        return bool((bev_pool(context, depth, plan, use_triton) == 7.0).all())

    assert not by_triton(None) and not by_triton(False) and by_triton(True)
    monkeypatch.setattr(module, "TRITON_ON_CUDA", True)
    assert not by_triton(None)  # these tensors are on the CPU
    monkeypatch.setattr(module, "triton_can_run", lambda *tensors: True)
    assert by_triton(None) and not by_triton(False)
    monkeypatch.setattr(module, "TRITON_ON_CUDA", False)
    assert not by_triton(None)
