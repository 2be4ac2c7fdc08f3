"""From the pictures of a rig to boxes, as the detector node goes, with the time that each stage takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from bevdistill_ros.bench.box_messages import MakeMessages
from bevdistill_ros.bench.parts import run_in_parts
from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.bench.timing import StageClock
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes, Camera
from bevdistill_ros.models.student import Student
from bevdistill_ros.preprocess import INTERPOLATIONS, Preprocessor
from bevdistill_ros.runtime.staging import image_rows
from bevdistill_ros.threads import Crew

PREPROCESS, UPLOAD, CALIBRATE, NETWORK, BOXES, MESSAGES = STAGES = (
    "preprocess", "upload", "calibrate", "network", "boxes", "messages",
)  # fmt: skip
"""What a set of images goes through, one after the other."""

DECODE, WARP = PICTURE_PARTS = ("decode", "warp")
"""What preprocessing is made of."""

SCORE = 0.3
"""The node's default: boxes from this score on are published."""

MOVED_M = 1e-5
"""How far a moving rig goes from set to set, so that every calibration is a new one: float32 tells such places apart."""

T = TypeVar("T")
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class Measured:
    """Milliseconds of every set of images.

    Attributes:
        stages: by stage.
        whole: from pictures to messages (to boxes, where there is no ROS 2).
        picture_parts: of preprocessing, its parts run one after the other.
        network_parts: the parts of the network as it was written, not as a runtime has rebuilt it, but in its precision; with
            waiting for a GPU after each.
        boxes: how many were found.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)
    picture_parts: dict[str, list[float]] = field(default_factory=dict)
    network_parts: dict[str, list[float]] = field(default_factory=dict)
    boxes: list[int] = field(default_factory=list)


class Pipeline:
    """The way of a set of images.

    Args:
        threads: that decode and warp pictures.
        network: the detector's, as it was written and trained, on its device; None where there is only an exported one.
        make_messages: what the node publishes of boxes, see ``message_makers``; None: nothing.

    Attributes:
        dtype: in which the network multiplies.
    """

    def __init__(
        self, detector: Detector, threads: int, network: Student | None, make_messages: MakeMessages | None = None
    ) -> None:
        self.detector, self.threads, self.network, self.make_messages = detector, threads, network, make_messages
        self.dtype = detector.dtype
        self._crew = Crew(threads, "decode")
        self._images = np.zeros((0, 0, 0, 3), np.uint8)

    def close(self) -> None:
        """End the threads."""
        self._crew.close()

    def _side_by_side(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What the jobs, one a picture, return."""
        outcomes = self._crew.run(jobs)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def preprocess(self, rig_set: RigSet, preprocessor: Preprocessor | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, H, W, 3) uint8, which the next call overwrites, and their K (N, 3, 3); by default for the detector."""
        preprocessor = preprocessor or self.detector.preprocess
        images = self._buffer(len(rig_set.names), preprocessor)
        inputs = zip(rig_set.pictures, rig_set.cameras, images)
        results = self._side_by_side([partial(preprocessor, *each) for each in inputs])
        return images, np.stack([K for _, K in results])

    def _buffer(self, count: int, preprocessor: Preprocessor) -> np.ndarray:
        size = (count, preprocessor.config.height, preprocessor.config.width, 3)
        if self._images.shape != size:
            self._images = image_rows(size, self.detector.device)
        return self._images

    def detect(self, rig_set: RigSet) -> Boxes:
        """From pictures to boxes."""
        images, K = self.preprocess(rig_set)
        return self.detector(images, K, rig_set.ego_T_cam, score_threshold=SCORE)

    def run(self, rig_set: RigSet, into: Measured, moved: float = 0.0) -> None:
        """From pictures to messages, and how long it took, of cameras that are ``moved`` forward by so many metres."""
        ego_T_cam = rig_set.ego_T_cam.copy()
        ego_T_cam[:, 0, 3] += moved
        whole = StageClock(self.detector.device)
        clock = StageClock(self.detector.device)
        images, K = self.preprocess(rig_set)
        clock.lap(PREPROCESS)
        boxes = self.detector(images, K, ego_T_cam, score_threshold=SCORE)
        laps = dict(self.detector.stage_times)
        laps[BOXES] = laps.pop("decode")
        if self.make_messages is not None:
            clock.begin()
            self.make_messages(boxes)
            clock.lap(MESSAGES)
        whole.lap("whole")
        into.whole.append(whole.laps["whole"])
        into.boxes.append(len(boxes))
        laps |= clock.laps
        _add(into.stages, {stage: laps[stage] for stage in STAGES if stage in laps})

    def run_picture_parts(self, rig_set: RigSet, into: Measured) -> None:
        """Decode all pictures, then warp all; the images are those of ``preprocess``, bit by bit."""
        preprocessor = self.detector.preprocess
        images = self._buffer(len(rig_set.names), preprocessor)
        clock = StageClock(self.detector.device)
        inputs = zip(rig_set.pictures, rig_set.cameras)
        reduced = self._side_by_side([partial(decode, *each, preprocessor) for each in inputs])
        clock.lap(DECODE)
        inputs = zip(reduced, rig_set.cameras, images)
        self._side_by_side([partial(warp, *each, preprocessor) for each in inputs])
        clock.lap(WARP)
        _add(into.picture_parts, clock.laps)

    @torch.inference_mode()
    def run_network_parts(self, inputs: Tensors, into: Measured) -> None:
        """The network as it was written."""
        images, K, ego_T_cam, mask = inputs
        network = self._written()
        clock = StageClock(self.detector.device)
        with self.precision():
            calibration = network.calibrate(K, ego_T_cam, mask, images.shape[2:4])
            run_in_parts(network, lambda: network.run(images, calibration), clock.begin, clock.lap)
        _add(into.network_parts, clock.laps)

    def precision(self) -> torch.autocast:
        """A context in which the network runs in ``dtype``."""
        return torch.autocast(self.detector.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def tensors(self, rig_set: RigSet) -> Tensors:
        """Images, K, ego_T_cam and mask of a batch of one, on the device, as the network is called with."""
        device = self.detector.device
        images, K = self.preprocess(rig_set)
        calibration = (torch.from_numpy(a.astype(np.float32)).to(device)[None] for a in (K, rig_set.ego_T_cam))
        mask = torch.ones(1, len(images), dtype=torch.bool, device=device)
        return torch.from_numpy(images.copy()).to(device)[None], *calibration, mask

    @torch.inference_mode()
    def network_inputs(self, rig_set: RigSet) -> tuple[torch.Tensor, Any]:
        """What the network's ``run`` takes."""
        images, K, ego_T_cam, mask = self.tensors(rig_set)
        return images, self._written().calibrate(K, ego_T_cam, mask, images.shape[2:4])

    def _written(self) -> Student:
        if self.network is None:
            raise ValueError("there is no network that could be taken apart")
        return self.network


