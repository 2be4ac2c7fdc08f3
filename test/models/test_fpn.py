"""Feature pyramids: sizes of their outputs, and that the finest sees the coarsest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bevdistill_ros.models.fpn import MultiScaleFPN


def features(rows: int = 16) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, c, -(-rows // s), 24 // s) for c, s in ((4, 1), (8, 2), (16, 4)))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_each_level_is_half_the_one_before(levels: int) -> None:
    outputs = MultiScaleFPN((4, 8, 16), 6, levels)(features())
    assert [tuple(o.shape) for o in outputs] == [(2, 6, 16 >> i, 24 >> i) for i in range(levels)]


def test_odd_sizes_are_halved_upwards() -> None:
    """29 rows at 1/32, of images of 928, are 15 at 1/64."""
    outputs = MultiScaleFPN((4, 8, 16), 6, 4)(features(29 * 4))
    assert [o.shape[2] for o in outputs] == [116, 58, 29, 15]


def test_every_input_reaches_the_finest_output_and_only_coarser_ones_a_coarser() -> None:
    pyramid, inputs = MultiScaleFPN((4, 8, 16), 6, 4), [f.requires_grad_() for f in features()]
    for level, expected in enumerate(([1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1])):
        gradients = torch.autograd.grad(pyramid(tuple(inputs))[level].sum(), inputs, allow_unused=True)
        assert [int(g is not None and bool(g.abs().sum() > 0)) for g in gradients] == expected


def test_a_level_by_hand() -> None:
    """Of ones in all convolutions: the middle output's middle is nine times the sum of what is below it."""
    pyramid = MultiScaleFPN((1, 1, 1), 1, 2)
    with torch.no_grad():
        for convolution in [*pyramid.lateral, *pyramid.output]:
            convolution.weight.fill_(1.0)
    inputs = (torch.full((1, 1, 16, 16), 100.0), torch.full((1, 1, 8, 8), 10.0), torch.full((1, 1, 4, 4), 1.0))
    fine, coarse = pyramid(inputs)
    assert fine[0, 0, 8, 8] == 9 * 111 and coarse[0, 0, 4, 4] == 9 * 11 and coarse[0, 0, 0, 0] == 4 * 11
