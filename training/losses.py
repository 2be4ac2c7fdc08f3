"""Detection losses, as pure functions of predictions and targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.models.outputs import CenterOutputs
from bevdistill_ros.training.config import CenterLossConfig
from bevdistill_ros.training.targets import CenterTargets


def gaussian_focal_loss(
    logits: Tensor, target: Tensor, doubtful: Tensor | None = None, alpha: float = 2.0, beta: float = 4.0
) -> Tensor:
    """Sum over all cells of the penalty-reduced focal loss (CornerNet, Law & Deng 2018, eq. 1).

    At centres (target 1): -(1 - p)^alpha log p; elsewhere: -(1 - target)^beta p^alpha log(1 - p), but 0 where ``doubtful`` (bool).
    """
    p = logits.sigmoid()
    at_center = target == 1
    center = (1 - p) ** alpha * F.logsigmoid(logits)
    elsewhere = (1 - target) ** beta * p**alpha * F.logsigmoid(-logits)
    if doubtful is not None:
        elsewhere = elsewhere.masked_fill(doubtful, 0.0)
    return -torch.where(at_center, center, elsewhere).sum()


def center_losses(
    outputs: CenterOutputs, targets: CenterTargets, config: CenterLossConfig, counts: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted losses by name: ``heatmap`` per centre, ``box`` (L1) per regressed cell. A batch without boxes has box loss 0.

    Args:
        counts: (2,) above 0, what to divide by instead of these targets' own ``counts()``, where they are a part of a batch.
    """
    centers, cells = targets.counts().clamp(min=1) if counts is None else counts
    heatmap = gaussian_focal_loss(outputs.heatmap.float(), targets.heatmap, targets.doubtful) / centers
    # Few cells are regressed: (n, BOX_CODE) of them.
    regressed = targets.weight > 0
    predicted, wanted = (codes.movedim(2, -1)[regressed] for codes in (outputs.codes, targets.codes))
    box = (known_difference(predicted.float(), wanted) * code_weights(config.weights, wanted)).sum() / cells
    return {"heatmap": heatmap, "box": config.box_weight * box}


def code_weights(weights: tuple[float, float, float, float, float], like: Tensor) -> Tensor:
    """(BOX_CODE,) of the weights of centre, z, log size, sin/cos yaw and velocity."""
    center, z, size, yaw, velocity = weights
    return like.new_tensor([center, center, z, size, size, size, yaw, yaw, velocity, velocity])


def known_difference(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Absolute differences; 0 and without a gradient where ``wanted`` is NaN, as unknown velocities are."""
    known = wanted.isfinite()
    return torch.where(known, (predicted - torch.where(known, wanted, 0.0)).abs(), 0.0)
