"""The networks, in pure torch; one concept a file."""

from __future__ import annotations

from bevdistill_ros.config import LidarModelConfig, ModelConfig
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.pillar_net import PillarNet


def build_network(config: ModelConfig) -> LSS | PillarNet:
    """The network that a configuration describes, with fresh weights: the one place that chooses.

    A student is called as ``network(images, K, ego_T_cam, mask) -> Outputs``, a LiDAR teacher as ``network(points) -> Outputs``;
    ``network.inputs`` names the arguments. ``network.decode(outputs, min_score)`` gives the boxes of each sample.
    """
    return PillarNet(config) if isinstance(config, LidarModelConfig) else LSS(config)
