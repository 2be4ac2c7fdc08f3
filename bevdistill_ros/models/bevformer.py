"""The BEVFormer student (Li et al. 2022), single-frame: images to BEV features by attention, then boxes."""

from __future__ import annotations

from torch import Tensor

from bevdistill_ros.config import BevFormerModelConfig
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.bevformer_encoder import BevFormerEncoder
from bevdistill_ros.models.fpn import MultiScaleFPN
from bevdistill_ros.models.image_backbone import make_backbone
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.models.pixels import PixelNorm


class BevFormer(BevNetwork):
    """Camera-only detector by BEV queries. Cameras may be in any order and number; masked ones are as if absent."""

    inputs = ("images", "K", "ego_T_cam", "mask")
    dense = ("backbone", "neck", "head")

    def __init__(self, config: BevFormerModelConfig) -> None:
        super().__init__(config, config.bevformer.channels)
        self.pixels = PixelNorm()
        self.backbone = make_backbone(config.backbone, (config.image.height, config.image.width))
        self.neck = MultiScaleFPN(self.backbone.out_channels, config.bevformer.channels, config.bevformer.levels)
        self.encoder = BevFormerEncoder(config.bevformer, config.grid)
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
        maps = self.neck(self.backbone(self.pixels(images)))
        features = [level.unflatten(0, images.shape[:2]) for level in maps]
        return self.detect(self.encoder(features, K, ego_T_cam, mask, tuple(images.shape[2:4])))
