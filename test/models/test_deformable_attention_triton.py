"""The Triton kernels of deformable attention against torch's ways in float64: on a GPU where there is one, else in the interpreter,
see ``test_triton_interpreter``."""

from __future__ import annotations

import importlib.util
import math
import os

import pytest
import torch

from bevdistill_ros.models import deformable_attention as module
from bevdistill_ros.models.deformable_attention import DeformableAttention, deformable_sample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNS = (
    importlib.util.find_spec("triton") is not None
    and hasattr(torch.library, "custom_op")
    and (DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
)
pytestmark = pytest.mark.skipif(not RUNS, reason="needs triton, and a GPU or the interpreter")

SHAPES = [(5, 7), (3, 4), (1, 2)]


def make_case(heads: int, width: int, points: int, levels: int = 3, queries: int = 3):
    """Values, locations (many outside the maps) and weights of 2 samples, in float64."""
    generator = torch.Generator().manual_seed(heads * width * points)
    shapes = SHAPES[:levels]

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    value = random(2, sum(h * w for h, w in shapes), heads, width) - 0.5
    locations = random(2, queries, heads, levels, points, 2) * 1.6 - 0.3
    return value, shapes, locations, random(2, queries, heads, levels, points)


@torch.no_grad()
@pytest.mark.parametrize("heads, width, points, levels", [(4, 16, 8, 3), (3, 5, 3, 2), (1, 1, 1, 1), (2, 32, 4, 1)])
def test_equals_torchs_ways(heads: int, width: int, points: int, levels: int) -> None:
    value, shapes, locations, weights = make_case(heads, width, points, levels)
    expected = deformable_sample(value, shapes, locations, weights, use_triton=False)
    found = deformable_sample(value.float(), shapes, locations.float(), weights.float(), use_triton=True)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_read_as_they_are_and_summed_in_single_precision(dtype: torch.dtype) -> None:
    value, shapes, locations, weights = make_case(2, 8, 4)
    value, weights, locations = value.to(dtype), weights.to(dtype), locations.float()
    expected = deformable_sample(value.double(), shapes, locations.double(), weights.double(), use_triton=False)
    with torch.autocast(DEVICE, dtype=dtype):
        found = deformable_sample(value, shapes, locations, weights, use_triton=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_places_far_outside_are_zero_and_those_that_are_no_numbers_raise_nothing() -> None:
    value, shapes, locations, weights = (t.float() if isinstance(t, torch.Tensor) else t for t in make_case(2, 4, 2))
    value += 1.0
    for far in (-1e30, math.inf, 2.0, math.nan):
        assert not deformable_sample(value, shapes, torch.full_like(locations, far), weights, use_triton=True).any()


@torch.no_grad()
def test_strides_do_not_matter() -> None:
    value, shapes, locations, weights = (t.float() if isinstance(t, torch.Tensor) else t for t in make_case(2, 4, 2))
    wanted = deformable_sample(value, shapes, locations, weights, use_triton=True)
    apart = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (value, locations, weights)]
    assert torch.equal(deformable_sample(apart[0], shapes, *apart[1:], use_triton=True), wanted)


def gradients(value, shapes, locations, weights, use_triton: bool) -> tuple[torch.Tensor, ...]:
    inputs = [t.detach().clone().requires_grad_() for t in (value, locations, weights)]
    sampled = deformable_sample(inputs[0], shapes, *inputs[1:], use_triton=use_triton)
    of_sampled = torch.randn(sampled.shape, generator=torch.Generator().manual_seed(1)).to(sampled)
    return torch.autograd.grad(sampled, inputs, of_sampled)


@pytest.mark.parametrize("heads, width, points, levels", [(3, 5, 3, 2), (1, 1, 1, 1), (2, 16, 4, 1)])
def test_gradients_equal_torchs(heads: int, width: int, points: int, levels: int) -> None:
    value, shapes, locations, weights = make_case(heads, width, points, levels)
    locations[0, :, 0] = torch.tensor([0.47, 0.53], device=DEVICE)  # more that read the same cells than a block has
    locations[1, 0, 0, 0, 0] = 0.5  # between cells
    expected = gradients(value, shapes, locations, weights, use_triton=False)
    for mine, theirs in zip(gradients(value.float(), shapes, locations.float(), weights.float(), True), expected):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_same_again() -> None:
    value, shapes, locations, weights = (t.float() if isinstance(t, torch.Tensor) else t for t in make_case(1, 2, 6, 1))
    one, other = (gradients(value, shapes, locations, weights, use_triton=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_gradients_of_halves_are_rounded_once() -> None:
    value, shapes, locations, weights = make_case(2, 4, 2)
    value, weights, locations = value.bfloat16(), weights.bfloat16(), locations.float()
    expected = gradients(value.double(), shapes, locations.double(), weights.double(), use_triton=False)
    found = gradients(value, shapes, locations, weights, use_triton=True)
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.bfloat16]
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine.float(), theirs.to(mine.dtype).float(), rtol=1.6e-2, atol=1e-3)


def test_places_outside_have_no_gradient() -> None:
    value, shapes, locations, weights = (t.float() if isinstance(t, torch.Tensor) else t for t in make_case(1, 2, 2))
    locations[:] = torch.tensor([[-1e30, 0.5], [math.nan, math.inf]], device=DEVICE)
    assert not any(t.any() for t in gradients(value, shapes, locations, weights, use_triton=True))


def test_the_module_uses_it_where_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from bevdistill_ros.models import deformable_attention_triton as kernel

    torch.manual_seed(0)
    sample = kernel.sample
    attention = DeformableAttention(16, heads=2, levels=3, points=2).to(DEVICE)
    arguments = torch.randn(2, 4, 16), torch.rand(2, 4, 3, 2), torch.randn(2, sum(h * w for h, w in SHAPES), 16)
    arguments = [t.to(DEVICE) for t in arguments]
    calls = []
    monkeypatch.setattr(kernel, "sample", lambda *tensors: calls.append(0) or sample(*tensors))
    monkeypatch.setattr(module, "triton_can_run", lambda *tensors: True)
    with torch.no_grad():
        expected = attention(*arguments, SHAPES)
        assert not calls  # not by default
        monkeypatch.setattr(module, "TRITON_ON_CUDA", True)
        found = attention(*arguments, SHAPES)
    assert calls
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_as_an_operator_of_torch() -> None:
    """Its schema, its shapes without data and that it has gradients are what torch takes them for."""
    value, shapes, locations, weights = (t.float() if isinstance(t, torch.Tensor) else t for t in make_case(1, 3, 2))
    from bevdistill_ros.models.deformable_attention_triton import sample

    sample(value, shapes, locations, weights)
    numbers = [number for shape in shapes for number in shape]
    torch.library.opcheck(
        torch.ops.bevdistill.deformable_sample,
        (value, numbers, locations, weights),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    of_sampled = torch.ones(2, 3, 3, device=DEVICE)
    torch.library.opcheck(
        torch.ops.bevdistill.deformable_sample_gradients,
        (of_sampled, value, numbers, locations, weights),
        test_utils=("test_schema", "test_faketensor"),
    )
