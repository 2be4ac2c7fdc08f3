"""The LSS student: six (or any number of) images to BEV features, heatmaps and boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevdistill_ros.config import CameraModelConfig
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.bev_encoder import BevEncoder
from bevdistill_ros.models.center_head import CenterHead, decode
from bevdistill_ros.models.fpn import FPN
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.models.resnet import ResNet

# ImageNet statistics, in the BGR order that images have here.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = (57.375, 57.12, 58.395)


class LSS(nn.Module):
    """Camera-only detector by lift-splat. Cameras may be in any order and number; masked ones are as if absent.

    Attributes:
        channels: of ``Outputs.bev``.
    """

    inputs = ("images", "K", "ego_T_cam", "mask")
    """Names of the arguments of ``forward``, by which a training's batches call them."""

    dense = ("backbone", "neck", "bev_encoder", "head")
    """Names of the parts whose shapes depend on no values, which a compiler can take whole."""

    def __init__(self, config: CameraModelConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.bev.channels
        self.backbone = ResNet(config.backbone.depth, config.backbone.width, config.backbone.stages)
        strides = (8, 16, 32)
        self.first_scale = strides.index(config.lift.stride)
        self.neck = FPN(self.backbone.out_channels[self.first_scale :], config.lift.neck_channels)
        self.lift = Lift(config.lift, config.grid)
        self.bev_encoder = BevEncoder(config.lift.channels, config.bev)
        self.head = CenterHead(self.channels, config.classes, config.head)
        use_norm(self, config.norm)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None) -> Outputs:
        """Run the network.

        Args:
            images: (B, N, H, W, 3) uint8, BGR, as ``preprocess.Preprocessor`` makes them.
            K: (B, N, 3, 3) float32 of those images.
            ego_T_cam: (B, N, 4, 4) float32, base frame at the reference time.
            mask: (B, N) bool, False where a camera is missing; None: all are there.
        """
        features, mask = self._features(images, mask)
        lifted, image = self.lift(features, K, ego_T_cam, mask)
        bev = self.bev_encoder(lifted)
        return Outputs(bev, *self.head(bev), image)

    def describe_images(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """``forward``'s ``Outputs.image`` alone, for less than half of the work."""
        features, mask = self._features(images, mask)
        return self.lift.describe(features, K, ego_T_cam, mask)

    def _features(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (B, N, C, h, w) of the images, and the mask (B, N)."""
        batch, cameras = images.shape[:2]
        if mask is None:
            mask = torch.ones(batch, cameras, dtype=torch.bool, device=images.device)
        x = images.flatten(0, 1).permute(0, 3, 1, 2).to(self.pixel_mean.dtype)
        # RGB order for the backbone, since torchvision's checkpoints are.
        x = ((x - self.pixel_mean) / self.pixel_std).flip(1)
        return self.neck(self.backbone(x)[self.first_scale :]).unflatten(0, (batch, cameras)), mask

    def decode(self, outputs: Outputs, min_score: float = 0.0) -> list[Boxes]:
        """Boxes of each sample in the base frame, best score first."""
        config = self.config
        return decode(outputs.heatmap, outputs.codes, config.grid, config.classes, config.head, min_score)
