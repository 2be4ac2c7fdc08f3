"""PyTorch's execution of a student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.models.calibration_cache import CalibrationCache
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.outputs import CenterOutputs, QueryOutputs
from bevdistill_ros.models.student import Student
from bevdistill_ros.runtime.backends import TORCH, TORCH_BFLOAT16
from bevdistill_ros.runtime.fold import fold_normalisation


class TorchRuntime:
    """Runs a folded copy of a network whose weights stay as they are.

    What depends on the calibration alone is kept until the calibration changes; each set of images then costs ``Student.run``.
    Whoever records that function as a CUDA graph has the calibration as its input: tensors to copy into, of sizes that no
    calibration changes once the pool plan is ``padded``.

    Args:
        network: in evaluation mode, on its device; it is not changed.
        bfloat16: convolutions and products of matrices in bfloat16. Geometry stays as it is, and so do sums over points.

    Attributes:
        backend: what runs it, in words.
    """

    def __init__(self, network: Student, bfloat16: bool = False) -> None:
        self.backend = TORCH_BFLOAT16 if bfloat16 else TORCH
        self._bfloat16 = bfloat16
        folded = copy.deepcopy(network).eval().requires_grad_(False)
        fold_normalisation(folded)
        self._network = folded.to(memory_format=torch.channels_last)
        self._kept: CalibrationCache[Any] = CalibrationCache()

    def __call__(self, images: Tensor, K: Tensor, ego_T_cam: Tensor) -> CenterOutputs | QueryOutputs:
        """Images (1, N, H, W, 3) uint8 of cameras that are all there, K (1, N, 3, 3), ego_T_cam (1, N, 4, 4), on the device."""
        return self.run(images, self.calibrate(K, ego_T_cam, tuple(images.shape[2:4])))

    @torch.inference_mode()
    def calibrate(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int]) -> Any:
        """What ``run`` needs to know of the cameras of images of ``size`` = (H, W)."""
        with self._precision(K):
            return self._kept.get(self._network.calibrate, K, ego_T_cam, all_present(K), size)

    @torch.inference_mode()
    def run(self, images: Tensor, calibration: Any) -> CenterOutputs | QueryOutputs:
        """What ``__call__`` gives, of what ``calibrate`` gave."""
        with self._precision(images):
            return self._network.found(self._network.run(images, calibration))

    def _precision(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bfloat16)
