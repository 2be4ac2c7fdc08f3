"""What all networks have in common: BEV features, and the heads that make boxes of them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.center_head import CenterHead, decode
from bevdistill_ros.models.heatmap_branch import HeatmapBranch
from bevdistill_ros.models.outputs import CenterOutputs, Outputs, QueryOutputs
from bevdistill_ros.models.query_head import QueryHead, decode_queries


class BevNetwork(nn.Module):
    """A detector whose ``forward`` gives ``Outputs``. Whoever derives from it makes its parts, then calls ``_add_heads``.

    Args:
        channels: of ``Outputs.bev``.
    """

    inputs: ClassVar[tuple[str, ...]]
    """Names of the arguments of ``forward``, by which a training's batches call them."""

    dense: ClassVar[tuple[str, ...]]
    """Names of the parts whose shapes depend on no values, which a compiler can take whole."""

    twins: ClassVar[dict[str, str]] = {}
    """Parts by name, and the part each starts as a copy of, where it starts from weights that have none of its own."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels

    def _add_heads(self) -> None:
        config, classes = self.config, len(self.config.classes)
        self.head: CenterHead | None = None
        self.queries: QueryHead | None = None
        self.auxiliary: HeatmapBranch | None = None
        if config.head is not None:
            self.head = CenterHead(self.channels, config.classes, config.head)
        if config.queries is not None:
            self.queries = QueryHead(self.channels, classes, config.grid, config.queries)
            if config.queries.auxiliary_channels:
                self.auxiliary = HeatmapBranch(self.channels, classes, config.queries.auxiliary_channels)

    def detect(self, bev: Tensor) -> Outputs:
        """What the heads make of BEV features (B, channels, Y, X)."""
        center = None if self.head is None else self.head(bev)
        queries = None if self.queries is None else self.queries(bev)
        features = None if center is None else center.shared
        auxiliary = None
        if self.auxiliary is not None and self.training:
            own = self.auxiliary.shared(bev)
            auxiliary = self.auxiliary.heatmap(own)
            features = own if features is None else features
        return Outputs(bev, center, queries, auxiliary=auxiliary, heatmap_features=features)

    def heatmap_features(self, bev: Tensor) -> Tensor:
        """``Outputs.heatmap_features`` of a network in use, where the branch beside the query head does not run by itself.

        Raises:
            UserError: it has neither.
        """
        if self.head is not None:
            return self.head.shared(bev)
        if self.auxiliary is not None:
            return self.auxiliary.shared(bev)
        raise UserError(
            f"model '{self.config.name}' has no heatmaps: give it a head, or queries.auxiliary_channels, and train it again"
        )

    def decode(self, outputs: Outputs, min_score: float = 0.0) -> list[Boxes]:
        """Boxes of each sample in the base frame, best score first; of the centre head where there is one, else of the queries."""
        return decode_found(self.found(outputs), self.config, min_score)

    def found(self, outputs: Outputs) -> CenterOutputs | QueryOutputs:
        """What boxes are decoded from: what the centre head gave where there is one, else the queries."""
        return outputs.queries if self.head is None else outputs.center


def decode_found(found: CenterOutputs | QueryOutputs, config: ModelConfig, min_score: float = 0.0) -> list[Boxes]:
    """Boxes of what a network of ``config`` has ``found``, of each sample."""
    if isinstance(found, CenterOutputs):
        return decode(found, config.grid, config.classes, config.head, min_score)
    return decode_queries(found, config.classes, config.queries, min_score)