def decode(picture: bytes | np.ndarray, camera: Camera, preprocessor: Preprocessor) -> np.ndarray:
    """The first half of ``preprocessor``: a JPEG at the size that is warped, another picture whole, and pixels as they came."""
    if isinstance(picture, np.ndarray):
        return picture
    factor = preprocessor.plan(camera).factor if picture.startswith(b"\xff\xd8") else 1
    flags = cv2.IMREAD_COLOR if factor == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
    return cv2.imdecode(np.frombuffer(picture, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)


def warp(reduced: np.ndarray, camera: Camera, out: np.ndarray, preprocessor: Preprocessor) -> None:
    """The second half: what is left of the way."""
    plan = preprocessor.plan(camera)
    if reduced.shape[:2] == (camera.height, camera.width) and plan.factor > 1:
        preprocessor(reduced, camera, out)
    else:
        cv2.remap(
            reduced,
            *plan.maps,
            INTERPOLATIONS[preprocessor.config.interpolation],
            dst=out,
            borderMode=cv2.BORDER_CONSTANT,
        )


def measure(
    pipeline: Pipeline, sets: Sequence[RigSet], count: int, progress: Callable[[], None] = lambda: None
) -> Measured:
    """Go through ``count`` sets of images, those given again and again, each once more for the parts; two go before, untold.

    The calibration is a new one in every set, as for a robot that moves.
    """
    measured = Measured()
    inputs = None if pipeline.network is None else pipeline.tensors(sets[0])
    for index in range(-2, count):
        into = measured if index >= 0 else Measured()
        rig_set = sets[index % len(sets)]
        pipeline.run(rig_set, into, MOVED_M * (index + 3))
        pipeline.run_picture_parts(rig_set, into)
        if inputs is not None:
            pipeline.run_network_parts(inputs, into)
        progress()
    return measured


def _add(to: dict[str, list[float]], laps: dict[str, float]) -> None:
    for name, value in laps.items():
        to.setdefault(name, []).append(value)
