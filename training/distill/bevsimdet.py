"""BEVSimDet (SimDistill, Zhao et al. 2024): a camera student that simulates LiDAR features learns from a teacher that has them.

Each kind of the student's features learns from the teacher's: camera features from camera features (intra-modal), simulated LiDAR
features from LiDAR features (cross-modal), and what is made of both from what the teacher makes of both, features as well as
predictions (multi-modal fusion). Notation: S student, T teacher, sigma the logistic function, B samples, C channels, Y X cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid, Boxes
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.box_code import decoded_codes
from bevdistill_ros.models.center_head import group_of_class
from bevdistill_ros.models.modal_network import ModalNetwork
from bevdistill_ros.training.distill.config import BevSimDetConfig
from bevdistill_ros.training.distill.features import make_adapter, make_projection
from bevdistill_ros.training.distill.fitnet import imitation_loss
from bevdistill_ros.training.distill.masks import foreground_masks
from bevdistill_ros.training.distill.method import DistilledBatch, Method
from bevdistill_ros.training.losses import code_weights

FOREGROUND = 0.1
"""A class in a cell to which the teacher gives a greater score counts in the normaliser of ``class_loss``."""

BEND = 1 / 9
"""Difference at which ``box_loss`` turns from a square into a line."""


class BevSimDet(Method):
    """The losses of BEVSimDet, each with its own weight. The formulas are with the functions of this file.

    ``imitation_loss`` between camera features (IMD) and between fused ones (MMD-F), projected (1x1) only where they differ in
    channels; ``object_loss`` between adapted simulated and real LiDAR features (CMD); ``class_loss`` and ``box_loss`` between
    predictions (MMD-P).

    Raises:
        UserError: student or teacher lack what is to be compared.
    """

    def __init__(self, config: BevSimDetConfig, student: BevNetwork, teacher: BevNetwork) -> None:
        super().__init__()
        _check_fit(config, student, teacher)
        self.config = config
        if config.features_used:
            own, wanted = student.modal_channels, teacher.modal_channels
        self.camera_adapter = make_projection(own.camera, wanted.camera) if config.imd else None
        self.lidar_adapter = make_adapter(own.lidar, wanted.lidar, student.config.norm) if config.cmd else None
        self.fused_adapter = make_projection(own.fused, wanted.fused) if config.mmd_fused else None

    def forward(self, batch: DistilledBatch) -> dict[str, Tensor]:
        """See ``Method``."""
        config, model = self.config, batch.student_network.config
        student, teacher = batch.student, batch.teacher
        losses: dict[str, Tensor] = {}
        if self.camera_adapter is not None:
            adapted = self.camera_adapter(student.modal.camera)
            losses["imd"] = config.imd * imitation_loss(adapted.float(), teacher.modal.camera.float())
        if self.lidar_adapter is not None:
            adapted = self.lidar_adapter(student.modal.lidar)
            drawing = config.overlap, config.min_radius, config.merge
            mask = foreground_masks(batch.boxes, model.grid, *drawing, adapted.device)
            losses["cmd"] = config.cmd * object_loss(adapted.float(), teacher.modal.lidar.float(), mask)
        if self.fused_adapter is not None:
            adapted = self.fused_adapter(student.modal.fused)
            losses["mmd_fused"] = config.mmd_fused * imitation_loss(adapted.float(), teacher.modal.fused.float())
        if config.mmd_classes:
            heatmaps = student.center.heatmap.float(), teacher.center.heatmap.float()
            losses["mmd_classes"] = config.mmd_classes * class_loss(*heatmaps)
        if config.mmd_boxes:
            codes = student.center.codes.float(), teacher.center.codes.float()
            groups = group_of_class(model.classes, model.head)
            weights = code_weights(config.code_weights, codes[0])
            losses["mmd_boxes"] = config.mmd_boxes * box_loss(*codes, batch.boxes, model.grid, groups, weights)
        return {f"bevsimdet_{name}": loss for name, loss in losses.items()}


def object_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 / (B C Y X) sum_(b c y x) (m S - m T)^2: objects count by the square of the mask, empty ground does not.

    Args:
        student, teacher: (B, C, Y, X).
        mask: (B, 1, Y, X).
    """
    return (mask**2 * (student - teacher) ** 2).mean()


