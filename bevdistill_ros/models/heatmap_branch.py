"""A heatmap of all classes over the BEV features, which a query head's network has beside it in training."""

from __future__ import annotations

from torch import Tensor, nn

from bevdistill_ros.models.center_head import start_at
from bevdistill_ros.models.conv import conv_bn_relu

HIDDEN = 64
"""Width of the layers after the shared one, or less where that is narrower."""


class HeatmapBranch(nn.Module):
    """BEV features (B, C, Y, X) to class logits (B, classes, Y, X); 1 is wanted at the centres' cells.

    Attributes:
        shared: (B, C, Y, X) to (B, channels, Y, X): the features that BEVDistill compares, see ``BevNetwork.heatmap_features``.
    """

    def __init__(self, channels_in: int, classes: int, channels: int) -> None:
        super().__init__()
        hidden = min(channels, HIDDEN)
        self.shared = conv_bn_relu(channels_in, channels)
        self.heatmap = nn.Sequential(
            conv_bn_relu(channels, hidden), conv_bn_relu(hidden, hidden), nn.Conv2d(hidden, classes, 3, padding=1)
        )
        start_at(self.heatmap[-1], 0.1)

    def forward(self, bev: Tensor) -> Tensor:
        """See the class."""
        return self.heatmap(self.shared(bev))
