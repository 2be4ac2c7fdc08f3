"""Running a network that sees LiDAR: on samples of a dataset, for evaluation and validation."""

from __future__ import annotations

import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.config import StudentConfig
from bevdistill_ros.detector import Detector, load_network, use_device
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.runtime.onnx_file import OnnxModel
from bevdistill_ros.training.data.nuscenes import Sample
from bevdistill_ros.training.loader import DrawnSample, collate, to_device


class Teacher:
    """A detector from samples with points. What ``Detector`` is for cameras, which is the one that drives.

    Args:
        device: "cpu", "cuda" or "cuda:0".
        name: what to call the checkpoint in errors.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "cpu", name: str = "checkpoint") -> None:
        self.config = checkpoint.config
        self.class_names = checkpoint.config.classes
        self.cameras = checkpoint.cameras
        self.device = use_device(device)
        self.network = load_network(checkpoint, self.device, name)

    @torch.inference_mode()
    def __call__(self, sample: Sample, score_threshold: float = 0.0) -> Boxes:
        """Boxes in the base frame at ``sample.t_ref``, best score first."""
        batch = to_device(collate([DrawnSample(0, sample, None)], self.network.inputs), self.device)
        outputs = self.network(*(batch[name] for name in self.network.inputs))
        return self.network.decode(outputs, score_threshold)[0]


def make_detector(
    model: Checkpoint | OnnxModel,
    device: str | torch.device,
    name: str = "checkpoint",
    dtype: torch.dtype = torch.float32,
) -> Detector | Teacher:
    """What runs a model, of either kind. Only students are exported; ``dtype`` is for them, too, see ``Detector``."""
    if isinstance(model, Checkpoint) and not isinstance(model.config, StudentConfig):
        return Teacher(model, device, name)
    return Detector(model, device, name, dtype=dtype)
