"""The Triton kernels of BEV pooling against ``embedding_bag`` in float64: on a GPU where there is one, else in the interpreter,
see ``test_triton_interpreter``."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from bevdistill_ros.models.bev_pool import bev_pool, make_pool_plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNS = (
    importlib.util.find_spec("triton") is not None
    and hasattr(torch.library, "custom_op")
    and (DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
)
pytestmark = pytest.mark.skipif(not RUNS, reason="needs triton, and a GPU or the interpreter")

ROWS, COLUMNS = 3, 4


def make_case(channels: int, dtype: torch.dtype = torch.float32, pixels: int = 12, bins: int = 7, lonely: bool = True):
    """Context, depth and plan of 2 samples: most points in one cell, some cells and, if ``lonely``, some pixels without any."""
    generator = torch.Generator().manual_seed(channels)
    x, y = ((torch.rand(2, pixels, bins, generator=generator) ** 6 * n) for n in (COLUMNS - 1, ROWS))
    valid = torch.rand(2, pixels, bins, generator=generator) < 0.8
    if lonely:
        valid[:, 3:5] = False
    plan = make_pool_plan(x.to(DEVICE), y.to(DEVICE), valid.to(DEVICE), ROWS, COLUMNS)
    context = torch.randn(2 * pixels, channels, generator=generator).to(DEVICE, dtype).requires_grad_()
    depth = torch.rand(2 * pixels, bins, generator=generator).to(DEVICE, dtype).requires_grad_()
    return context, depth, plan


def values_and_gradients(context, depth, plan, use_triton: bool):
    pooled = bev_pool(context, depth, plan, use_triton=use_triton)
    of_bev = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(pooled.device)
    return pooled, *torch.autograd.grad((pooled * of_bev).sum(), (context, depth))


def exact(context, depth, plan):
    return values_and_gradients(
        context.detach().double().requires_grad_(), depth.detach().double().requires_grad_(), plan, use_triton=False
    )


@pytest.mark.parametrize("channels", [1, 3, 32, 80])
def test_equals_embedding_bag_in_values_and_gradients(channels: int) -> None:
    context, depth, plan = make_case(channels)
    counts = plan.offsets.diff()
    assert counts.max() > 32 and (counts == 0).any()  # more than one block of points, and none
    for found, expected in zip(values_and_gradients(context, depth, plan, True), exact(context, depth, plan)):
        assert found.dtype == torch.float32 and found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_more_points_of_a_pixel_than_a_block_of_the_backward() -> None:
    context, depth, plan = make_case(200, pixels=2, bins=40, lonely=False)  # 4096 / 256 = 16 points at once
    for found, expected in zip(values_and_gradients(context, depth, plan, True), exact(context, depth, plan)):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of_depth", [torch.float32, None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_single_precision(dtype: torch.dtype, of_depth: torch.dtype | None) -> None:
    context, depth, plan = make_case(20, dtype)
    depth = depth.detach().to(of_depth or dtype).requires_grad_()
    with torch.autocast(DEVICE, dtype=dtype):
        pooled, *gradients = values_and_gradients(context, depth, plan, True)
    expected, *expected_gradients = exact(context, depth, plan)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-5, atol=1e-5)
    for found, wanted, of in zip(gradients, expected_gradients, (context, depth)):
        assert found.dtype == of.dtype  # rounded once, at the end
        torch.testing.assert_close(found.float(), wanted.to(of.dtype).float(), rtol=1.6e-2, atol=1e-5)


def test_many_points_in_one_cell_do_not_stop_at_a_halfs_precision() -> None:
    pixels = 3000
    zero = torch.zeros(1, pixels, 1, device=DEVICE)
    plan = make_pool_plan(zero, zero, torch.ones_like(zero, dtype=torch.bool), 1, 1)
    context = torch.ones(pixels, 2, dtype=torch.bfloat16, device=DEVICE)
    pooled = bev_pool(context, torch.ones(pixels, 1, dtype=torch.bfloat16, device=DEVICE), plan, use_triton=True)
    assert pooled.flatten().tolist() == [pixels, pixels]


def test_channels_last_slices_are_read_where_they_are() -> None:
    context, depth, plan = make_case(8)
    whole = torch.full((len(context), 21), torch.nan, device=DEVICE)
    whole[:, 5:13] = context.detach()
    apart = whole[:, 5:13].requires_grad_()
    transposed = depth.detach().t().contiguous().t().requires_grad_()
    for found, wanted in zip(
        values_and_gradients(apart, transposed, plan, True), values_and_gradients(context, depth, plan, True)
    ):
        assert torch.equal(found, wanted)


def test_either_gradient_may_be_left_out_and_both_are_the_same_again() -> None:
    context, depth, plan = make_case(5)
    both = torch.autograd.grad(bev_pool(context, depth, plan, True).square().sum(), (context, depth))
    again = torch.autograd.grad(bev_pool(context, depth, plan, True).square().sum(), (context, depth))
    (of_context,) = torch.autograd.grad(bev_pool(context, depth.detach(), plan, True).square().sum(), context)
    (of_depth,) = torch.autograd.grad(bev_pool(context.detach(), depth, plan, True).square().sum(), depth)
    assert torch.equal(of_context, both[0]) and torch.equal(of_depth, both[1])
    assert torch.equal(again[0], both[0]) and torch.equal(again[1], both[1])


def test_no_points_give_zeros_and_zero_gradients() -> None:
    context, depth, _ = make_case(4)
    none = torch.full((2, 12, 7), torch.nan, device=DEVICE)
    plan = make_pool_plan(none, none, torch.zeros_like(none, dtype=torch.bool), ROWS, COLUMNS)
    for found in values_and_gradients(context, depth, plan, True):
        assert not found.any()


def test_what_is_off_the_grid_is_not_read() -> None:
    """Blocks that are not full are filled up with point 0 of pixel 0, whose values must not count, were they infinite."""
    cells = torch.zeros(1, 2, 2, device=DEVICE)
    on_grid = torch.tensor([[[False, False], [True, True]]], device=DEVICE)
    plan = make_pool_plan(cells, cells, on_grid, 1, 1)
    context = torch.tensor([[torch.inf], [3.0]], device=DEVICE, requires_grad=True)
    depth = torch.tensor([[torch.inf, torch.nan], [0.25, 0.5]], device=DEVICE, requires_grad=True)
    pooled, *gradients = values_and_gradients(context, depth, plan, True)
    of_bev = torch.randn(1, generator=torch.Generator().manual_seed(1)).item()
    assert pooled.item() == 2.25
    assert gradients[0].tolist() == [[0.0], [pytest.approx(0.75 * of_bev)]]
    assert gradients[1].tolist() == [[0.0, 0.0], [pytest.approx(3.0 * of_bev)] * 2]


@torch.no_grad()
def test_a_padded_plan_gives_the_same_bits() -> None:
    context, depth, plan = make_case(6)
    wanted = bev_pool(context, depth, plan, use_triton=True)
    assert torch.equal(bev_pool(context, depth, plan.padded(depth.numel()), use_triton=True), wanted)


def test_as_an_operator_of_torch() -> None:
    """Its schema, its shapes without data and its gradients are what torch.compile takes them for."""
    from bevdistill_ros.models.bev_pool_triton import TILE

    context, depth, plan = make_case(3, pixels=3, bins=4, lonely=False)
    tensors = (plan.points, plan.pixels, plan.offsets, plan.points_by_pixel, plan.cells_by_pixel)
    quick = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.bevdistill.pool,
        (context, depth, *tensors, plan.cells, list(TILE)),
        test_utils=(*quick, "test_autograd_registration", "test_aot_dispatch_static"),
    )
    gradients = (torch.ones(plan.cells, 3, device=DEVICE), context.detach(), depth.detach(), *tensors[3:])
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.bevdistill.pool_gradients, (*gradients, *wanted, list(TILE)), test_utils=quick)
