"""How much a network has to calculate and to move, by stage, whatever runs it.

Operations: those of torch.utils.flop_counter (a multiply-add is two), that is convolutions, matrix products and attention, and the
pooling's. Bytes: every such operator, and every gather from a map, reads its inputs and weights once and writes its output once;
what works value by value (normalisation, activation, sums) is taken as part of the operator before it, as a good compiler has it.
Pooling reads every pixel's context and depth once, and for each point its place, and writes the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from bevdistill_ros.bench.parts import LIFT, run_in_parts
from bevdistill_ros.bench.pipeline import UPLOAD, WARP
from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.models.bev_pool import PoolPlan
from bevdistill_ros.models.lift import Lift, LiftCalibration
from bevdistill_ros.models.simulated import SimulatedCalibration
from bevdistill_ros.models.student import Student
from bevdistill_ros.preprocess import Preprocessor

_OPERATORS = (
    "convolution", "mm", "addmm", "bmm", "baddbmm", "grid_sampler_2d", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
)  # fmt: skip
_MOVING = {
    getattr(torch.ops.aten, name) for name in _OPERATORS if hasattr(torch.ops.aten, name)
}  # older torch lacks some


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes moved."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


class _Moved(TorchDispatchMode):
    """Adds up the bytes of the operators that are called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _MOVING:
            tensors = [leaf for leaf in tree_flatten((args, kwargs, out))[0] if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def work_of(run: Callable[[], Any]) -> Work:
    """What one call works; of operators that the module's text names."""
    return _work_by_part(lambda begin, end: (run(), end("all")))["all"]


def _work_by_part(run: Callable[[Callable[[], None], Callable[[str], None]], Any]) -> dict[str, Work]:
    counted: dict[str, Work] = {}
    seen = Work()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Moved() as moved:

        def end(part: str) -> None:
            nonlocal seen
            now = Work(flops.get_total_flops(), moved.bytes)
            counted[part] = Work(now.flops - seen.flops, now.bytes - seen.bytes)
            seen = now

        run(lambda: None, end)
    return counted


def network_work(network: Student, images: Tensor, calibration: Any) -> dict[str, Work]:
    """By part, of ``network.run(images, calibration)``."""

    def run(begin: Callable[[], None], end: Callable[[str], None]) -> None:
        run_in_parts(network, lambda: network.run(images, calibration), begin, end)

    # The counter asks the inputs of modules how they were made, which views of parameters do not know where no gradients are kept.
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        counted = _work_by_part(run)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
    match calibration:
        case LiftCalibration(plan=plan):
            counted[LIFT] += pool_work(network.lift, plan)
        case SimulatedCalibration(plan=plan):
            counted[LIFT] += pool_work(network.lift, plan) + pool_work(network.simulated_lift, plan)
    return counted


def picture_work(rig_set: RigSet, preprocessor: Preprocessor) -> dict[str, Work]:
    """Of warping a set's pictures, and of uploading them: bytes alone. Decoding has neither a known number of operations nor is it
    bound by memory."""
    height, width = preprocessor.config.height, preprocessor.config.width
    decoded = warped = maps = 0
    for picture, camera in zip(rig_set.pictures, rig_set.cameras):
        plan = preprocessor.plan(camera)
        factor = 1 if isinstance(picture, np.ndarray) else plan.factor
        decoded += 3 * -(-camera.width // factor) * -(-camera.height // factor)
        warped += 3 * width * height
        maps += sum(part.nbytes for part in plan.maps if part is not None)
    return {WARP: Work(0, decoded + maps + warped), UPLOAD: Work(0, warped)}


def pool_work(lift: Lift, plan: PoolPlan) -> Work:
    """Of pooling a lift's features once, in float32."""
    points, channels, bins = len(plan.points), lift.config.channels, lift.config.bins
    pixels = int(plan.pixels.max()) + 1 if points else 0
    batch, rows, columns = plan.shape
    values = pixels * (channels + bins) + batch * rows * columns * channels
    return Work(2 * points * channels, 4 * values + points * plan.points.element_size())
