"""Which normalisation follows a network's convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.config import Norm

GROUP = 8
"""Channels that are normalised together by ``Norm.GROUP``, as far as a layer's number of channels allows."""


class FrozenStatistics(nn.Module):
    """Batch normalisation by the running statistics it has, which no training changes; scale and shift are learnt.

    Parameters and buffers are those of ``nn.BatchNorm2d``, so the weights of either load into the other.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def use_norm(network: nn.Module, norm: Norm) -> None:
    """Replace every ``nn.BatchNorm2d`` of a fresh network by what ``norm`` asks for; names of weights and biases stay."""
    if norm is Norm.BATCH:
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:  # of those derived from it, timm's have an activation inside
                channels = child.num_features
                groups = channels // math.gcd(channels, GROUP)
                other = nn.GroupNorm(groups, channels) if norm is Norm.GROUP else FrozenStatistics(channels, child.eps)
                setattr(module, name, other.requires_grad_(child.weight.requires_grad))
