"""Which query is to become which box: the assignment of least cost (DETR, Carion et al. 2020, section 3.1), and its costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

NEVER = 1e9
"""Cost of a pair whose own is not finite."""


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of least total cost, by SciPy on the CPU; each row and each column at most once.

    Costs that are not finite are taken for very high ones, so there is always an assignment. They come of predictions that are not
    finite, whose loss is not finite either; a training ends on that, in all of its processes together, and tells the samples.

    Args:
        cost: (Q, G); without gradient.

    Returns:
        Rows and columns (min(Q, G),) of the pairs, on the cost's device; rows rise.
    """
    return assign_each([cost])[0]


def assign_each(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """``assign`` for each of several costs; a GPU is waited for once."""
    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([cost.detach().float().flatten() for cost in costs]).nan_to_num(NEVER, NEVER, NEVER).cpu()
    pairs = []
    for cost, values in zip(costs, flat.split([cost.numel() for cost in costs]), strict=True):
        rows, columns = linear_sum_assignment(values.reshape(cost.shape).numpy())
        pairs.append((torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)))
    return pairs


def focal_cost(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """What the focal loss of a query grows by when it is to be a box's class and not background.

    -alpha (1 - p)^gamma log p + (1 - alpha) p^gamma log(1 - p), p the probability of the box's class.

    Args:
        logits: (..., Q, classes).
        labels: (G,) of the boxes.

    Returns:
        (..., Q, G).
    """
    own = logits[..., labels]
    p = own.sigmoid()
    return -alpha * (1 - p) ** gamma * F.logsigmoid(own) + (1 - alpha) * p**gamma * F.logsigmoid(-own)


def l1_cost(codes: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the absolute differences between box codes, but for the velocities.

    Args:
        codes: (..., Q, BOX_CODE) of the queries.
        wanted: (G, BOX_CODE) of the boxes.

    Returns:
        (..., Q, G).
    """
    return (codes[..., :, None, :8] - wanted[:, :8]).abs().sum(dim=-1)
