"""The image backbone that a configuration names, and the pyramid that brings its features to one stride."""

from __future__ import annotations

from torch import Tensor

from bevdistill_ros.config import BackboneConfig
from bevdistill_ros.models.fpn import FPN
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.resnet import ResNet
from bevdistill_ros.models.timm_backbone import STRIDES, TimmBackbone


def make_backbone(config: BackboneConfig, size: tuple[int, int]) -> ResNet | TimmBackbone:
    """A backbone with fresh weights: normalised RGB (B, 3, H, W) to features at ``STRIDES``, of its ``out_channels``.

    Args:
        size: (H, W) of the images.
    """
    if config.timm:
        backbone: ResNet | TimmBackbone = TimmBackbone(config.timm, size)
    else:
        backbone = ResNet(config.depth, config.width, config.stages, config.deformable_stages, config.frozen_stages)
    if config.norm is not None:
        use_norm(backbone, config.norm)
    return backbone


class ImageNeck(FPN):
    """Merges a backbone's features (B, C_i, H / s, W / s) at ``STRIDES`` into (B, channels, H / stride, W / stride).

    Args:
        channels_in: the backbone's ``out_channels``.
        stride: one of ``STRIDES``; finer features are left out.
    """

    def __init__(self, channels_in: tuple[int, ...], stride: int, channels: int) -> None:
        finest = STRIDES.index(stride)
        super().__init__(channels_in[finest:], channels)
        self.finest = finest

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """See the class."""
        return super().forward(features[self.finest :])
