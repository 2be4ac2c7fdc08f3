"""PyTorch's execution of a student."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.errors import UserError
from bevdistill_ros.models.calibration_cache import CalibrationCache
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.student import Student
from bevdistill_ros.runtime.backends import AUTO, COMPILED, EAGER, GRAPH
from bevdistill_ros.runtime.cast import cast_weights
from bevdistill_ros.runtime.compiled import compile_parts
from bevdistill_ros.runtime.cuda_graph import CudaGraphs
from bevdistill_ros.runtime.fold import fold_normalisation
from bevdistill_ros.runtime.precision import backend_of, check_dtype
from bevdistill_ros.runtime.recorded_run import Found, RecordedRun, Recorder


class TorchRuntime:
    """Runs a folded copy of a network whose weights stay as they are.

    What depends on the calibration alone is kept until the calibration changes; each set of images then costs ``Student.run``.

    Args:
        network: in evaluation mode, on its device; it is not changed.
        dtype: of convolutions and products of matrices. Geometry stays as it is, and so do sums over points.
        recorder: records runs, see ``RecordedRun``; None: every run calls each operator.
        compiled: see ``compile_parts``.

    Attributes:
        dtype: as given.
        keeps_places: whether cameras that are missing should keep their places, masked, rather than be left out: another number of
            cameras is recorded, or compiled, anew.
    """

    def __init__(
        self,
        network: Student,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
        compiled: bool = False,
    ) -> None:
        self.dtype, self._compiled = dtype, compiled
        self._device = next(network.parameters()).device
        folded = copy.deepcopy(network).eval().requires_grad_(False)
        fold_normalisation(folded)
        self._network = folded.to(memory_format=torch.channels_last)
        if dtype != torch.float32:
            cast_weights(self._network, dtype)
        if compiled:
            compile_parts(self._network, self._device)
        self._find = partial(_find, self._network)
        self._recorded = None if recorder is None else RecordedRun(self._find, recorder)
        self.keeps_places = compiled or recorder is not None
        self._kept: CalibrationCache[Any] = CalibrationCache()

    @property
    def backend(self) -> str:
        """What runs it, in words; whether it can be recorded is known when it has run."""
        words = [backend_of(self.dtype)]
        if self._compiled:
            words.append("compiled")
        if self._recorded is not None:
            refusal = self._recorded.refusal
            words.append(f"no CUDA graph, for it cannot be recorded: {refusal}" if refusal else "CUDA graph")
        return ", ".join(words)

    def __call__(self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None) -> Found:
        """Images (1, N, H, W, 3) uint8 on the device, and what ``calibrate`` takes of their cameras."""
        return self.run(images, self.calibrate(K, ego_T_cam, tuple(images.shape[2:4]), mask))

    @torch.inference_mode()
    def calibrate(self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int], mask: Tensor | None = None) -> Any:
        """What ``run`` needs to know of the cameras of images of ``size`` = (H, W).

        Args:
            K, ego_T_cam: (1, N, 3, 3) and (1, N, 4, 4), best on the CPU: comparing them with the last ones waits for no GPU there.
            mask: (1, N) bool beside them, False for a camera that is missing; None: all are there.
        """
        with self._precision():
            return self._kept.get(self._calibrate, K, ego_T_cam, all_present(K) if mask is None else mask, size)

    @torch.inference_mode()
    def run(self, images: Tensor, calibration: Any) -> Found:
        """What ``__call__`` gives, of what ``calibrate`` gave; recorded, it holds until the next run."""
        with self._precision():
            return (self._recorded or self._find)(images, calibration)

    def _calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Any:
        cameras = (value.to(self._device) for value in (K, ego_T_cam, mask))
        calibration = self._network.calibrate(*cameras, size)
        if self._recorded is None:
            return calibration
        return self._network.padded(calibration, K.shape[1], size)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32)


def _find(network: Student, images: Tensor, calibration: Any) -> Found:
    return network.found(network.run(images, calibration))


def make_torch_runtime(network: Student, device: torch.device, dtype: torch.dtype, execution: str) -> TorchRuntime:
    """What runs a network on its ``device``, by one of ``EXECUTIONS``.

    Raises:
        UserError: the device is not meant for that.
    """
    check_dtype(dtype, device)
    on_cuda = device.type == "cuda"
    if execution == AUTO:
        execution = GRAPH if on_cuda else EAGER
    if execution == GRAPH and not on_cuda:
        raise UserError(f"execution '{GRAPH}' is for CUDA, not for device '{device}': '{EAGER}' is for either")
    recorder = CudaGraphs(device) if on_cuda and execution != EAGER else None
    return TorchRuntime(network, dtype, recorder, execution == COMPILED)
