"""The LSS student: six (or any number of) images to BEV features, heatmaps and boxes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bevdistill_ros.config import LssModelConfig
from bevdistill_ros.models.bev_encoder import BevEncoder
from bevdistill_ros.models.bev_pool import PoolPlan
from bevdistill_ros.models.image_backbone import ImageNeck, make_backbone
from bevdistill_ros.models.lift import Lift, LiftCalibration, all_present
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.models.pixels import PixelNorm
from bevdistill_ros.models.student import Student


class LSS(Student):
    """Camera-only detector by lift-splat."""

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

    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> LiftCalibration:
        """See ``Student``."""
        arguments = (K, ego_T_cam, mask, self.lift.feature_size(size))
        return self.calibration(self.lift.plan(*arguments), self.lift.looks(*arguments))

    def calibration(self, plan: PoolPlan, looks: Tensor | None) -> LiftCalibration:
        """Of its geometry: ``calibrate`` from there on. ``looks`` is what ``Lift.looks`` gives."""
        return LiftCalibration(plan, self.lift.told(looks))

    def padded(self, calibration: LiftCalibration, cameras: int, size: tuple[int, int]) -> LiftCalibration:
        """See ``Student``; the sizes depend on cameras and images alone."""
        return calibration._replace(plan=self.lift.padded(calibration.plan, cameras, self.lift.feature_size(size)))

    def run(self, images: Tensor, calibration: LiftCalibration) -> Outputs:
        """See ``Student``."""
        lifted, image = self.lift.run(self._features(images), calibration)
        return replace(self.detect(self.bev_encoder(lifted)), image=image)

    def describe_images(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """``forward``'s ``Outputs.image`` alone, for less than half of the work."""
        mask = all_present(images) if mask is None else mask
        rays = self.lift.rays(K, ego_T_cam, mask, self.lift.feature_size(images.shape[2:4]))
        return self.lift.describe(self._features(images), rays)

    def _features(self, images: Tensor) -> Tensor:
        """(B, N, C, h, w) of the images."""
        return self.neck(self.backbone(self.pixels(images))).unflatten(0, images.shape[:2])
