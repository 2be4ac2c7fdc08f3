"""The LiDAR teacher: point clouds to BEV features, heatmaps and boxes, on the grid of the student it is to teach."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bevdistill_ros.config import LidarModelConfig
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.center_head import CenterHead, decode
from bevdistill_ros.models.norm import use_norm
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.models.pillars import Pillars
from bevdistill_ros.models.second import Second


class PillarNet(nn.Module):
    """Detector from LiDAR points by pillars, SECOND's backbone and a centre head.

    Attributes:
        channels: of ``Outputs.bev``.
    """

    inputs = ("points",)
    """Names of the arguments of ``forward``, by which a training's batches call them."""

    dense = ("backbone", "head")
    """Names of the parts whose shapes depend on no values, which a compiler can take whole."""

    def __init__(self, config: LidarModelConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.second.channels_out
        self.pillars = Pillars(config.pillars, config.grid)
        scale = round(config.grid.cell / config.pillars.cell)
        self.backbone = Second(self.pillars.channels, config.second, scale)
        self.head = CenterHead(self.channels, config.classes, config.head)
        use_norm(self, config.norm)

    def forward(self, points: Sequence[Tensor]) -> Outputs:
        """Run the network on the points (n_i, POINT) of each sample, any number of them; see ``pillars.POINT``."""
        bev = self.backbone(self.pillars(points))
        return Outputs(bev, *self.head(bev))

    def decode(self, outputs: Outputs, min_score: float = 0.0) -> list[Boxes]:
        """Boxes of each sample in the base frame, best score first."""
        config = self.config
        return decode(outputs.heatmap, outputs.codes, config.grid, config.classes, config.head, min_score)
