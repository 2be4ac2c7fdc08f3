"""From bytes to what a backbone takes: the values of the plain formula, to the bit."""

from __future__ import annotations

import pytest
import torch

from bevdistill_ros.models.pixels import PIXEL_MEAN, PIXEL_STD, PixelNorm


@pytest.mark.parametrize("shape", [(1, 6, 32, 96, 3), (2, 1, 5, 7, 3)])
def test_pixels_are_normalised_and_turned_from_bgr_to_rgb(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    found = PixelNorm()(images)
    planes = images.flatten(0, 1).permute(0, 3, 1, 2).float()
    expected = (planes - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    assert torch.equal(found, expected.flip(1)) and torch.equal(images, before)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_norm_that_was_halved_gives_halves() -> None:
    images = torch.full((1, 1, 2, 2, 3), 255, dtype=torch.uint8)
    found = PixelNorm().to(torch.bfloat16)(images)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), PixelNorm()(images), atol=0.02)
