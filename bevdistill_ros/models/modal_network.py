"""What networks with two kinds of BEV features have in common: a fuser of both, and the BEV encoder after it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from bevdistill_ros.config import FusionModelConfig, SimulatedModelConfig
from bevdistill_ros.models.bev_encoder import BevEncoder
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.conv import conv_bn_relu
from bevdistill_ros.models.fuser import ConvFuser
from bevdistill_ros.models.image_backbone import ImageNeck, make_backbone
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.models.outputs import ImageFeatures, ModalFeatures, Outputs
from bevdistill_ros.models.pixels import PixelNorm


class ModalChannels(NamedTuple):
    """Channels of a network's ``ModalFeatures``."""

    camera: int
    lidar: int
    fused: int


class ModalNetwork(BevNetwork):
    """A detector that joins camera features with LiDAR features, real or simulated, and tells of all in ``Outputs.modal``.

    Whoever derives from it makes what gives the LiDAR features, then calls ``_add_heads``. Its image branch is that of ``LSS``, by
    the same names, so one starts from the weights of the other. What was lifted are sums over points: ten thousand times as
    large about the vehicle as far away. ``camera_bev`` makes of them features of one scale, as LiDAR's are.

    Args:
        lidar: channels of the LiDAR features.
    """

    def __init__(self, config: FusionModelConfig | SimulatedModelConfig, lidar: int) -> None:
        super().__init__(config, config.bev.channels)
        self.modal_channels = ModalChannels(config.lift.channels, lidar, config.fused_channels)
        self.pixels = PixelNorm()
        self.backbone = make_backbone(config.backbone, (config.image.height, config.image.width))
        self.neck = ImageNeck(self.backbone.out_channels, config.lift.stride, config.lift.neck_channels)
        self.lift = Lift(config.lift, config.grid)
        self.camera_bev = conv_bn_relu(config.lift.channels, config.lift.channels)
        self.fuser = ConvFuser(*self.modal_channels)
        self.bev_encoder = BevEncoder(config.fused_channels, config.bev)

    def _image_features(self, images: Tensor) -> Tensor:
        """(B, N, C, h, w) of the images (B, N, H, W, 3)."""
        return self.neck(self.backbone(self.pixels(images))).unflatten(0, images.shape[:2])

    def _detect_both(self, camera: Tensor, lidar: Tensor, image: ImageFeatures) -> Outputs:
        """What the heads make of both kinds of BEV features."""
        fused = self.fuser(camera, lidar)
        modal = ModalFeatures(camera, lidar, fused)
        return replace(self.detect(self.bev_encoder(fused)), image=image, modal=modal)
