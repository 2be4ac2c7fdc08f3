"""Single objects as a teacher finds them, and what a student says of the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.config import CenterHeadConfig
from bevdistill_ros.geometry import BevGrid, Boxes, rotated_iou_bev
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.box_code import decode_boxes, decoded_codes
from bevdistill_ros.models.center_head import group_of_class, peaks_of, suppress
from bevdistill_ros.models.outputs import CenterOutputs, Outputs, QueryOutputs
from bevdistill_ros.training.assigner import assign_each, l1_cost


@dataclass(frozen=True)
class Instances:
    """K objects that a teacher finds in one sample, best first.

    Attributes:
        codes: (K, BOX_CODE) of its boxes, x and y in metres in the base frame, see ``decoded_codes``.
        probabilities: (K, classes).
        labels: (K,) the class of each.
        places: (K, 2) where a centre head is to be read for it, x and y in metres: the centre of the cell where the teacher's has
            found it, or the box's own centre where a query has.
    """

    codes: Tensor
    probabilities: Tensor
    labels: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: slice | Tensor) -> Instances:
        return Instances(self.codes[index], self.probabilities[index], self.labels[index], self.places[index])

    @property
    def scores(self) -> Tensor:
        """(K,) probability of the class of each."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    def boxes(self, classes: tuple[str, ...]) -> Boxes:
        """As boxes."""
        codes, scores = (x.detach().cpu().numpy().astype(np.float64) for x in (self.codes, self.scores))
        return decode_boxes(codes, scores, self.labels.cpu().numpy(), classes)


@dataclass(frozen=True)
class Found:
    """What a student says of M of a sample's instances, by one of its layers.

    Attributes:
        which: (M,) indices into the instances.
        codes: (M, BOX_CODE), x and y in metres in the base frame.
        logits: (M, classes).
    """

    which: Tensor
    codes: Tensor
    logits: Tensor


# ------------------------------------------------------------------------------------------------------------- the teacher


def teacher_instances(outputs: Outputs, network: BevNetwork, count: int, like: BevNetwork) -> list[Instances]:
    """The ``count`` best objects of each sample, or as many as there are: of the kind of head that ``like`` decodes its boxes from,
    if the teacher has it, else of the other.

    A query head's are its last layer's queries with the greatest probability of any class: no threshold, no suppression. A centre
    head's are its decoded boxes.
    """
    if outputs.center is not None and (like.head is not None or outputs.queries is None):
        config = network.config
        return center_instances(outputs.center, config.grid, config.classes, config.head, count)
    return query_instances(outputs.queries, count)


@torch.no_grad()
def query_instances(outputs: QueryOutputs, count: int) -> list[Instances]:
    """See ``teacher_instances``."""
    probabilities, codes = outputs.logits[-1].float().sigmoid(), decoded_codes(outputs.codes[-1].float())
    scores, labels = probabilities.max(dim=-1)
    top = scores.topk(min(count, scores.shape[1])).indices
    return [
        Instances(codes[s, own], probabilities[s, own], labels[s, own], codes[s, own, :2]) for s, own in enumerate(top)
    ]


@torch.no_grad()
def center_instances(
    outputs: CenterOutputs, grid: BevGrid, classes: tuple[str, ...], config: CenterHeadConfig, count: int
) -> list[Instances]:
    """See ``teacher_instances``."""
    found = candidates(outputs, grid, classes, config, 4 * count)
    radii = np.array([config.suppression[name].radius for name in classes])
    return [own[torch.from_numpy(suppress(own.boxes(classes), radii, count)).to(own.codes.device)] for own in found]


def candidates(
    outputs: CenterOutputs, grid: BevGrid, classes: tuple[str, ...], config: CenterHeadConfig, count: int
) -> list[Instances]:
    """The ``count`` greatest pairs of class and cell of each sample, before suppression."""
    probabilities = outputs.heatmap.float().sigmoid()
    groups = torch.tensor(group_of_class(classes, config), device=probabilities.device)
    found = []
    for s, (label, row, column) in enumerate(best_peaks(probabilities, classes, config, count)):
        codes = outputs.codes[s, groups[label], :, row, column].float()
        places = grid.to_meters(torch.stack([column, row], dim=-1) + 0.5)
        codes = decoded_codes(absolute_codes(codes, row, column, grid))
        found.append(Instances(codes, probabilities[s, :, row, column].T, label, places))
    return found


