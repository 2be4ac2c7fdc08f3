"""What a network makes of a calibration alone, kept until the calibration changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class CalibrationCache(Generic[Made]):
    """Keeps the last thing that was made. Several threads may use it at once."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[Tensor, Tensor, Tensor, tuple[int, int]], Made] | None = None

    def get(
        self,
        make: Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Made],
        K: Tensor,
        ego_T_cam: Tensor,
        mask: Tensor,
        size: tuple[int, int],
    ) -> Made:
        """``make(K, ego_T_cam, mask, size)``, or what it gave the last time, if that was for the same."""
        kept = self._kept  # read once: another thread may replace it
        if kept is not None:
            old_K, old_T, old_mask, old_size = kept[0]
            same_place = old_size == size and old_K.device == K.device and old_K.shape == K.shape
            if same_place and torch.equal(old_K, K) and torch.equal(old_T, ego_T_cam) and torch.equal(old_mask, mask):
                return kept[1]
        # Ordinary tensors even when called in inference mode: a later call may need gradients.
        with torch.inference_mode(False):
            made = make(K, ego_T_cam, mask, size)
            self._kept = ((K.clone(), ego_T_cam.clone(), mask.clone(), size), made)
        return made
