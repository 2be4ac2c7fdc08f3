"""The fusion teacher: point clouds and images to BEV features, heatmaps and boxes (after BEVFusion, Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bevdistill_ros.config import FusionModelConfig
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.modal_network import ModalNetwork
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.models.pillars import Pillars
from bevdistill_ros.models.second import Second


class FusionNet(ModalNetwork):
    """Detector from LiDAR points and images. Without any camera its camera features are those of empty ground: it sees by LiDAR."""

    inputs = ("points", "images", "K", "ego_T_cam", "mask")
    dense = ("backbone", "neck", "camera_bev", "second", "fuser", "bev_encoder", "head")

    def __init__(self, config: FusionModelConfig) -> None:
        super().__init__(config, config.second.channels_out)
        self.pillars = Pillars(config.pillars, config.grid)
        scale = round(config.grid.cell / config.pillars.cell)
        self.second = Second(self.pillars.channels, config.second, scale)
        self._add_heads()
        use_norm(self, config.norm)

    def forward(
        self, points: Sequence[Tensor], images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> Outputs:
        """Run the network on the points of each sample, see ``PillarNet``, and its images, see ``LSS``."""
        mask = all_present(images) if mask is None else mask
        camera, image = self.lift(self._image_features(images), K, ego_T_cam, mask)
        return self._detect_both(self.camera_bev(camera), self.second(self.pillars(points)), image)

    def describe_images(
        self, points: Sequence[Tensor], images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """``forward``'s ``Outputs.image`` alone, which needs no points."""
        mask = all_present(images) if mask is None else mask
        features = self._image_features(images)
        return self.lift.describe(features, self.lift.rays(K, ego_T_cam, mask, features.shape[-2:]))
