"""Memory for images."""

from __future__ import annotations

import numpy as np
import torch

from bevdistill_ros.runtime.staging import image_rows


def test_rows_are_zero_and_writable() -> None:
    rows = image_rows((2, 4, 6, 3), torch.device("cpu"))
    assert rows.shape == (2, 4, 6, 3) and rows.dtype == np.uint8 and not rows.any() and rows.flags.c_contiguous
    rows[1] = 7
    assert rows.sum() == 7 * 4 * 6 * 3
