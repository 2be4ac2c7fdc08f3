"""The BEVFormer student (Li et al. 2022), single-frame: images to BEV features by attention, then boxes."""

from __future__ import annotations

from torch import Tensor

from bevdistill_ros.config import BevFormerModelConfig
from bevdistill_ros.models.bevformer_encoder import BevFormerEncoder
from bevdistill_ros.models.cell_views import CellViews
from bevdistill_ros.models.fpn import MultiScaleFPN
from bevdistill_ros.models.image_backbone import make_backbone
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.models.pixels import PixelNorm
from bevdistill_ros.models.student import Student

STEP = 512
"""Cells. A rig whose cameras move a little sees some more or less; on a grid of 128 x 128 a camera sees about 3300."""


class BevFormer(Student):
    """Camera-only detector by BEV queries."""

    dense = ("backbone", "neck", "head")

    def __init__(self, config: BevFormerModelConfig) -> None:
        super().__init__(config, config.bevformer.channels)
        self.pixels = PixelNorm()
        self.backbone = make_backbone(config.backbone, (config.image.height, config.image.width))
        self.neck = MultiScaleFPN(self.backbone.out_channels, config.bevformer.channels, config.bevformer.levels)
        self.encoder = BevFormerEncoder(config.bevformer, config.grid)
        self._add_heads()
        use_norm(self, config.norm)

    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> CellViews:
        """See ``Student``."""
        return self.encoder.views(K, ego_T_cam, mask, size)

    def padded(self, calibration: CellViews, cameras: int, size: tuple[int, int]) -> CellViews:
        """See ``Student``; lists of cells grow in steps of ``STEP``, for the longest possible would take several times as long."""
        return calibration.padded(cameras, STEP)

    def run(self, images: Tensor, calibration: CellViews) -> Outputs:
        """See ``Student``."""
        maps = self.neck(self.backbone(self.pixels(images)))
        features = [level.unflatten(0, images.shape[:2]) for level in maps]
        return self.detect(self.encoder.run(features, calibration))
