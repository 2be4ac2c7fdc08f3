"""BEV features of student and teacher made comparable."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.config import Norm
from bevdistill_ros.models.conv import conv_bn_relu
from bevdistill_ros.models.norm import use_norm


def make_adapter(channels_in: int, channels: int, norm: Norm) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU: from a student's BEV features to what may be a teacher's, which end in a ReLU, too.

    Args:
        norm: of the student. Where its statistics are frozen, the adapter, which has none yet, takes those of the batch.
    """
    adapter = conv_bn_relu(channels_in, channels)
    if norm is Norm.GROUP:
        use_norm(adapter, norm)
    return adapter


def make_projection(channels_in: int, channels: int) -> nn.Module:
    """1x1 convolution between features that differ in channels alone; where they do not, the features as they are."""
    return nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)


def on_grid_of(student: Tensor, teacher: Tensor) -> Tensor:
    """The teacher's map (B, C, y, x) on the grid of the student's (B, *, Y, X), which covers the same range, bilinearly."""
    if teacher.shape[-2:] == student.shape[-2:]:
        return teacher
    return F.interpolate(teacher, size=student.shape[-2:], mode="bilinear", align_corners=False)