def best_peaks(
    scores: Tensor, classes: tuple[str, ...], config: CenterHeadConfig, count: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Class, row and column (<= count,) of each sample's greatest scores, greatest first, which top the cells about them as
    ``config.suppression`` asks.

    Args:
        scores: (B, classes, Y, X).
    """
    scores = peaks_of(scores, classes, config)
    rows, columns = scores.shape[-2:]
    found = []
    for top, index in zip(*scores.flatten(1).topk(min(count, scores[0].numel())), strict=True):
        own = index[top > 0]
        found.append((own // (rows * columns), own // columns % rows, own % columns))
    return found


def absolute_codes(codes: Tensor, row: Tensor, column: Tensor, grid: BevGrid) -> Tensor:
    """A centre head's codes (..., BOX_CODE) at cells (...) with x and y in metres in place of offsets."""
    centers = grid.to_meters(torch.stack([column, row], dim=-1) + 0.5 + codes[..., :2])
    return torch.cat([centers, codes[..., 2:]], dim=-1)


# ------------------------------------------------------------------------------------------------------------- the student


def find_in_student(outputs: Outputs, network: BevNetwork, instances: Sequence[Instances]) -> list[list[Found]]:
    """What each layer of the head that the student decodes its boxes from says of each sample's instances: [layer][sample]."""
    if outputs.center is not None:
        config = network.config
        return [read_cells(outputs.center, config.grid, config.classes, config.head, instances)]
    return match_queries(outputs.queries, instances)


def read_cells(
    outputs: CenterOutputs,
    grid: BevGrid,
    classes: tuple[str, ...],
    config: CenterHeadConfig,
    instances: Sequence[Instances],
) -> list[Found]:
    """A centre head at the instances' places, each in the group of its class."""
    found = []
    for s, own in enumerate(instances):
        column, row = grid.to_cells(own.places).floor().long().unbind(dim=1)
        column, row = column.clamp(0, grid.columns - 1), row.clamp(0, grid.rows - 1)
        groups = torch.tensor(group_of_class(classes, config), device=row.device)[own.labels]
        codes = absolute_codes(outputs.codes[s, groups, :, row, column].float(), row, column, grid)
        which = torch.arange(len(own), device=row.device)
        found.append(Found(which, codes, outputs.heatmap[s, :, row, column].T.float()))
    return found


BOX_COST = 0.25
"""Of the difference of boxes beside that of classes, when queries are matched to instances."""


def match_queries(outputs: QueryOutputs, instances: Sequence[Instances]) -> list[list[Found]]:
    """Each layer's queries matched to the instances, by the least sum of

        sum_c BCE(logit_c, p_c) + BOX_COST sum_(d <= 8) |b_d - t_d|

    over the pairs, with p and t of the instance, b of the query.
    """
    logits, codes = outputs.logits.float(), outputs.codes.float()
    layers, samples = range(len(logits)), range(len(instances))
    costs = [
        match_cost(logits[layer, s].detach(), codes[layer, s].detach(), instances[s])
        for layer in layers
        for s in samples
    ]
    pairs = iter(assign_each(costs))
    found = []
    for layer in layers:
        found.append([])
        for s in samples:
            rows, columns = next(pairs)
            found[-1].append(Found(columns, codes[layer, s, rows], logits[layer, s, rows]))
    return found


def match_cost(logits: Tensor, codes: Tensor, instances: Instances) -> Tensor:
    """(Q, K), see ``match_queries``; of logits (Q, classes) and codes (Q, BOX_CODE)."""
    # BCE(x, p) = softplus(x) - p x
    classes = F.softplus(logits).sum(dim=1)[:, None] - logits @ instances.probabilities.T
    return classes + BOX_COST * l1_cost(codes, instances.codes)


# ----------------------------------------------------------------------------------------------------------------- quality


def quality(instances: Instances, truth: Boxes, gamma: float) -> Tensor:
    """(K,) c^gamma IoU^(1 - gamma), with c the probability of an instance's class, and IoU the greatest overlap, seen
    from above, with a ground-truth box of that class; 0 without one. With gamma 1 it is c alone."""
    scores = instances.scores
    if gamma == 1.0:
        return scores
    boxes = instances.boxes(truth.class_names)
    overlaps = rotated_iou_bev(boxes, truth) * (boxes.labels[:, None] == truth.labels)
    best = torch.from_numpy(overlaps.max(axis=1, initial=0.0)).to(scores)
    return scores**gamma * best ** (1.0 - gamma)
