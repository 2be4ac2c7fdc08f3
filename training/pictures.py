"""Pictures of samples with found and true boxes: of an evaluation, and of a training on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import lightning
import numpy as np
import torch

from bevdistill_ros.geometry import BevGrid, Boxes, Camera, resize_matrix
from bevdistill_ros.training.augmentation import scale_boxes, scale_world
from bevdistill_ros.training.data.nuscenes import Sample
from bevdistill_ros.visualise import bev_pixels, draw_bev, draw_boxes, mosaic

SCORE = 0.3
"""Boxes found in training are drawn from this score on."""

POINT_GREY = 110
"""LiDAR points, seen from above."""


def draw_sample(
    sample: Sample, cameras: Sequence[str], found: Boxes, grid: BevGrid, cell_width: int = 640
) -> np.ndarray:
    """One picture of a sample: what the network saw of every camera, and the view from above, with found and true
    boxes and the LiDAR's points. Of a sample without pixels the view from above alone.

    Args:
        sample: images or points, calibration and true boxes.
        cameras: names, in the sample's order.
        found: boxes of the base frame at ``sample.t_ref``.
        grid: the range that the view from above shows.
        cell_width: width of each camera's picture in pixels.
    """
    extent = (grid.x_min, grid.x_max, grid.y_min, grid.y_max)
    bev = draw_bev(found, sample.boxes, extent)
    draw_points(bev, sample.points, extent)
    if not sample.images.size:
        return bev
    pictures: dict[str, np.ndarray | None] = {}
    for name, image, K, ego_T_cam, present in zip(
        cameras, sample.images, sample.K, sample.ego_T_cam, sample.mask, strict=True
    ):
        if not present:
            pictures[name] = None
            continue
        scale = cell_width / image.shape[1]
        size = (cell_width, round(image.shape[0] * scale))
        pictures[name] = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        camera = Camera(resize_matrix(scale, size[1] / image.shape[0]) @ K, *size)
        draw_boxes(pictures[name], found, camera, ego_T_cam)
        draw_boxes(pictures[name], sample.boxes, camera, ego_T_cam, truth=True)
    return mosaic(pictures, dict(zip(cameras, sample.ego_T_cam, strict=True)), bev, cell_width)


def draw_points(bev: np.ndarray, points: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Brighten the pixels of a picture of ``draw_bev`` under LiDAR points (n, POINT), lightly, so that boxes stay visible.

    Args:
        extent: (x_min, x_max, y_min, y_max) of the picture.
    """
    height, width = bev.shape[:2]
    column, row = np.floor(bev_pixels(points[:, :2], extent, height) + 0.5).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # False for NaN
    row, column = row[inside].astype(int), column[inside].astype(int)
    bev[row, column] = np.maximum(bev[row, column], POINT_GREY)


class Pictures(lightning.Callback):
    """Logs every so many steps the first sample of the batch, augmented as the network saw it, with the boxes it finds now."""

    def __init__(self, every: int, cameras: Sequence[str], cell_width: int = 384) -> None:
        self.every, self.cameras, self.cell_width = every, tuple(cameras), cell_width

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: dict, index: int
    ) -> None:
        """After every ``every``-th step."""
        if not trainer.is_global_zero or not self.every or trainer.global_step % self.every:
            return
        sample, found = first_of_batch(module, batch)
        picture = draw_sample(sample, self.cameras, found, module.config.model.grid, self.cell_width)
        trainer.logger.experiment.add_image("sample", picture[..., ::-1].copy(), trainer.global_step, dataformats="HWC")


@torch.no_grad()
def first_of_batch(module: lightning.LightningModule, batch: dict) -> tuple[Sample, Boxes]:
    """The first sample of a batch and the boxes found in it by the network as it would run in use, not as in a training step.

    Where it has cameras, both in a world of true size: augmentation may have scaled it, and then poses are no rigid transforms.
    """
    network = module.network
    network.eval()
    outputs = network(*(batch[name][:1] for name in network.inputs))
    found = network.decode(outputs, SCORE)[0]
    network.train()
    seen = {name: batch[name][0].cpu().numpy() for name in network.inputs}
    sample = replace(_nothing_seen(batch["tokens"][0], batch["boxes"][0]), **seen)
    if not len(sample.ego_T_cam):
        return sample, found
    factor = 1.0 / float(np.cbrt(np.linalg.det(sample.ego_T_cam[0, :3, :3].astype(np.float64))))
    return scale_world(sample, factor), scale_boxes(found, factor)


def _nothing_seen(token: str, boxes: Boxes) -> Sample:
    """A sample without cameras and points."""
    images, K, ego_T_cam = np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 3, 3)), np.zeros((0, 4, 4))
    return Sample(token, images, K, ego_T_cam, np.zeros(0, bool), boxes, np.eye(4), 0, 0)
