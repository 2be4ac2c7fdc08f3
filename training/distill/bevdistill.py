"""BEVDistill (Chen et al. 2023): dense features under the objects, and single objects as the teacher finds them.

All losses are of one sample alone; a training takes their means over the samples. docs/bevdistill.md tells which settings are the
released code's and which the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.training.distill.config import (
    BevDistillConfig,
    Centers,
    ContrastConfig,
    DenseConfig,
    Features,
    Merge,
)
from bevdistill_ros.training.distill.features import make_adapter, make_projection, on_grid_of
from bevdistill_ros.training.distill.instances import Found, Instances, find_in_student, quality, teacher_instances
from bevdistill_ros.training.distill.masks import foreground_masks
from bevdistill_ros.training.distill.method import DistilledBatch, Method
from bevdistill_ros.training.losses import code_weights
from bevdistill_ros.training.query_losses import box_count

EPSILON = 1e-6
"""Least sum of weights that a mean is divided by: where there is nothing, the mean is 0."""


class BevDistill(Method):
    """The losses whose weights are not 0; the others are neither built nor computed."""

    def __init__(self, config: BevDistillConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        self.config = config
        self.dense = Dense(config.dense, student, teacher) if config.dense.weight else None
        self.contrast = Contrast(config.contrast, student, teacher) if config.contrast.weight else None

    def forward(self, batch: DistilledBatch) -> dict[str, Tensor]:
        """See ``Method``."""
        config, losses = self.config, {}
        if self.dense is not None:
            losses["bevdistill_dense"] = config.dense.weight * self.dense(batch)
        if not (config.boxes.weight or config.classes.weight or self.contrast is not None):
            return losses
        with torch.autocast(batch.student.bev.device.type, enabled=False):
            instances = _instances_of(batch, config.instances.count)
            weights = [quality(*pair, config.instances.gamma) for pair in zip(instances, batch.boxes, strict=True)]
            found: list[list[Found]] = []
            if config.boxes.weight or config.classes.weight or batch.student.center is not None:
                found = find_in_student(batch.student, batch.student_network, instances)
            pairs = [
                [(own, instances[s][own.which], weights[s][own.which]) for s, own in enumerate(layer)]
                for layer in found
            ]
            if config.boxes.weight:
                power = config.boxes.power
                of_codes = code_weights(config.boxes.weights, instances[0].codes)
                values = [
                    [box_loss(own.codes, of.codes, q, power, of_codes) for own, of, q in layer] for layer in pairs
                ]
                losses["bevdistill_boxes"] = config.boxes.weight * _mean_over_samples(values)
            if config.classes.weight:
                power = config.classes.power
                values = [
                    [class_loss(own.logits, of.probabilities, q, power) for own, of, q in layer] for layer in pairs
                ]
                losses["bevdistill_classes"] = config.classes.weight * _mean_over_samples(values)
        if self.contrast is not None:
            losses["bevdistill_contrast"] = config.contrast.weight * self.contrast(batch, instances, weights, found)
        return losses


def _instances_of(batch: DistilledBatch, count: int) -> list[Instances]:
    """The teacher's of each sample; none where there is no ground truth on the grid, since all of them would be false."""
    instances = teacher_instances(batch.teacher, batch.teacher_network, count, batch.student_network)
    return [own if has_truth else own[:0] for own, has_truth in zip(instances, _has_truth(batch), strict=True)]


def _has_truth(batch: DistilledBatch) -> list[bool]:
    """Of each sample."""
    return [box_count([truth], batch.student_network.config.grid) > 0 for truth in batch.boxes]


def _mean_over_samples(values: Sequence[Sequence[Tensor]]) -> Tensor:
    """Sum over the layers, mean over the samples of ``values`` [layer][sample]."""
    return sum(torch.stack(list(layer)).mean() for layer in values)


# ---------------------------------------------------------------------------------------------------------- dense features


