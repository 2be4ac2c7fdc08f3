"""Memory from which images go to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def image_rows(shape: tuple[int, int, int, int], device: torch.device) -> np.ndarray:
    """Zeros (N, H, W, 3) uint8, to write images into that go to ``device``.

    For CUDA they are page-locked: a GPU reads them by itself, while the CPU goes on. Whoever overwrites them waits until it has: it
    has when ``Detector`` returns.
    """
    if device.type != "cuda":
        return np.zeros(shape, np.uint8)
    import torch  # here: who has no GPU needs none of it for this

    return torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
