"""ONNX Runtime's execution of an exported student."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.config import StudentConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.models.calibration_cache import CalibrationCache
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.outputs import CenterOutputs, QueryOutputs
from bevdistill_ros.runtime import graph

CPU = ("CPUExecutionProvider",)


def is_installed() -> bool:
    """Whether the Python package onnxruntime is here."""
    return importlib.util.find_spec("onnxruntime") is not None


class OnnxRuntime:
    """Runs an exported model. Its calibration's inputs are kept until the calibration changes.

    Args:
        content: an exported file that ``read_onnx`` has looked through.
        config: of that model.
        providers: ONNX Runtime's execution providers, the preferred one first.
        name: what to call the model's file in errors.

    Attributes:
        backend, dtype, keeps_places: as ``TorchRuntime``.

    Raises:
        UserError: onnxruntime is not installed or has no such provider, or it cannot run the model.
    """

    def __init__(
        self, content: bytes, config: StudentConfig, providers: Sequence[str] = CPU, name: str = "model"
    ) -> None:
        if not is_installed():
            raise UserError(f"{name}: running it needs the Python package onnxruntime: pip install onnxruntime")
        import onnxruntime

        available = onnxruntime.get_available_providers()
        for provider in providers:
            if provider not in available:
                raise UserError(
                    f"onnx_providers: '{provider}' is not in this onnxruntime, which has {', '.join(available)}"
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(torch.get_num_threads(), available_cores())
        # Threads that spin while they have nothing to do would take the cores from those that decode images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # nothing but fatal errors: others are raised, and it would print them besides
        try:
            # It would fall back to other providers, and say so on standard output alone.
            self._session = onnxruntime.InferenceSession(content, options, providers=list(providers), enable_fallback=0)
        except Exception as error:  # it has an exception class for every one of its status codes
            raise UserError(f"{name}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from None
        self._config = config
        self._inputs = graph.calibration_inputs(config)
        self._check_interface(name)
        self._kept: CalibrationCache[dict[str, np.ndarray]] = CalibrationCache()
        self.dtype, self.keeps_places = torch.float32, False
        self.backend = f"onnxruntime, {self._session.get_providers()[0]}"

    def __call__(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> CenterOutputs | QueryOutputs:
        """As ``TorchRuntime``, on the CPU."""
        return self.run(images, self.calibrate(K, ego_T_cam, tuple(images.shape[2:4]), mask))

    @torch.inference_mode()
    def calibrate(
        self, K: Tensor, ego_T_cam: Tensor, size: tuple[int, int], mask: Tensor | None = None
    ) -> dict[str, np.ndarray]:
        """As ``TorchRuntime``: the graph's inputs besides the images, by name."""
        return self._kept.get(self._make, K, ego_T_cam, all_present(K) if mask is None else mask, size)

    @torch.inference_mode()
    def run(self, images: Tensor, calibration: dict[str, np.ndarray]) -> CenterOutputs | QueryOutputs:
        """As ``TorchRuntime``."""
        found = self._session.run(list(graph.outputs(self._config)), {graph.IMAGES: images[0].numpy(), **calibration})
        return graph.found(self._config, *(torch.from_numpy(value) for value in found))

    def _make(self, *calibration: Any) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self._inputs.make(*calibration).items()}

    def _check_interface(self, name: str) -> None:
        """Raise UserError unless the model takes and gives what one of its configuration does."""
        image = self._config.image
        taken = {value.name: value for value in self._session.get_inputs()}
        given = [value.name for value in self._session.get_outputs()]
        expected = {graph.IMAGES, *self._inputs.sizes}
        if set(taken) != expected or given != list(graph.outputs(self._config)):
            raise UserError(
                f"{name}: takes {', '.join(sorted(taken))} and gives {', '.join(given)}; by its configuration it should "
                f"take {', '.join(sorted(expected))} and give {', '.join(graph.outputs(self._config))}"
            )
        shape = taken[graph.IMAGES].shape
        if shape[1:] != [image.height, image.width, 3] or isinstance(shape[0], int):
            raise UserError(
                f"{name}: takes images of shape {shape}; by its configuration it should take "
                f"[N, {image.height}, {image.width}, 3]"
            )