class Dense(nn.Module):
    """``dense_loss`` of the batch. Heatmap features are compared as they are, since both heads make heatmaps of them; where their
    widths differ, a 1x1 convolution of the student's comes between. BEV features of the student go through an adapter."""

    def __init__(self, config: DenseConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        self.config = config
        self.adapter: nn.Module
        if config.features is Features.BEV:
            self.adapter = make_adapter(student.channels, teacher.channels, student.config.norm)
        else:
            own, wanted = (heatmap_channels(network) for network in (student, teacher))
            self.adapter = make_projection(own, wanted)

    def forward(self, batch: DistilledBatch) -> Tensor:
        """Mean over the samples."""
        student, teacher = batch.student.bev, batch.teacher.bev
        if self.config.features is Features.HEATMAP:
            student = _heatmap_features(batch.student, batch.student_network)
            with torch.no_grad():
                teacher = _heatmap_features(batch.teacher, batch.teacher_network)
        student = self.adapter(student)
        with torch.autocast(student.device.type, enabled=False):
            mask = foreground_masks(
                batch.boxes,
                batch.student_network.config.grid,
                self.config.overlap,
                self.config.min_radius,
                Merge.MAX,
                student.device,
            )
            return dense_loss(student.float(), on_grid_of(student, teacher.float()), mask, self.config.per_channel)


def _heatmap_features(outputs: Outputs, network: BevNetwork) -> Tensor:
    """As the network has made them already, or made now, where it is a teacher whose heatmap branch runs in training only."""
    made = outputs.heatmap_features
    return network.heatmap_features(outputs.bev) if made is None else made


def heatmap_channels(network: BevNetwork) -> int:
    """Of ``network.heatmap_features``.

    Raises:
        UserError: it has none.
    """
    if network.config.head is not None:
        return network.config.head.channels
    queries = network.config.queries
    if queries is not None and queries.auxiliary_channels:
        return queries.auxiliary_channels
    raise UserError(
        f"bevdistill.dense.features heatmap: model '{network.config.name}' has no heatmaps; set features to bev, or train it with "
        "a head or with queries.auxiliary_channels"
    )


def dense_loss(student: Tensor, teacher: Tensor, mask: Tensor, per_channel: bool) -> Tensor:
    """Mean over the samples of

        sum_cij M_ij (S_cij - T_cij)^2 / sum_ij M_ij

    divided by the number of channels, too, if ``per_channel``. 0 for a sample whose mask is 0.

    Args:
        student, teacher: S, T (B, C, Y, X).
        mask: M (B, 1, Y, X).
    """
    squared = (mask * (student - teacher) ** 2).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=EPSILON)
    return squared.mean() / (student.shape[1] if per_channel else 1)


# ---------------------------------------------------------------------------------------------------------------- instances


def box_loss(predicted: Tensor, wanted: Tensor, qualities: Tensor, power: float, weights: Tensor) -> Tensor:
    """sum_k q_k^power sum_d w_d |b_kd - t_kd| / sum_k q_k; 0 of no instances.

    Args:
        predicted, wanted: b, t (K, BOX_CODE), centres in metres.
        qualities: q (K,) of the instances.
        weights: w (BOX_CODE,).
    """
    difference = ((predicted - wanted).abs() * weights).sum(dim=1)
    return (qualities**power * difference).sum() / qualities.sum().clamp(min=EPSILON)


