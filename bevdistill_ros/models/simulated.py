"""The student that simulates LiDAR features (SimDistill, Zhao et al. 2024): cameras alone, in the shape of a fusion teacher."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bevdistill_ros.config import SimulatedModelConfig
from bevdistill_ros.models.bev_pool import PoolPlan
from bevdistill_ros.models.conv import conv_bn_relu
from bevdistill_ros.models.geometry_compensation import GeometryCompensation
from bevdistill_ros.models.lift import Lift, all_present
from bevdistill_ros.models.modal_network import ModalNetwork
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.models.student import Student


class SimulatedCalibration(NamedTuple):
    """What both lifts need to know of the cameras, see ``LiftCalibration``: the plan, and the rays of each."""

    plan: PoolPlan
    rays: Tensor | None
    simulated_rays: Tensor | None


class SimulatedNet(ModalNetwork, Student):
    """Camera-only detector, called as ``LSS`` is.

    One feature map of each image is lifted twice, with weights of their own: once to what cameras see and once to what LiDAR would.
    Geometry compensation acts on the image features (on each image by itself, all alike) and on the simulated LiDAR features.
    """

    twins: ClassVar = {"simulated_lift": "lift"}
    dense = ("backbone", "neck", "camera_bev", "simulated_bev", "fuser", "bev_encoder", "head")

    def __init__(self, config: SimulatedModelConfig) -> None:
        super().__init__(config, config.lift.channels)
        self.simulated_lift = Lift(config.lift, config.grid)
        self.simulated_bev = conv_bn_relu(config.lift.channels, config.lift.channels)
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

    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> SimulatedCalibration:
        """See ``Student``."""
        arguments = (K, ego_T_cam, mask, self.lift.feature_size(size))
        # Both lifts look along the same rays: one plan serves both.
        return self.calibration(self.lift.plan(*arguments), self.lift.looks(*arguments))

    def calibration(self, plan: PoolPlan, looks: Tensor | None) -> SimulatedCalibration:
        """Of its geometry: ``calibrate`` from there on. ``looks`` is what ``Lift.looks`` gives."""
        return SimulatedCalibration(plan, self.lift.told(looks), self.simulated_lift.told(looks))

    def padded(self, calibration: SimulatedCalibration, cameras: int, size: tuple[int, int]) -> SimulatedCalibration:
        """See ``Student``; the sizes depend on cameras and images alone."""
        return calibration._replace(plan=self.lift.padded(calibration.plan, cameras, self.lift.feature_size(size)))

    def run(self, images: Tensor, calibration: SimulatedCalibration) -> Outputs:
        """See ``Student``. ``Outputs.image`` is that of ``describe_images``."""
        features = self._features(images)
        of_camera = self.lift.describe(features, calibration.rays)
        of_lidar = self.simulated_lift.describe(features, calibration.simulated_rays)
        simulated = self.bev_compensation(self.simulated_bev(self.simulated_lift.splat(of_lidar, calibration.plan)))
        camera = self.camera_bev(self.lift.splat(of_camera, calibration.plan))
        return self._detect_both(camera, simulated, _side_by_side(of_camera, of_lidar))

    def describe_images(
        self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None
    ) -> ImageFeatures:
        """What both lifts make of the images, (B, 2 N, ...): ``lift`` of every camera, then ``simulated_lift`` of every camera."""
        mask = all_present(images) if mask is None else mask
        features = self._features(images)
        return _side_by_side(
            *(
                lift.describe(features, lift.rays(K, ego_T_cam, mask, features.shape[-2:]))
                for lift in (self.lift, self.simulated_lift)
            )
        )

    def _features(self, images: Tensor) -> Tensor:
        features = self._image_features(images)
        return self.image_compensation(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def _side_by_side(first: ImageFeatures, second: ImageFeatures) -> ImageFeatures:
    return ImageFeatures(
        torch.cat([first.depth, second.depth], dim=1), torch.cat([first.context, second.context], dim=1)
    )
