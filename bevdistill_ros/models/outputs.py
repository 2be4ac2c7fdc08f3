"""What every network gives, whatever it sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """What a student's lift makes of its images, at ``config.lift.stride`` pixels.

    Attributes:
        depth: (B, N, bins, h, w) logits of the distribution over depths.
        context: (B, N, C, h, w) what is lifted to those depths.
    """

    depth: Tensor
    context: Tensor


@dataclass(frozen=True)
class CenterOutputs:
    """What a centre head makes of the BEV features, on the grid of the model.

    Attributes:
        heatmap: (B, classes, Y, X) logits.
        codes: (B, groups, BOX_CODE, Y, X).
        shared: (B, C, Y, X) features that both are made of.
    """

    heatmap: Tensor
    codes: Tensor
    shared: Tensor | None = None


@dataclass(frozen=True)
class QueryOutputs:
    """What each layer of a query head makes of the BEV features; the last layer's are the boxes.

    Attributes:
        logits: (layers, B, queries, classes).
        codes: (layers, B, queries, BOX_CODE), with the centre's x, y in metres in the base frame in place of offsets.
    """

    logits: Tensor
    codes: Tensor


@dataclass(frozen=True)
class ModalFeatures:
    """BEV features of a network that has two kinds of them, before its BEV encoder.

    Attributes:
        camera: (B, C, Y, X).
        lidar: (B, C, Y, X), simulated by a student.
        fused: (B, C, Y, X) of both.
    """

    camera: Tensor
    lidar: Tensor
    fused: Tensor


@dataclass(frozen=True)
class Outputs:
    """A network's BEV features and what its heads make of them.

    Attributes:
        bev: (B, C, Y, X) features that the heads read; C is the network's ``channels``.
        center, queries: of the heads that it has.
        auxiliary: (B, classes, Y, X) logits of the heatmap branch beside a query head; in training only.
        heatmap_features: (B, C, Y, X) features that the centre head, or else this branch where it runs, makes its heatmap of.
        image: of a network that lifts images by depth.
        modal: of a network with two kinds of features.
    """

    bev: Tensor
    center: CenterOutputs | None = None
    queries: QueryOutputs | None = None
    image: ImageFeatures | None = None
    modal: ModalFeatures | None = None
    auxiliary: Tensor | None = None
    heatmap_features: Tensor | None = None