def class_loss(logits: Tensor, probabilities: Tensor, qualities: Tensor, power: float) -> Tensor:
    """sum_k q_k^power sum_c BCE(sigmoid(x_kc), p_kc) / sum_k q_k; 0 of no instances.

    Args:
        logits, probabilities: x, p (K, classes) of student and teacher.
        qualities: q (K,) of the instances.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, probabilities, reduction="none").sum(dim=1)
    return (qualities**power * entropy).sum() / qualities.sum().clamp(min=EPSILON)


class Contrast(nn.Module):
    """``contrast_loss`` of the BEV features at objects' centres, each through a projection of its own.

    Where the released code normalises by batch, here each feature is normalised by itself (LayerNorm): it works for any number of
    instances, one or none, and gives the same in one process or several.
    """

    def __init__(self, config: ContrastConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        if config.weighted and config.centers is Centers.STUDENT and student.config.head is None:
            raise UserError(
                "bevdistill.contrast.weighted: the student's queries have no quality; set centers to teacher"
            )
        self.config = config
        self.student, self.teacher = (_projection(n.channels, config.channels) for n in (student, teacher))

    def forward(
        self,
        batch: DistilledBatch,
        instances: Sequence[Instances],
        weights: Sequence[Tensor],
        found: Sequence[Sequence[Found]],
    ) -> Tensor:
        """Mean over the samples."""
        config = self.config
        centers = self._centers(batch, instances, found)
        features = (
            _projected(project, outputs.bev.float(), network.config.grid, centers)
            for project, outputs, network in (
                (self.student, batch.student, batch.student_network),
                (self.teacher, batch.teacher, batch.teacher_network),
            )
        )
        losses = []
        with torch.autocast(batch.student.bev.device.type, enabled=False):
            for places, student, teacher, qualities in zip(centers, *features, weights, strict=True):
                own = qualities if config.weighted else places.new_ones(len(places))
                alike = torch.cdist(places, places) < config.min_distance if config.min_distance else None
                losses.append(contrast_loss(student, teacher, own, config.temperature, alike))
        return torch.stack(losses).mean()

    def _centers(
        self, batch: DistilledBatch, instances: Sequence[Instances], found: Sequence[Sequence[Found]]
    ) -> list[Tensor]:
        """(N, 2) of each sample, metres."""
        if self.config.centers is Centers.TEACHER:
            return [own.codes[:, :2] for own in instances]
        if batch.student.center is not None:
            return [own.codes[:, :2].detach() for own in found[0]]
        centers = batch.student.queries.codes[..., :2].detach().float()  # (layers, B, Q, 2)
        return [
            own.flatten(0, 1) if has_truth else own.flatten(0, 1)[:0]
            for own, has_truth in zip(centers.unbind(dim=1), _has_truth(batch), strict=True)
        ]


def _projected(project: nn.Module, bev: Tensor, grid: BevGrid, centers: Sequence[Tensor]) -> Sequence[Tensor]:
    """(N, config.channels) of each sample; all samples' in one go, since each feature is projected by itself."""
    sampled = [sample_bev(own, grid, places) for own, places in zip(bev, centers, strict=True)]
    return project(torch.cat(sampled)).float().split([len(places) for places in centers])


def _projection(channels_in: int, channels: int) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in pairwise((channels_in, channels, channels, channels))]
    return nn.Sequential(layers[0], layers[1], nn.LayerNorm(channels), nn.ReLU(True), layers[2])


def sample_bev(bev: Tensor, grid: BevGrid, places: Tensor) -> Tensor:
    """(N, C) of features (C, Y, X) at places (N, 2) in metres, bilinear between the cells' centres; 0 beyond the grid."""
    size = places.new_tensor([grid.columns, grid.rows])
    at = 2 * grid.to_cells(places) / size - 1
    return F.grid_sample(bev[None], at[None, None], mode="bilinear", align_corners=False)[0, :, 0].T


def contrast_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float, alike: Tensor | None = None
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): each of the teacher's features is to find the student's of its place among the sample's,

        sum_n w_n -log( exp(<t_n, s_n> / tau) / sum_m exp(<t_n, s_m> / tau) ) / sum_n w_n

    with s, t of unit length; 0 of no places. Of m other than n, the sum leaves out those that are not to be told apart from it.

    Args:
        student, teacher: (N, C).
        weights: w (N,).
        alike: (N, N) bool, which are not to be told apart; None: all are.
    """
    logits = F.normalize(teacher, dim=1) @ F.normalize(student, dim=1).T / temperature
    right = logits.diagonal()
    if alike is not None:
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(alike & ~itself, -torch.inf)
    entropy = logits.logsumexp(dim=1) - right
    return (weights * entropy).sum() / weights.sum().clamp(min=EPSILON)
