"""Ways for PyTorch to run a checkpoint, beside the network as it was written."""

from __future__ import annotations

from typing import Any

import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.student import Student
from bevdistill_ros.runtime.backends import COMPILED, EAGER, GRAPH, TORCH, TORCH_BFLOAT16, TORCH_FLOAT16
from bevdistill_ros.runtime.precision import DTYPES

AS_WRITTEN = "eager"

CPU = {TORCH: (TORCH, EAGER), TORCH_BFLOAT16: (TORCH_BFLOAT16, EAGER)}
CUDA = {
    **CPU,
    **{f"{backend}, {GRAPH}": (backend, GRAPH) for backend in (TORCH, TORCH_BFLOAT16, TORCH_FLOAT16)},
    f"{TORCH_BFLOAT16}, {COMPILED}": (TORCH_BFLOAT16, COMPILED),
}
"""Backend and execution, by what they are called in results."""


class AsWritten:
    """What ``Detector.runtime`` is, by the network as it was written, in float32."""

    backend, dtype, keeps_places = AS_WRITTEN, torch.float32, False

    def __init__(self, network: Student, device: torch.device) -> None:
        self._network, self._device = network, device

    def __call__(self, images: torch.Tensor, K: torch.Tensor, ego_T_cam: torch.Tensor) -> Any:
        return self.run(images, self.calibrate(K, ego_T_cam, tuple(images.shape[2:4])))

    @torch.inference_mode()
    def calibrate(
        self, K: torch.Tensor, ego_T_cam: torch.Tensor, size: tuple[int, int], mask: torch.Tensor | None = None
    ) -> Any:
        mask = all_present(K) if mask is None else mask
        return self._network.calibrate(*(value.to(self._device) for value in (K, ego_T_cam, mask)), size)

    @torch.inference_mode()
    def run(self, images: torch.Tensor, calibration: Any) -> Any:
        return self._network.found(self._network.run(images, calibration))


def make_ways(checkpoint: Checkpoint, device: str, compiled: bool = True) -> dict[str, Detector]:
    """Detectors: ``AS_WRITTEN`` first, then all ways that the device has; ``compiled``: also those that take minutes to begin."""
    detectors = {AS_WRITTEN: Detector(checkpoint, device)}
    detectors[AS_WRITTEN].runtime = AsWritten(detectors[AS_WRITTEN].network, detectors[AS_WRITTEN].device)
    on_cuda = detectors[AS_WRITTEN].device.type == "cuda"
    for name, (backend, execution) in (CUDA if on_cuda else CPU).items():
        if compiled or execution != COMPILED:
            detectors[name] = Detector(checkpoint, device, dtype=DTYPES[backend], execution=execution)
    return detectors
