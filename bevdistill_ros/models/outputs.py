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
class Outputs:
    """A network's BEV features and what its centre head makes of them, on the grid of the model.

    Attributes:
        bev: (B, C, Y, X) features that the head reads; C is the network's ``channels``.
        heatmap: (B, classes, Y, X) logits.
        codes: (B, groups, BOX_CODE, Y, X).
        image: of a student; None for a network without cameras.
    """

    bev: Tensor
    heatmap: Tensor
    codes: Tensor
    image: ImageFeatures | None = None
