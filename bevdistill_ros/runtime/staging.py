"""Memory from which images go to the device."""

from __future__ import annotations

import numpy as np


def image_rows(shape: tuple[int, int, int, int], page_locked: bool) -> np.ndarray:
    """Zeros (N, H, W, 3) uint8, to write images into.

    Args:
        page_locked: memory that a GPU reads by itself, while the CPU goes on; it needs CUDA. Whoever overwrites it waits until the
            GPU has read it: it has when ``Detector`` returns.
    """
    if not page_locked:
        return np.zeros(shape, np.uint8)
    import torch  # here: who has no GPU needs none of it for this

    return torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
