"""The detector: images and calibration in, boxes out. Node, evaluation and benchmarks all call this one class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.config import StudentConfig
from bevdistill_ros.errors import UserError, first_line
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bev_network import decode_found
from bevdistill_ros.models.planned import planned_state
from bevdistill_ros.models.student import Student
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.runtime.backends import COMPILED, EAGER, GRAPH, ONNXRUNTIME, TORCH
from bevdistill_ros.runtime.onnx_file import OnnxModel
from bevdistill_ros.runtime.onnx_runtime import CPU, OnnxRuntime
from bevdistill_ros.runtime.open_model import open_model
from bevdistill_ros.runtime.torch_runtime import TorchRuntime, make_torch_runtime


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
        raise UserError(f"device '{name}' cannot be used: {first_line(error)}") from None
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
        raise UserError(f"{name}: the network of its configuration cannot be made: {first_line(error)}") from None


class Detector:
    """A camera-only 3-D detector.

    Attributes:
        config: the model's configuration.
        class_names: what its boxes may be.
        cameras: the cameras it was trained on (it takes any others, too).
        training: where the weights come from.
        backend: what runs the network, in words, as "torch" or "onnxruntime, CPUExecutionProvider"; for certain once it has run.
        backend_note: why ``auto`` has chosen it, in words; else empty.
        runtime: what runs the network; ``found = runtime(images, K, ego_T_cam)``, of a batch of one, images on ``device``.
        network: as it was written, before any backend has rebuilt it; None where the model is an exported one.
        preprocess: ``image, K = detector.preprocess(picture, camera)``.
        stage_times: milliseconds of the last call by stage: upload, calibrate, network, decode. On CUDA those of the GPU, which
            waits for the CPU or is waited for.

    Args:
        model: a checkpoint, which PyTorch runs on ``device``, or an exported model, which ONNX Runtime runs by ``providers``.
        name: what to call its file in errors.
        dtype: see ``TorchRuntime``; float16 on CUDA alone.
        execution: how PyTorch goes through the network, one of ``EXECUTIONS``.
    """

    def __init__(
        self,
        model: Checkpoint | OnnxModel,
        device: str | torch.device = "cpu",
        name: str = "checkpoint",
        providers: Sequence[str] = CPU,
        dtype: torch.dtype = torch.float32,
        execution: str = EAGER,
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
            if execution in (GRAPH, COMPILED):
                raise UserError(
                    f"{name}: execution '{execution}' is PyTorch's, but {ONNXRUNTIME} runs this: name the checkpoint, and a "
                    f"backend that begins with '{TORCH}'"
                )
            self.device = torch.device("cpu")  # where its inputs and outputs are, whatever provider runs it
            self.runtime = OnnxRuntime(model.content, self.config, providers, name)
        else:
            self.device = use_device(device)
            self.network = load_network(model, self.device, name)
            self.runtime = make_torch_runtime(self.network, self.device, dtype, execution)

    @property
    def backend(self) -> str:
        """See the class."""
        return self.runtime.backend

    @property
    def dtype(self) -> torch.dtype:
        """What the network multiplies in."""
        return self.runtime.dtype

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        backend: str | None = None,
        providers: Sequence[str] = CPU,
        execution: str = EAGER,
    ) -> Detector:
        """Load a model's file, a checkpoint or an exported one; see ``open_model`` for what ``backend`` means.

        Raises:
            UserError: the file, the device or the backend cannot be used, or the file holds no camera model.
        """
        opened = open_model(path, backend, str(device))
        detector = cls(opened.model, device, str(path), providers, opened.dtype, execution)
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
        """Detect. When this returns nothing reads the arguments any more.

        Args:
            images: (N, H, W, 3) uint8 BGR, of ``self.preprocess``; cameras in any order. Of ``image_rows`` a GPU reads them by
                itself.
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
        present = np.ones(count, bool) if mask is None else np.asarray(mask, dtype=bool)
        if present.shape != (count,):
            raise ValueError(f"expected a mask of shape ({count},), found {present.shape}")
        if not (np.isfinite(K[present]).all() and np.isfinite(ego_T_cam[present]).all()):
            raise ValueError("K or ego_T_cam of a camera that is not masked holds values that are not finite")
        if not present.any():
            self.stage_times = dict.fromkeys(_STAGES, 0.0)
            return Boxes.empty(self.class_names)
        if not present.all():
            if self.runtime.keeps_places:  # whatever masked cameras are said to be like, they are always alike
                K, ego_T_cam = (np.where(present[:, None, None], own, np.eye(own.shape[-1])) for own in (K, ego_T_cam))
            else:  # this copies the images
                images, K, ego_T_cam, present = images[present], K[present], ego_T_cam[present], present[present]
        clock = _GpuClock(self.device) if self.device.type == "cuda" else _Clock()
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)[None]
        clock.lap()
        cameras = (torch.from_numpy(value.astype(np.float32))[None] for value in (K, ego_T_cam))
        calibration = self.runtime.calibrate(*cameras, size[:2], torch.from_numpy(present)[None])
        clock.lap()
        found = self.runtime.run(pixels, calibration)
        clock.lap()
        boxes = decode_found(found, self.config, score_threshold)[0]
        clock.lap()
        self.stage_times = dict(zip(_STAGES, clock.milliseconds()))
        return boxes


_STAGES = ("upload", "calibrate", "network", "decode")


class _Clock:
    """Of the CPU."""

    def __init__(self) -> None:
        self._laps = [time.perf_counter()]

    def lap(self) -> None:
        """Something has come to its end."""
        self._laps.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Of each lap."""
        return [1e3 * (end - begin) for begin, end in pairwise(self._laps)]


class _GpuClock:
    """Of a GPU, whose work is only queued: it tells when it comes to each lap, and is not waited for before all are over."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._laps: list[torch.cuda.Event] = []
        self.lap()

    def lap(self) -> None:
        """See ``_Clock``."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        self._laps.append(event)

    def milliseconds(self) -> list[float]:
        """See ``_Clock``; waits for the GPU."""
        self._laps[-1].synchronize()
        return [begin.elapsed_time(end) for begin, end in pairwise(self._laps)]


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
