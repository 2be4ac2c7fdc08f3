"""The networks, in pure torch; one concept a file."""

from __future__ import annotations

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.models.lss import LSS


def build_network(config: ModelConfig) -> LSS:
    """The student that a configuration describes, with fresh weights: the one place that chooses.

    A student is called as ``network(images, K, ego_T_cam, mask) -> outputs``, and ``network.decode(outputs, min_score)`` gives the
    boxes of each sample; see ``LSS``.
    """
    return LSS(config)