def class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of sum_(c y x) BCE(s, p) |sigma(s) - p|^2 / max(1, how many p are above ``FOREGROUND``), with p = sigma(t).

    Quality focal loss (Li et al. 2020) with beta = 2, and the teacher's score as quality.

    Args:
        student, teacher: (B, classes, Y, X) logits s and t.
    """
    wanted = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    loss = entropy * (student.sigmoid() - wanted) ** 2
    return (loss.flatten(1).sum(dim=1) / (wanted > FOREGROUND).flatten(1).sum(dim=1).clamp(min=1)).mean()


def box_loss(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Boxes],
    grid: BevGrid,
    groups: Sequence[int],
    weights: Tensor,
) -> Tensor:
    """Mean over samples of 1 / max(1, N) sum_(n <= N) sum_d w_d H(s_nd - t_nd), at the centres' cells of the N boxes on the grid.

    H(d) is d^2 / (2 ``BEND``) for |d| < ``BEND``, |d| - ``BEND`` / 2 beyond (smooth L1). Sizes are logarithms, the yaw is its sine
    and cosine; t is the code of the box that the teacher's values mean (``decoded_codes``), since the sine and cosine of a head
    that is unsure of a heading are short.

    Args:
        student, teacher: (B, groups, BOX_CODE, Y, X).
        boxes: ground truth of each sample.
        groups: of each class.
        weights: w (BOX_CODE,).
    """
    losses = []
    of_class = torch.tensor(groups, device=student.device)
    for s, found in enumerate(boxes):
        found = found[grid.contains(found.centers[:, :2])]
        group = of_class[torch.from_numpy(found.labels).to(student.device)]
        column, row = grid.to_cells(torch.from_numpy(found.centers[:, :2])).floor().long().to(student.device).unbind(1)
        own, wanted = (codes[s, group, :, row, column] for codes in (student, teacher))
        difference = F.smooth_l1_loss(own, decoded_codes(wanted), reduction="none", beta=BEND)
        losses.append((weights * difference).sum() / max(1, len(found)))
    return torch.stack(losses).mean()


def _check_fit(config: BevSimDetConfig, student: BevNetwork, teacher: BevNetwork) -> None:
    """Raise a UserError that names what the losses in use need and do not find."""
    if config.features_used:
        for who, network, example in (
            ("student", student, "simulated_nano"),
            ("teacher", teacher, "teacher_fusion_nano"),
        ):
            if not isinstance(network, ModalNetwork):
                raise UserError(
                    f"training.distill.bevsimdet: the {who} '{network.config.name}' has no camera and LiDAR features side by side, "
                    f"which imd, cmd and mmd_fused compare: take a {who} such as {example}, or set these three to 0"
                )
    if config.predictions_used:
        for who, network in (("student", student), ("teacher", teacher)):
            if network.head is None:
                raise UserError(
                    f"training.distill.bevsimdet: the {who} '{network.config.name}' has no centre head, "
                    "whose predictions mmd_classes and mmd_boxes compare: give its model a 'head', or set these two to 0"
                )
        if student.config.head.groups != teacher.config.head.groups:
            raise UserError(
                "training.distill.bevsimdet: head.groups of student and teacher differ; both need the same in the same order"
            )
    if student.config.grid != teacher.config.grid:
        raise UserError(
            f"training.distill.bevsimdet: the teacher's cells are {teacher.config.grid.cell:g} m, the student's "
            f"{student.config.grid.cell:g} m; both need the same grid"
        )
