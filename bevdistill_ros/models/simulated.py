"""The student that simulates LiDAR features (SimDistill, Zhao et al. 2024): cameras alone, in the shape of a fusion teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bevdistill_ros.config import SimulatedModelConfig
from bevdistill_ros.models.geometry_compensation import GeometryCompensation
from bevdistill_ros.models.lift import Lift, all_present
from bevdistill_ros.models.modal_network import ModalNetwork
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs


class SimulatedNet(ModalNetwork):
    """Camera-only detector, called as ``LSS`` is. Cameras may be in any order and number; masked ones are as if absent.

    One feature map of each image is lifted twice, with weights of their own: once to what cameras see and once to what LiDAR would.
    Geometry compensation acts on the image features (on each image by itself, all alike) and on the simulated LiDAR features.
    """

    inputs = ("images", "K", "ego_T_cam", "mask")
    dense = ("backbone", "neck", "fuser", "bev_encoder", "head")

    def __init__(self, config: SimulatedModelConfig) -> None:
        super().__init__(config, config.lift.channels)
        self.simulated_lift = Lift(config.lift, config.grid)
        how, lift, grid, image = config.compensation, config.lift, config.grid, config.image
        self.image_compensation: nn.Module = nn.Identity()
        if how.image:
            size = image.height // lift.stride, image.width // lift.stride
            self.image_compensation = GeometryCompensation(lift.neck_channels, *size, how.heads, how.image_points)
        self.bev_compensation: nn.Module = nn.Identity()
        if how.bev:
            self.bev_compensation = GeometryCompensation(
                lift.channels, grid.rows, grid.columns, how.heads, how.bev_points
            )
        self._add_heads()
        use_norm(self, config.norm)

    def forward(self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None) -> Outputs:
        """Run the network; arguments as for ``LSS``. ``Outputs.image`` is that of ``describe_images``."""
        mask = all_present(images) if mask is None else mask
        features = self._features(images)
        arguments = (K, ego_T_cam, mask)
        plan = self.lift.plan(*arguments, features.shape[-2:])  # both lifts look along the same rays
        of_camera = self.lift.describe(features, *arguments)
        of_lidar = self.simulated_lift.describe(features, *arguments)
        simulated = self.bev_compensation(self.simulated_lift.splat(of_lidar, plan))
        return self._detect_both(self.lift.splat(of_camera, plan), simulated, _side_by_side(of_camera, of_lidar))

    def describe_images(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """What both lifts make of the images, (B, 2 N, ...): ``lift`` of every camera, then ``simulated_lift`` of every camera."""
        mask = all_present(images) if mask is None else mask
        features = self._features(images)
        return _side_by_side(
            *(lift.describe(features, K, ego_T_cam, mask) for lift in (self.lift, self.simulated_lift))
        )

    def _features(self, images: Tensor) -> Tensor:
        features = self._image_features(images)
        return self.image_compensation(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def _side_by_side(first: ImageFeatures, second: ImageFeatures) -> ImageFeatures:
    return ImageFeatures(
        torch.cat([first.depth, second.depth], dim=1), torch.cat([first.context, second.context], dim=1)
    )
