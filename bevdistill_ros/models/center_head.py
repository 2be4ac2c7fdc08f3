"""CenterPoint head (Yin et al. 2021): a heatmap a class, a box regression a group of classes, and their decoding."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.config import CenterHeadConfig
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import BOX_CODE, decode_boxes
from bevdistill_ros.models.conv import conv_bn_relu
from bevdistill_ros.models.outputs import CenterOutputs


class CenterHead(nn.Module):
    """Heatmap logits and box codes over the BEV grid."""

    def __init__(self, channels_in: int, classes: tuple[str, ...], config: CenterHeadConfig) -> None:
        super().__init__()
        self.shared = conv_bn_relu(channels_in, config.channels)
        self.heatmap = nn.Sequential(
            conv_bn_relu(config.channels, config.channels), nn.Conv2d(config.channels, len(classes), 1)
        )
        self.regression = nn.Sequential(
            conv_bn_relu(config.channels, config.channels), nn.Conv2d(config.channels, BOX_CODE * len(config.groups), 1)
        )
        start_at(self.heatmap[-1], 0.1)

    def forward(self, bev: Tensor) -> CenterOutputs:
        """BEV features (B, C, Y, X) to heatmaps and codes, whose last layers are exact."""
        shared = self.shared(bev)
        heatmap, codes = _last_exactly(self.heatmap, shared), _last_exactly(self.regression, shared)
        return CenterOutputs(heatmap, codes.unflatten(1, (-1, BOX_CODE)), shared)


def _last_exactly(branch: nn.Sequential, x: Tensor) -> Tensor:
    """``branch(x)`` with its last layer in the precision of its weights, also under autocast.

    With bfloat16's eight bits most scores would be tied with others, and boxes would lie on steps of centimetres. This layer costs
    next to nothing.
    """
    *layers, last = branch
    for layer in layers:
        x = layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return last(x.to(last.weight.dtype))


L = TypeVar("L", nn.Conv2d, nn.Linear)


def start_at(layer: L, probability: float) -> L:
    """Give a layer of logits the bias of this foreground probability, so that much background does not drown the first steps."""
    nn.init.constant_(layer.bias, math.log(probability / (1 - probability)))
    return layer


def group_of_class(classes: tuple[str, ...], config: CenterHeadConfig) -> list[int]:
    """Index of each class's regression group."""
    return [next(i for i, group in enumerate(config.groups) if name in group) for name in classes]


@torch.no_grad()
def decode(
    outputs: CenterOutputs,
    grid: BevGrid,
    classes: tuple[str, ...],
    config: CenterHeadConfig,
    min_score: float = 0.0,
) -> list[Boxes]:
    """Boxes of each sample, best score first, after suppression within each class.

    Args:
        min_score: boxes below are dropped.
    """
    scores = peaks_of(outputs.heatmap.float().sigmoid(), classes, config)
    # More candidates than boxes: cells without the peak test repeat their neighbour's object until suppression removes them.
    flat = scores.flatten(1)
    top, index = flat.topk(min(4 * config.max_boxes, flat.shape[1]))
    cells_a_class = scores.shape[-2] * scores.shape[-1]
    label, cell = index // cells_a_class, index % cells_a_class
    group = torch.tensor(group_of_class(classes, config), device=label.device)[label]
    flat_codes = outputs.codes.float().permute(0, 1, 3, 4, 2).flatten(2, 3)
    sample = torch.arange(len(top), device=label.device)[:, None]
    code = flat_codes[sample, group, cell].cpu().numpy().astype(np.float64)
    top, label, cell = top.cpu().numpy().astype(np.float64), label.cpu().numpy(), cell.cpu().numpy()
    radii = np.array([config.suppression[name].radius for name in classes])
    boxes = []
    for s in range(len(top)):
        keep = (top[s] >= min_score) & (top[s] > 1e-6)
        found = boxes_from_codes(code[s][keep], cell[s][keep], top[s][keep], label[s][keep], grid, classes)
        boxes.append(found[suppress(found, radii, config.max_boxes)])
    return boxes


def peaks_of(scores: Tensor, classes: tuple[str, ...], config: CenterHeadConfig) -> Tensor:
    """Scores (B, classes, Y, X) where they top the cells about them as ``config.suppression`` asks, 0 elsewhere."""
    kernels = [config.suppression[name].kernel for name in classes]
    for kernel in set(kernels) - {1}:
        peaks = F.max_pool2d(scores, kernel, stride=1, padding=kernel // 2) == scores
        of_kernel = torch.tensor([k == kernel for k in kernels], device=scores.device)
        scores = torch.where(of_kernel[:, None, None] & ~peaks, 0.0, scores)
    return scores


def boxes_from_codes(
    code: np.ndarray, cell: np.ndarray, scores: np.ndarray, labels: np.ndarray, grid: BevGrid, classes: tuple[str, ...]
) -> Boxes:
    """Box codes (N, BOX_CODE) at flat cell indices (N,) to boxes in the base frame."""
    center_cells = np.stack([cell % grid.columns, cell // grid.columns], axis=-1) + 0.5 + code[:, :2]
    return decode_boxes(np.concatenate([grid.to_meters(center_cells), code[:, 2:]], axis=1), scores, labels, classes)


def suppress(boxes: Boxes, radii: np.ndarray, max_boxes: int) -> np.ndarray:
    """Greedy suppression by centre distance within each class ("circle NMS").

    Args:
        boxes: best score first.
        radii: (classes,) metres.

    Returns:
        Indices of the boxes kept, best first, at most ``max_boxes``.
    """
    xy = boxes.centers[:, :2]
    alive = np.isfinite(xy).all(axis=1)
    kept = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == max_boxes:
            break
        same = boxes.labels[i + 1 :] == boxes.labels[i]
        near = ((xy[i + 1 :] - xy[i]) ** 2).sum(axis=1) < radii[boxes.labels[i]] ** 2
        alive[i + 1 :] &= ~(same & near)
    return np.array(kept, dtype=np.int64)
