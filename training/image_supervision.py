"""What LiDAR teaches a student's image features in training: how far away pixels are, and what is there.

A camera's depth is hard to learn from boxes in BEV alone; points give it directly, as in BEVDepth (Li et al. 2023, section 3.1).
With the boxes they also tell which class a pixel shows. Nothing of this is part of the network that is deployed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.config import LiftConfig
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models.outputs import ImageFeatures
from bevdistill_ros.training.config import ImageSupervisionConfig

MARGIN = 0.1
"""Points so far (m) outside of a box still belong to it, since both are noisy; those as far above its bottom are the ground."""


SAME_READING = 0.03
"""Points of this many seconds belong to one reading of the LiDARs, where they give 20 in a second or fewer."""


class ImageTargets(NamedTuple):
    """What the nearest point in every feature pixel tells.

    Attributes:
        bins: (..., N, h, w) int64, index of its depth among the lift's; -1 where there is no point, or none within these depths.
        classes: (..., N, h, w) int64, 1 + the class of the box that it lies in; 0 for none; -1 for a doubtful one: no target.
    """

    bins: np.ndarray | Tensor
    classes: np.ndarray | Tensor

    def kinds(self) -> tuple[Tensor, Tensor]:
        """Which pixels (..., N, h, w) have a target: those on objects, and the others."""
        there = self.bins >= 0
        return there & (self.classes > 0), there & (self.classes == 0)

    def counts(self) -> Tensor:
        """(2,) float32: how many there are of both."""
        return torch.stack([kind.sum() for kind in self.kinds()]).float()


def image_targets(
    points: np.ndarray,
    boxes: Boxes,
    K: np.ndarray,
    ego_T_cam: np.ndarray,
    mask: np.ndarray,
    lift: LiftConfig,
    size: tuple[int, int],
    doubtful: Boxes | None = None,
) -> ImageTargets:
    """Targets of one sample of N cameras.

    Args:
        points: (n, >= 3) x, y, z in the base frame at the reference time.
        boxes: in the base frame at that time.
        K: (N, 3, 3) of the network's input images.
        ego_T_cam: (N, 4, 4); need not be rigid, depth is in the camera's own metres.
        mask: (N,) bool, cameras that are there.
        size: (h, w) of the feature maps.
        doubtful: boxes that may be there or not: what lies in none but one of these has no target.
    """
    h, w = size
    xyz = points[:, :3].astype(np.float32)
    point_classes = classes_of_points(xyz, boxes)
    if doubtful is not None and len(doubtful):
        point_classes[(point_classes == 0) & (classes_of_points(xyz, doubtful) > 0)] = -1
    bins = np.full((len(K), h * w), -1, np.int64)
    classes = np.zeros((len(K), h * w), np.int64)
    bin_size = (lift.depth_max - lift.depth_min) / lift.bins
    for n in mask.nonzero()[0]:
        pixel_T_ego = (K[n] @ np.linalg.inv(ego_T_cam[n])[:3]).astype(np.float32)
        u, v, depth = pixel_T_ego[:, :3] @ xyz.T + pixel_T_ego[:, 3:]
        seen = (depth >= lift.depth_min).nonzero()[0]
        depth = depth[seen]
        # Integer coordinates are pixel centres: the first feature pixel spans -0.5 to stride - 0.5.
        column = np.floor((u[seen] / depth + 0.5) / lift.stride)
        row = np.floor((v[seen] / depth + 0.5) / lift.stride)
        inside = ((column >= 0) & (column < w) & (row >= 0) & (row < h)).nonzero()[0]
        # The nearest is written last.
        inside = inside[np.argsort(-depth[inside], kind="stable")]
        pixel = (row[inside] * w + column[inside]).astype(np.int64)
        index = ((depth[inside] - lift.depth_min) / bin_size).astype(np.int64)
        bins[n, pixel] = np.where(index < lift.bins, index, -1)
        classes[n, pixel] = point_classes[seen[inside]]
    return ImageTargets(bins.reshape(-1, h, w), classes.reshape(-1, h, w))


def latest_reading(points: np.ndarray) -> np.ndarray:
    """Those of points (n, POINT) that are as old as the newest: what moves is where the images show it only in these."""
    age = points[:, 4]
    return points[age < age.min(initial=np.inf) + SAME_READING]


def classes_of_points(points: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(n,) int64: 1 + the class of the box that each point (n, 3) lies in, 0 for none; of several the last."""
    classes = np.zeros(len(points), np.int64)
    order = np.argsort(points[:, 0])  # so that a box is compared with the points about it alone
    x = points[order, 0]
    for center, size, yaw, label in zip(boxes.centers, boxes.sizes, boxes.yaws, boxes.labels, strict=True):
        reach = np.hypot(size[0], size[1]) / 2 + 2 * MARGIN
        near = order[np.searchsorted(x, center[0] - reach) : np.searchsorted(x, center[0] + reach)]
        dx, dy, dz = (points[near] - center).T
        ahead = np.cos(yaw) * dx + np.sin(yaw) * dy
        aside = -np.sin(yaw) * dx + np.cos(yaw) * dy
        hit = (np.abs(ahead) <= size[0] / 2 + MARGIN) & (np.abs(aside) <= size[1] / 2 + MARGIN)
        hit &= (dz <= size[2] / 2 + MARGIN) & (dz >= -size[2] / 2 + MARGIN)
        classes[near[hit]] = 1 + int(label)
    return classes


def image_losses(
    image: ImageFeatures,
    class_logits: Tensor,
    targets: ImageTargets,
    config: ImageSupervisionConfig,
    counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """Weighted losses by name: cross-entropies of depth and of class over the pixels that have a target.

    Objects are few pixels, so the mean over those on objects and the mean over the others count alike:
    L = (mean_object CE + mean_other CE) / 2; a mean of nothing is 0.

    A network of several lifts gives the features of every camera by the first, then by the second: L is the mean over the lifts.

    Args:
        image: (B, lifts * N, ...) each.
        class_logits: (B, lifts * N, 1 + classes, h, w).
        targets: (B, N, h, w) each.
        counts: (2,) above 0, what to divide by instead of these targets' own ``counts()``, where they are a part of a batch.
    """
    lifts = image.depth.shape[1] // targets.bins.shape[1]
    counts = lifts * (targets.counts().clamp(min=1) if counts is None else counts)
    targets = ImageTargets(*(wanted.repeat(1, lifts, 1, 1) for wanted in targets))
    kinds = targets.kinds()
    losses = {}
    for name, weight, logits, wanted in (
        ("depth", config.depth, image.depth, targets.bins.clamp(min=0)),
        ("classes", config.classes, class_logits, targets.classes.clamp(min=0)),
    ):
        if weight:
            entropy = F.cross_entropy(logits.float().movedim(2, 1), wanted, reduction="none")
            sums = torch.stack([(entropy * kind).sum() for kind in kinds])
            losses[name] = weight * (sums / counts).mean()
    return losses
