"""The LiDAR teacher: point clouds to BEV features, heatmaps and boxes, on the grid of the student it is to teach."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bevdistill_ros.config import LidarModelConfig
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.models.pillars import Pillars
from bevdistill_ros.models.second import Second


class PillarNet(BevNetwork):
    """Detector from LiDAR points by pillars and SECOND's backbone."""

    inputs = ("points",)
    dense = ("second", "head")

    def __init__(self, config: LidarModelConfig) -> None:
        super().__init__(config, config.second.channels_out)
        self.pillars = Pillars(config.pillars, config.grid)
        scale = round(config.grid.cell / config.pillars.cell)
        self.second = Second(self.pillars.channels, config.second, scale)
        self._add_heads()
        use_norm(self, config.norm)

    def forward(self, points: Sequence[Tensor]) -> Outputs:
        """Run the network on the points (n_i, POINT) of each sample, any number of them; see ``pillars.POINT``."""
        return self.detect(self.second(self.pillars(points)))
