"""The networks, in pure torch; one concept a file."""

from __future__ import annotations

from bevdistill_ros.config import (
    BevFormerModelConfig,
    FusionModelConfig,
    LidarModelConfig,
    LssModelConfig,
    ModelConfig,
    SimulatedModelConfig,
)
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.bevformer import BevFormer
from bevdistill_ros.models.fusion_net import FusionNet
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.pillar_net import PillarNet
from bevdistill_ros.models.simulated import SimulatedNet


def build_network(config: ModelConfig) -> BevNetwork:
    """The network that a configuration describes, with fresh weights: the one place that chooses.

    A student is called as ``network(images, K, ego_T_cam, mask) -> Outputs``, a LiDAR teacher as ``network(points) -> Outputs``,
    a fusion teacher as ``network(points, images, K, ego_T_cam, mask) -> Outputs``; ``network.inputs`` names the arguments.
    ``network.decode(outputs, min_score)`` gives the boxes of each sample.
    """
    match config:
        case LssModelConfig():
            return LSS(config)
        case BevFormerModelConfig():
            return BevFormer(config)
        case LidarModelConfig():
            return PillarNet(config)
        case SimulatedModelConfig():
            return SimulatedNet(config)
        case FusionModelConfig():
            return FusionNet(config)
    raise TypeError(f"no network for {type(config).__name__}")
