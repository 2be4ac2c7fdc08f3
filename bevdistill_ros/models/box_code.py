"""The numbers in which heads regress a box."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.geometry import Boxes

BOX_CODE = 10
"""How many there are: x, y of the centre, z (m), log length, width, height (m), sin yaw, cos yaw, velocity x, y (m/s).

A query head's x and y are metres in the base frame; a centre head's are the offset from the cell's centre, in cells."""

LOG_SIZES = (-5.0, 5.0)
"""Between them are the logarithms of sizes that are decoded: 7 mm to 148 m."""


def encode_boxes(boxes: Boxes) -> np.ndarray:
    """Codes (N, BOX_CODE) of boxes, x and y in metres; NaN where a velocity is unknown."""
    return np.concatenate(
        [
            boxes.centers,
            np.log(boxes.sizes),
            np.sin(boxes.yaws)[:, None],
            np.cos(boxes.yaws)[:, None],
            boxes.velocities,
        ],
        axis=1,
    )


def decoded_codes(codes: Tensor) -> Tensor:
    """Codes (..., BOX_CODE) of the boxes that ``codes`` decode to: a heading that a network is unsure of is short, a box's is 1."""
    yaws = torch.atan2(codes[..., 6], codes[..., 7])
    heading = torch.stack([yaws.sin(), yaws.cos()], dim=-1)
    return torch.cat([codes[..., :3], codes[..., 3:6].clamp(*LOG_SIZES), heading, codes[..., 8:]], dim=-1)


def decode_boxes(codes: np.ndarray, scores: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Boxes:
    """Boxes of codes (N, BOX_CODE) whose x and y are metres in the base frame; ``encode_boxes`` inverts it.

    Args:
        scores, labels: (N,).
    """
    return Boxes(
        centers=codes[:, :3],
        sizes=np.exp(np.clip(codes[:, 3:6], *LOG_SIZES)),
        yaws=np.arctan2(codes[:, 6], codes[:, 7]),
        velocities=codes[:, 8:10],
        scores=scores,
        labels=labels,
        class_names=classes,
    )
