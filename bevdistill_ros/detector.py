"""The detector: images and calibration in, boxes out. Node, evaluation and benchmarks all call this one class."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.config import StudentConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bev_network import decode_found
from bevdistill_ros.models.planned import planned_state
from bevdistill_ros.models.student import Student
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.runtime.backends import TORCH_BFLOAT16
from bevdistill_ros.runtime.onnx_file import OnnxModel
from bevdistill_ros.runtime.onnx_runtime import CPU, OnnxRuntime
from bevdistill_ros.runtime.open_model import open_model
from bevdistill_ros.runtime.torch_runtime import TorchRuntime


def choose_device(name: str) -> str:
    """The device that ``name`` means: ``auto`` is CUDA where there is any, else the CPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_device(name: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        UserError: it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used: {str(error).splitlines()[0]}") from None
    return device


def camera_config(checkpoint: Checkpoint | OnnxModel, name: str) -> StudentConfig:
    """The model's configuration.

    Raises:
        UserError: it is no camera model; ``name`` says which file.
    """
    if not isinstance(checkpoint.config, StudentConfig):
        raise UserError(
            f"{name}: holds '{checkpoint.config.name}', which needs LiDAR, a teacher for training and `bevdistill evaluate`; "
            "detection is from cameras only: name the checkpoint of a student"
        )
    return checkpoint.config


def load_network(checkpoint: Checkpoint, device: torch.device, name: str) -> torch.nn.Module:
    """The network of a checkpoint, of either kind, as it runs in use.

    Raises:
        UserError: weights and configuration do not fit, or there is no memory for them; ``name`` says which file.
    """
    try:
        # Before anything is made of a size that only the configuration claims.
        problems = _state_problems(planned_state(checkpoint.config), checkpoint.state)
        if problems:
            raise UserError(f"{name}: weights do not fit its configuration: {problems}")
        network = build_network(checkpoint.config)
        network.load_state_dict(checkpoint.state)
        return network.to(device).eval()
    except (RuntimeError, ValueError, MemoryError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: the network of its configuration cannot be made: {text}") from None


class Detector:
    """A camera-only 3-D detector.

    Attributes:
        config: the model's configuration.
        class_names: what its boxes may be.
        cameras: the cameras it was trained on (it takes any others, too).
        training: where the weights come from.
        backend: what runs the network, in words, as "torch" or "onnxruntime, CPUExecutionProvider".
        backend_note: why ``auto`` has chosen it, in words; else empty.
        runtime: what runs the network; ``found = runtime(images, K, ego_T_cam)``, tensors with a batch of one on ``device``.
        network: as it was written, before any backend has rebuilt it; None where the model is an exported one.
        preprocess: ``image, K = detector.preprocess(picture, camera)``.
        stage_times: milliseconds of the last call by stage: upload, calibrate, network, decode.

    Args:
        model: a checkpoint, which PyTorch runs on ``device``, or an exported model, which ONNX Runtime runs by ``providers``.
        name: what to call its file in errors.
        bfloat16: see ``TorchRuntime``; on the CPU alone.
    """

    def __init__(
        self,
        model: Checkpoint | OnnxModel,
        device: str | torch.device = "cpu",
        name: str = "checkpoint",
        providers: Sequence[str] = CPU,
        bfloat16: bool = False,
    ) -> None:
        self.config = camera_config(model, name)
        self.class_names = model.config.classes
        self.cameras = model.cameras
        self.training = model.training
        self.preprocess = Preprocessor(model.config.image)
        self.stage_times: dict[str, float] = {}
        self.backend_note = ""
        self.network: Student | None = None
        self.runtime: TorchRuntime | OnnxRuntime
        if isinstance(model, OnnxModel):
            self.device = torch.device("cpu")  # where its inputs and outputs are, whatever provider runs it
            self.runtime = OnnxRuntime(model.content, self.config, providers, name)
        else:
            self.device = use_device(device)
            if bfloat16 and self.device.type != "cpu":
                raise UserError(f"backend '{TORCH_BFLOAT16}' is for the CPU, not for device '{self.device}'")
            self.network = load_network(model, self.device, name)
            self.runtime = TorchRuntime(self.network, bfloat16)
        self.backend = self.runtime.backend

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        backend: str | None = None,
        providers: Sequence[str] = CPU,
    ) -> Detector:
        """Load a model's file, a checkpoint or an exported one; see ``open_model`` for what ``backend`` means.

        Raises:
            UserError: the file, the device or the backend cannot be used, or the file holds no camera model.
        """
        opened = open_model(path, backend, str(device))
        detector = cls(opened.model, device, str(path), providers, opened.bfloat16)
        detector.backend_note = opened.note
        return detector

    @torch.inference_mode()
    def __call__(
        self,
        images: np.ndarray,
        K: np.ndarray,
        ego_T_cam: np.ndarray,
        mask: np.ndarray | None = None,
        score_threshold: float = 0.0,
    ) -> Boxes:
        """Detect.

        Args:
            images: (N, H, W, 3) uint8 BGR, of ``self.preprocess``; cameras in any order.
            K: (N, 3, 3) of those images, as ``self.preprocess`` returns them.
            ego_T_cam: (N, 4, 4) camera poses in the base frame at the reference time.
            mask: (N,) bool, False for a camera that is missing; what its other arguments hold does not matter.
            score_threshold: boxes below are dropped.

        Returns:
            Boxes in the base frame at the reference time, best score first. No cameras, no boxes.

        Raises:
            ValueError: shapes do not fit, or a calibration is not finite.
        """
        images, K, ego_T_cam = np.asarray(images), np.asarray(K), np.asarray(ego_T_cam)
        size = (self.config.image.height, self.config.image.width, 3)
        count = len(images)
        if (
            images.shape[1:] != size
            or images.dtype != np.uint8
            or K.shape != (count, 3, 3)
            or ego_T_cam.shape != (count, 4, 4)
        ):
            raise ValueError(
                f"expected images (N, {size[0]}, {size[1]}, 3) uint8, K (N, 3, 3), ego_T_cam (N, 4, 4); "
                f"found {images.shape} {images.dtype}, {K.shape}, {ego_T_cam.shape}"
            )
        clock = _StageClock(self.device)
        if mask is not None:
            present = np.asarray(mask, dtype=bool)
            if present.shape != (count,):
                raise ValueError(f"expected a mask of shape ({count},), found {present.shape}")
            if not present.all():  # indexing copies the images
                images, K, ego_T_cam = images[present], K[present], ego_T_cam[present]
        if not (np.isfinite(K).all() and np.isfinite(ego_T_cam).all()):
            raise ValueError("K or ego_T_cam of a camera that is not masked holds values that are not finite")
        if not len(images):
            self.stage_times = dict.fromkeys(("upload", "calibrate", "network", "decode"), 0.0)
            return Boxes.empty(self.class_names)
        inputs = (
            torch.from_numpy(np.ascontiguousarray(images)).to(self.device)[None],
            torch.from_numpy(K.astype(np.float32)).to(self.device)[None],
            torch.from_numpy(ego_T_cam.astype(np.float32)).to(self.device)[None],
        )
        clock.lap("upload")
        calibration = self.runtime.calibrate(*inputs[1:], size[:2])
        clock.lap("calibrate")
        found = self.runtime.run(inputs[0], calibration)
        clock.lap("network")
        boxes = decode_found(found, self.config, score_threshold)[0]
        clock.lap("decode")
        self.stage_times = clock.laps
        return boxes


class _StageClock:
    """Milliseconds between laps; waits for the GPU, whose work is otherwise only queued."""

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, float] = {}
        self._wait: Callable[[], None] = (
            partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
        )
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        self._wait()
        now = time.perf_counter()
        self.laps[stage] = (now - self._last) * 1e3
        self._last = now


def _state_problems(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    """What is wrong with a state dict, in words; empty if nothing is."""
    for name in expected:
        if name not in found:
            return f"'{name}' is missing"
        if expected[name].shape != found[name].shape:
            return f"'{name}' has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        if expected[name].is_floating_point() > found[name].is_floating_point():
            return f"'{name}' is {found[name].dtype}, expected {expected[name].dtype}"
        if not torch.isfinite(found[name]).all():
            return f"'{name}' holds values that are not finite"
    extra = next((name for name in found if name not in expected), None)
    return f"'{extra}' is not part of the network" if extra else ""
