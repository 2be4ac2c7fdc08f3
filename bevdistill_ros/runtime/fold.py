"""Batch normalisation folded into the convolutions before it: in use it is a scale and a shift of what they give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bevdistill_ros.models.fuser import ConvFuser
from bevdistill_ros.models.norm import FrozenStatistics
from bevdistill_ros.models.resnet import BasicBlock, Bottleneck, ResNet

_CALLED = {
    BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    ResNet: (("conv1", "bn1"),),
    ConvFuser: (("0", "1"),),
}
"""Modules whose ``forward`` says what follows what: these convolutions are followed by these normalisations at once."""


def fold_normalisation(network: nn.Module) -> None:
    """Change a network in place so that it gives, but for rounding, what it gives in evaluation mode, with fewer layers.

    Where it is not certain that a normalisation follows a convolution at once, or where the convolution is of another kind
    (deformable), both stay as they are. The result cannot be trained, and its state dict is another one.
    """
    for module in list(network.modules()):
        for convolution, norm in _followers(module):
            first, second = getattr(module, convolution), getattr(module, norm)
            if type(first) is nn.Conv2d and type(second) in (nn.BatchNorm2d, FrozenStatistics):
                first.weight, first.bias = fuse_conv_bn_weights(
                    first.weight,
                    first.bias,
                    second.running_mean,
                    second.running_var,
                    second.eps,
                    second.weight,
                    second.bias,
                )
                setattr(module, norm, nn.Identity())


def _followers(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of pairs of a module's children of which the second takes what the first gives, and nobody else does."""
    if type(module) is nn.Sequential:
        yield from pairwise(name for name, _ in module.named_children())
    yield from _CALLED.get(type(module), ())
