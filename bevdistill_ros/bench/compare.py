"""Ours beside the straightforward path, run in turn in one process: how many times its speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.bench import straightforward
from bevdistill_ros.bench.box_messages import MANY, many_boxes, message_makers
from bevdistill_ros.bench.pipeline import SCORE, Pipeline
from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.bench.straightforward import StraightforwardDetector, scatter_add
from bevdistill_ros.bench.timing import in_turn
from bevdistill_ros.config import ImageConfig
from bevdistill_ros.models.bev_pool import PoolPlan, bev_pool
from bevdistill_ros.models.pixels import PixelNorm
from bevdistill_ros.preprocess import Preprocessor

TARGETS = ((704, 256), (256, 96))
"""Width, height of the images that the models take."""

POOL_BATCH = 4
"""Samples whose features are pooled, as many as ``nano`` trains with."""

OURS, NORMALISED, STRAIGHTFORWARD = "ours", "ours_normalised", "straightforward"


def compare(
    pipeline: Pipeline,
    sets: Sequence[RigSet],
    turns: int,
    seed: int,
    opencv_threads: int,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Ratios of medians (times the straightforward path's speed), and the medians (ms).

    ``preprocess_WxH``: from encoded pictures to what each one's network takes, uint8 for ours, normalised float32 for the other;
    ``preprocess_WxH_normalised``: to normalised float32 for both. ``pipeline``: from encoded pictures to boxes.
    ``pool_forward``, ``pool_backward`` (forward and backward). ``messages_300``: boxes to the bytes of ``~/detections`` and
    ``~/objects``, the other field by field; only where there is ROS 2.

    OpenCV has the threads in each that it has there in use: one in a call of ours, where pictures run side by side, its own number
    in the straightforward path.

    Args:
        opencv_threads: of OpenCV in the straightforward path.

    Raises:
        UserError: the model is of a kind that the straightforward path cannot run, or an exported one.
    """
    device = pipeline.detector.device
    straight = StraightforwardDetector(pipeline.network, device)
    own_threads = cv2.getNumThreads()

    def prepare(way: str) -> None:
        cv2.setNumThreads(opencv_threads if way == STRAIGHTFORWARD else own_threads)

    def turn_about(ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        try:
            return in_turn(ways, turns, seed, device, prepare)
        finally:
            cv2.setNumThreads(own_threads)

    figures: dict[str, Any] = {"ratios": {}, "median_ms": {}}

    def keep(name: str, taken: dict[str, list[float]]) -> None:
        medians = {way: median(values) for way, values in taken.items()}
        figures["median_ms"][name] = {way: round(value, 3) for way, value in medians.items()}
        figures["ratios"][name] = round(medians[STRAIGHTFORWARD] / medians[OURS], 2)
        if NORMALISED in medians:
            figures["ratios"][f"{name}_normalised"] = round(medians[STRAIGHTFORWARD] / medians[NORMALISED], 2)
        told(f"{name}: {figures['ratios'][name]} times the straightforward path's speed")

    for width, height in TARGETS:
        ways = preprocess_ways(pipeline, sets, ImageConfig(height, width))
        keep(f"preprocess_{width}x{height}", turn_about(ways))
    keep("pipeline", turn_about(_pipeline_ways(pipeline, straight, sets)))
    ways = pool_ways(*_pool_inputs(pipeline, sets[0]))
    for name, pair in ways.items():
        keep(name, turn_about(pair))
    if (makers := message_makers()) is not None:
        boxes = many_boxes(pipeline.detector.class_names)
        ways = {name: partial(make, boxes) for name, make in zip((OURS, STRAIGHTFORWARD), makers)}
        keep(f"messages_{MANY}", turn_about(ways))
    return figures


def _each(sets: Sequence[RigSet], work: Callable[[RigSet], Any]) -> Callable[[], Any]:
    """Goes through the sets, one a call."""
    position = -1

    def run() -> Any:
        nonlocal position
        position = (position + 1) % len(sets)
        return work(sets[position])

    return run


def preprocess_ways(
    pipeline: Pipeline, sets: Sequence[RigSet], config: ImageConfig
) -> dict[str, Callable[[], np.ndarray | Tensor]]:
    """From encoded pictures to (N, H, W, 3) uint8, or to (N, 3, H, W) float32 normalised."""
    ours, norm = Preprocessor(config), PixelNorm()

    def straight(rig_set: RigSet) -> np.ndarray:
        pairs = zip(rig_set.pictures, rig_set.cameras)
        return np.stack([straightforward.preprocess(picture, camera, config) for picture, camera in pairs])

    def normalised(rig_set: RigSet) -> Tensor:
        return norm(torch.from_numpy(pipeline.preprocess(rig_set, ours)[0])[None])

    return {
        OURS: _each(sets, lambda rig_set: pipeline.preprocess(rig_set, ours)[0]),
        NORMALISED: _each(sets, normalised),
        STRAIGHTFORWARD: _each(sets, straight),
    }


def _pipeline_ways(
    pipeline: Pipeline, straight: StraightforwardDetector, sets: Sequence[RigSet]
) -> dict[str, Callable[[], Any]]:
    tensors = pipeline.tensors(sets[0])
    straight.calibrate(*tensors[1:], tensors[0].shape[2:4])
    # All sets of a rig have its calibration but for the motion between the images, which both ways would follow at the same cost.
    return {
        OURS: _each([_placed(one, sets[0]) for one in sets], pipeline.detect),
        STRAIGHTFORWARD: _each(sets, lambda rig_set: straight(rig_set, SCORE)),
    }


def _placed(rig_set: RigSet, like: RigSet) -> RigSet:
    return RigSet(rig_set.names, rig_set.pictures, like.cameras, like.ego_T_cam)


def _pool_inputs(pipeline: Pipeline, rig_set: RigSet) -> tuple[Tensor, Tensor, PoolPlan]:
    """Context and depth of random values, and the plan, of a batch that this rig sees."""
    network = pipeline.network
    images, *calibration = pipeline.tensors(rig_set)
    height, width = images.shape[2:4]
    calibration = [a.expand(POOL_BATCH, *a.shape[1:]).contiguous() for a in calibration]
    plan = network.calibrate(*calibration, (height, width)).plan
    generator = torch.Generator().manual_seed(0)
    config = network.lift.config
    pixels = POOL_BATCH * images.shape[1] * (height // config.stride) * (width // config.stride)
    context = torch.randn(pixels, config.channels, generator=generator)
    depth = torch.randn(pixels, config.bins, generator=generator).softmax(dim=1)
    return context.to(images.device), depth.to(images.device), plan


def pool_ways(context: Tensor, depth: Tensor, plan: PoolPlan) -> dict[str, dict[str, Callable[[], Any]]]:
    """``pool_forward`` and ``pool_backward`` of both."""
    context, depth = context.requires_grad_(), depth.requires_grad_()
    batch, rows, columns = plan.shape
    of_bev = torch.randn(batch, context.shape[1], rows, columns, generator=torch.Generator().manual_seed(1))
    of_bev = of_bev.to(context.device)

    def forward(pool: Callable[[Tensor, Tensor, PoolPlan], Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: pool(context, depth, plan))

    def both(pool: Callable[[Tensor, Tensor, PoolPlan], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(pool(context, depth, plan), (context, depth), of_bev)

    return {
        "pool_forward": {OURS: forward(bev_pool), STRAIGHTFORWARD: forward(scatter_add)},
        "pool_backward": {OURS: both(bev_pool), STRAIGHTFORWARD: both(scatter_add)},
    }
