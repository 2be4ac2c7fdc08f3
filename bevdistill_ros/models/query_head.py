"""Query head: a transformer decoder whose queries read the BEV map and become boxes, without suppression.

Deformable DETR's decoder (Zhu et al. 2021) over one map, with the 3-D box code of DETR3D (Wang et al. 2021) and the iterative
refinement of both: the head of BEVFormer and, with plain self-attention, of Object-DGCNN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bevdistill_ros.config import QueryHeadConfig
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.box_code import BOX_CODE, decode_boxes
from bevdistill_ros.models.center_head import start_at
from bevdistill_ros.models.deformable_attention import DeformableAttention
from bevdistill_ros.models.feedforward import make_feedforward
from bevdistill_ros.models.outputs import QueryOutputs

REACH = 8.0
"""A layer starts from places no nearer to the borders than sigmoid(-REACH), 0.03 % of the grid: beyond, gradients vanish."""


class QueryHead(nn.Module):
    """BEV features (B, channels_in, Y, X) to class logits and box codes of every query.

    A query has a content, which the layers change, and a position, which says where it starts to look. Its place (x, y, z) is kept
    as logits over the grid and the range of heights; each layer moves it, and the next one reads the map about it.
    """

    def __init__(self, channels_in: int, classes: int, grid: BevGrid, config: QueryHeadConfig) -> None:
        super().__init__()
        channels = config.channels
        self.project = nn.Linear(channels_in, channels)
        self.norm = nn.LayerNorm(channels)
        self.content = nn.Parameter(torch.randn(config.queries, channels))
        self.position = nn.Parameter(torch.randn(config.queries, channels))
        self.place = nn.Linear(channels, 3)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.classify = nn.ModuleList(_class_branch(channels, classes) for _ in range(config.layers))
        self.regress = nn.ModuleList(_box_branch(channels) for _ in range(config.layers))
        nn.init.xavier_uniform_(self.place.weight)
        nn.init.zeros_(self.place.bias)
        low = torch.tensor([grid.x_min, grid.y_min, config.z_min])
        high = torch.tensor([grid.x_max, grid.y_max, config.z_max])
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("span", high - low, persistent=False)
        self.register_buffer("map_position", sine_positions(grid.rows, grid.columns, channels), persistent=False)

    def forward(self, bev: Tensor, every_layer: bool | None = None) -> QueryOutputs:
        """Run the head; codes and logits are float32, also under autocast.

        Args:
            every_layer: whether all layers' boxes are wanted or the last one's alone; None: all of them in training only.
        """
        every_layer = self.training if every_layer is None else every_layer
        batch, shape = len(bev), bev.shape[-2:]
        value = self.norm(self.project(bev.flatten(2).transpose(1, 2))) + self.map_position
        content, position = (x.expand(batch, -1, -1) for x in (self.content, self.position))
        logits, codes = [], []
        with torch.autocast(bev.device.type, enabled=False):
            place = self.place(position)
        for layer, classify, regress in zip(self.layers, self.classify, self.regress, strict=True):
            content = layer(content, position, place[..., :2].sigmoid(), value, shape)
            # Eight bits are too few for a place on a map, so what makes boxes is float32.
            with torch.autocast(bev.device.type, enabled=False):
                change = regress(content.float())
                place = place + change[..., :3]
                if every_layer or layer is self.layers[-1]:
                    logits.append(classify(content.float()))
                    codes.append(torch.cat([self.low + self.span * place.sigmoid(), change[..., 3:]], dim=-1))
                place = place.detach().clamp(-REACH, REACH)
        return QueryOutputs(torch.stack(logits), torch.stack(codes))


class _Layer(nn.Module):
    """Queries see one another, then the map, then each itself; normalised after each (as DETR)."""

    def __init__(self, config: QueryHeadConfig) -> None:
        super().__init__()
        channels = config.channels
        self.among = nn.MultiheadAttention(channels, config.heads, config.dropout, batch_first=True)
        self.map = DeformableAttention(channels, config.heads, 1, config.points)
        self.feedforward = make_feedforward(channels, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, content: Tensor, position: Tensor, reference: Tensor, value: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """New content of the queries.

        Args:
            content, position: (B, Q, C).
            reference: (B, Q, 2) as (x, y) in 0..1 of the map.
            value: (B, Y * X, C).
            shape: (Y, X).
        """
        query = content + position
        found = self.among(query, query, content, need_weights=False)[0]
        content = self.norms[0](content + self.dropout(found))
        found = self.map(content + position, reference[:, :, None], value, [shape])
        content = self.norms[1](content + self.dropout(found))
        return self.norms[2](content + self.dropout(self.feedforward(content)))


def _class_branch(channels: int, classes: int) -> nn.Sequential:
    layers = [part for _ in range(2) for part in (nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(True))]
    # Nearly all queries are of no object: a small probability keeps them from drowning the first steps.
    return nn.Sequential(*layers, start_at(nn.Linear(channels, classes), 0.01))


def _box_branch(channels: int) -> nn.Sequential:
    layers = [part for _ in range(2) for part in (nn.Linear(channels, channels), nn.ReLU(True))]
    last = nn.Linear(channels, BOX_CODE)
    with torch.no_grad():  # at first every query stays at its place
        last.weight[:3] = 0.0
        last.bias.zero_()
    return nn.Sequential(*layers, last)


def sine_positions(rows: int, columns: int, channels: int) -> Tensor:
    """Embeddings (rows * columns, channels) of the cells' places: sines and cosines of the row, then of the column.

    Their waves are from 4 cells long to twice the longer side, so that they tell both neighbours and far cells apart.
    """
    shortest, longest = 4.0, 2.0 * max(rows, columns)
    count = channels // 4
    waves = shortest * (longest / shortest) ** torch.linspace(0, 1, count)

    def of(cells: int) -> Tensor:
        phase = 2 * math.pi * (torch.arange(cells) + 0.5)[:, None] / waves
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    half = (rows, columns, channels // 2)
    return torch.cat([of(rows)[:, None].expand(half), of(columns)[None].expand(half)], dim=-1).flatten(0, 1)


@torch.no_grad()
def decode_queries(
    outputs: QueryOutputs, classes: tuple[str, ...], config: QueryHeadConfig, min_score: float = 0.0
) -> list[Boxes]:
    """Boxes of each sample by the last layer, best score first: the ``max_boxes`` best of all pairs of query and class.

    Nothing is suppressed: the queries have learnt to tell one another which of them has an object.

    Args:
        min_score: boxes below are dropped.
    """
    scores = outputs.logits[-1].float().sigmoid()
    top, index = scores.flatten(1).topk(min(config.max_boxes, scores[0].numel()))
    query, label = index // len(classes), index % len(classes)
    code = outputs.codes[-1].float().take_along_dim(query[..., None], dim=1).cpu().numpy().astype(np.float64)
    top, label = top.cpu().numpy().astype(np.float64), label.cpu().numpy()
    keep = (top >= min_score) & np.isfinite(code).all(axis=2)
    return [decode_boxes(code[s][keep[s]], top[s][keep[s]], label[s][keep[s]], classes) for s in range(len(top))]
