"""The LSS student: six (or any number of) images to BEV features, heatmaps and boxes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bevdistill_ros.config import LssModelConfig
from bevdistill_ros.models.bev_encoder import BevEncoder
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.image_backbone import ImageNeck, make_backbone
from bevdistill_ros.models.lift import Lift, all_present
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.models.pixels import PixelNorm


class LSS(BevNetwork):
    """Camera-only detector by lift-splat. Cameras may be in any order and number; masked ones are as if absent."""

    inputs = ("images", "K", "ego_T_cam", "mask")
    dense = ("backbone", "neck", "bev_encoder", "head")

    def __init__(self, config: LssModelConfig) -> None:
        super().__init__(config, config.bev.channels)
        self.pixels = PixelNorm()
        self.backbone = make_backbone(config.backbone, (config.image.height, config.image.width))
        self.neck = ImageNeck(self.backbone.out_channels, config.lift.stride, config.lift.neck_channels)
        self.lift = Lift(config.lift, config.grid)
        self.bev_encoder = BevEncoder(config.lift.channels, config.bev)
        self._add_heads()
        use_norm(self, config.norm)

    def forward(self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None) -> Outputs:
        """Run the network.

        Args:
            images: (B, N, H, W, 3) uint8, BGR, as ``preprocess.Preprocessor`` makes them.
            K: (B, N, 3, 3) float32 of those images.
            ego_T_cam: (B, N, 4, 4) float32, base frame at the reference time.
            mask: (B, N) bool, False where a camera is missing; None: all are there.
        """
        mask = all_present(images) if mask is None else mask
        lifted, image = self.lift(self._features(images), K, ego_T_cam, mask)
        return replace(self.detect(self.bev_encoder(lifted)), image=image)

    def describe_images(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """``forward``'s ``Outputs.image`` alone, for less than half of the work."""
        mask = all_present(images) if mask is None else mask
        return self.lift.describe(self._features(images), K, ego_T_cam, mask)

    def _features(self, images: Tensor) -> Tensor:
        """(B, N, C, h, w) of the images."""
        return self.neck(self.backbone(self.pixels(images))).unflatten(0, images.shape[:2])
