"""From a checkpoint to an ONNX file, which is checked against the network before anybody gets it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.checkpoint import ModelCard, card_to_texts
from bevdistill_ros.config import BackboneConfig, StudentConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import EGO_R_OPTICAL, make_transform, rotation_z
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.student import Student
from bevdistill_ros.runtime import graph, onnx_file
from bevdistill_ros.runtime.onnx_runtime import OnnxRuntime

OPSET = 18
"""Of the operators used. GridSample, and adding with ScatterND, are from 16 on; older runtimes read older ones."""

TOLERANCE = 1e-3
"""Greatest difference from PyTorch's float32 of any output that is let pass: logits and codes, times their greatest absolute value
where that is more than 1. Codes are cells, metres, sines, or logarithms of metres."""


class Rig(NamedTuple):
    """Inputs of ``Student.forward``, with B = 1."""

    images: Tensor
    K: Tensor
    ego_T_cam: Tensor


class Difference(NamedTuple):
    """Of an output: the greatest absolute difference from PyTorch's, and the greatest absolute value of that."""

    name: str
    greatest: float
    size: float


class Check(NamedTuple):
    """What a rig gave, by output."""

    cameras: int
    differences: tuple[Difference, ...]

    @property
    def holds(self) -> bool:
        """Whether all differences are within ``TOLERANCE``."""
        return all(d.greatest <= TOLERANCE * max(1.0, d.size) for d in self.differences)

    def to_json(self) -> dict:
        """JSON values."""
        values = {d.name: {"greatest_difference": d.greatest, "greatest_value": d.size} for d in self.differences}
        return {"cameras": self.cameras, **values}

    def __str__(self) -> str:
        return ", ".join(
            f"{d.name} differ by up to {d.greatest:.1e} (values up to {d.size:.3g})" for d in self.differences
        )


def export_onnx(
    card: ModelCard, config: StudentConfig, network: Student, weights_sha256: str, for_tensorrt: bool = False
) -> bytes:
    """The ONNX file of a network in evaluation mode, on the CPU, with its configuration and origin in the metadata.

    ``for_tensorrt``: without what TensorRT's parser is known to refuse; slower by ONNX Runtime.

    Raises:
        UserError: the network has something that ONNX does not know, or this PyTorch cannot export it.
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    _check_exportable(config.backbone)
    rig = make_rig(config, 6, seed=0)
    inputs = graph.calibration_inputs(config)
    calibration = inputs.make(rig.K, rig.ego_T_cam, all_present(rig.K), tuple(rig.images.shape[2:4]))
    sizes = {graph.IMAGES: {0: graph.CAMERAS}, **inputs.sizes}
    dims = {name: torch.export.Dim(name) for axes in sizes.values() for name in axes.values()}
    shapes = {name: {axis: dims[size] for axis, size in axes.items()} for name, axes in sizes.items()}
    try:
        with _quietly():
            program = torch.onnx.export(
                graph.Graph(network, for_tensorrt),
                (rig.images[0],),
                kwargs={"calibration": calibration},
                dynamo=True,
                opset_version=OPSET,
                input_names=[graph.IMAGES, *calibration],
                output_names=list(graph.outputs(config)),
                dynamic_shapes={graph.IMAGES: shapes.pop(graph.IMAGES), "calibration": shapes},
                optimize=True,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        summary = str(error).partition("## Exception summary")[2] or str(error)
        raise UserError(
            f"model '{config.name}': torch {torch.__version__} cannot export it (2.13 can export those that are shipped): "
            f"{' '.join(summary.split())[:300]}"
        ) from None
    model = program.model_proto
    metadata = {"format": onnx_file.FORMAT, "version": str(onnx_file.VERSION), **card_to_texts(card)}
    metadata[onnx_file.WEIGHTS_SHA256] = weights_sha256
    _strip(model)
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    return model.SerializeToString()


def check_export(content: bytes, config: StudentConfig, network: Student) -> list[Check]:
    """Run an exported model beside its network: random images of two rigs, of six cameras and of one."""
    runtime = OnnxRuntime(content, config)
    checks = []
    for cameras, seed in ((6, 1), (1, 2)):
        rig = make_rig(config, cameras, seed)
        with torch.no_grad():
            expected = network.found(network(*rig))
        found = runtime(*rig)
        pairs = [(name, getattr(found, name), getattr(expected, name)) for name in graph.outputs(config)]
        checks.append(
            Check(cameras, tuple(Difference(n, float((f - e).abs().max()), float(e.abs().max())) for n, f, e in pairs))
        )
    return checks


def make_rig(config: StudentConfig, cameras: int, seed: int) -> Rig:
    """Cameras all around, each a little turned, tilted and zoomed by chance, with images of noise."""
    random = np.random.default_rng(seed)
    height, width = config.image.height, config.image.width
    K, poses = [], []
    for i in range(cameras):
        focal = width * random.uniform(0.6, 1.0)
        K.append([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
        tilt = random.uniform(-0.1, 0.1)
        tilted = np.array([[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]])
        turned = rotation_z(2 * math.pi * i / cameras + random.uniform(-0.2, 0.2))
        poses.append(
            make_transform(turned @ EGO_R_OPTICAL @ tilted, (random.uniform(-1, 1), 0, random.uniform(1.2, 1.8)))
        )
    images = random.integers(0, 256, (1, cameras, height, width, 3), dtype=np.uint8)
    return Rig(
        torch.from_numpy(images), torch.tensor(np.array(K)[None]).float(), torch.tensor(np.stack(poses)[None]).float()
    )


def _check_exportable(backbone: BackboneConfig) -> None:
    if backbone.deformable_stages:
        raise UserError(
            "backbone.deformable_stages: deformable convolutions have no operator that ONNX Runtime runs, so this model "
            "cannot be exported; the backend 'torch' runs it"
        )


def _strip(model) -> None:
    """Take out what the exporter notes about the source code: where it lies on this machine is nobody's business."""
    model.graph.doc_string = ""
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quietly() -> Iterator[None]:
    """torch's exporter warns of its own future and of operators of packages that are not needed."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
