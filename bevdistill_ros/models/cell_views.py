"""Which cameras see which cells of the BEV grid, and at which places of their images."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.calibration_cache import CalibrationCache

NEAREST = 0.1
"""Metres in front of a camera from which on it sees."""

NOWHERE = -10.0
"""Place of what no image shows, in widths and heights of the image: far from all of them."""


class CellViews(NamedTuple):
    """What each of R images sees, of a batch of B samples with N cameras and Q cells.

    Images that see no cell are left out (one stays, however: R is at least 1). The others' lists of cells are of the same length M,
    that of the longest; the rest of a shorter one is filled up.

    Attributes:
        images: (R,) which ones of the B * N images.
        cells: (R, M) which ones of the B * Q cells; where filled up, 0.
        shares: (R, M) one divided by the number of cameras that see the cell; where filled up, 0.
        places: (R, M, heights, 2) of each point of the cell's vertical line in the image, as (x, y), 0..1 from the image's left or
            upper edge to the other; ``NOWHERE`` where the point is behind the camera, and where filled up.
    """

    images: Tensor
    cells: Tensor
    shares: Tensor
    places: Tensor

    def padded(self, images: int, step: int) -> CellViews:
        """The same of so many ``images``, each with a multiple of ``step`` cells: filled up with some that count for nothing."""
        more, longer = images - len(self.images), -self.cells.shape[1] % step
        return CellViews(
            images=F.pad(self.images, (0, more)),
            cells=F.pad(self.cells, (0, longer, 0, more)),
            shares=F.pad(self.shares, (0, longer, 0, more)),
            places=F.pad(self.places, (0, 0, 0, 0, 0, longer, 0, more), value=NOWHERE),
        )


class ViewFinder(nn.Module):
    """Projects ``heights`` points over every cell's centre into the images of a rig.

    The points are at the centres of equal parts of ``z_min``..``z_max`` metres. A camera sees a cell if it is there, and at least
    one of the cell's points is in front of it and within its image.

    What is found depends on the calibration alone: in evaluation mode it is found anew only when calibration or mask change.
    """

    def __init__(self, grid: BevGrid, heights: int, z_min: float, z_max: float) -> None:
        super().__init__()
        centers = torch.from_numpy(grid.centers()).float().flatten(0, 1)  # (Q, 2), cells row by row
        levels = z_min + (torch.arange(heights) + 0.5) * ((z_max - z_min) / heights)
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("levels", levels, persistent=False)
        self._kept: CalibrationCache[CellViews] = CalibrationCache()

    @torch.no_grad()
    def forward(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> CellViews:
        """What the cameras see.

        Args:
            K: (B, N, 3, 3) of images of ``size`` = (H, W) pixels.
            ego_T_cam: (B, N, 4, 4); it may scale as well.
            mask: (B, N) bool, the cameras present.
        """
        if self.training:
            return self._find(K, ego_T_cam, mask, size)
        return self._kept.get(self._find, K, ego_T_cam, mask, size)

    def project(self, K: Tensor, ego_T_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, N, Q, heights, 2) of all points, and their depths (B, N, Q, heights) in metres along the optical axis.

        Arguments as for ``forward``. Pixels of points that are not in front of the camera mean nothing.
        """
        cam_R_ego = _inverse(ego_T_cam[..., :3, :3])[..., None, None]  # (B, N, 3, 3, 1, 1)
        origin = ego_T_cam[..., :3, 3, None, None]
        # Products element by element, not matmul, which autocast and TF32 would round to some pixels. Coordinate by coordinate: no
        # tensor of all of them is made that is not needed.
        x = self.centers[:, 0, None] - origin[:, :, 0]  # (B, N, Q, 1)
        y = self.centers[:, 1, None] - origin[:, :, 1]
        z = self.levels - origin[:, :, 2]  # (B, N, 1, heights)
        right, down, depth = (
            cam_R_ego[:, :, i, 0] * x + cam_R_ego[:, :, i, 1] * y + cam_R_ego[:, :, i, 2] * z for i in range(3)
        )
        u, v = (
            (k[..., 0, None, None] * right + k[..., 1, None, None] * down) / depth + k[..., 2, None, None]
            for k in (K[..., 0, :], K[..., 1, :])
        )
        return torch.stack([u, v], dim=-1), depth

    def _find(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> CellViews:
        height, width = size
        pixels, depth = self.project(K, ego_T_cam)
        places = (pixels + 0.5) / pixels.new_tensor([width, height])  # integer coordinates are pixel centres
        in_front = (depth > NEAREST) & mask[:, :, None, None]
        inside = ((places >= 0) & (places <= 1)).all(dim=-1)
        seen = (in_front & inside).any(dim=-1)  # (B, N, Q)
        places = torch.where(in_front[..., None], places, NOWHERE).clamp(NOWHERE, -NOWHERE)
        batch, cameras, cells = seen.shape
        sample = torch.arange(batch * cameras, device=seen.device) // cameras
        share = 1.0 / seen.sum(dim=1).clamp(min=1)  # (B, Q)
        numbers = seen.sum(dim=2).flatten()
        images = numbers.nonzero()[:, 0]
        if not len(images):  # nobody sees anything, yet what reads the images must run, for its gradients
            images = numbers.new_zeros(1)
        longest = max(int(numbers.max()), 1)
        seen, places = seen.flatten(0, 1)[images], places.flatten(0, 1)[images]
        order = seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[
            :, :longest
        ]  # those that are seen, in order
        listed = seen.gather(1, order)
        row = torch.arange(len(images), device=seen.device)[:, None]
        return CellViews(
            images=images,
            cells=torch.where(listed, order + cells * sample[images, None], 0),
            shares=torch.where(listed, share[sample[images, None], order], 0.0),
            places=torch.where(listed[..., None, None], places[row, order], NOWHERE),
        )


def _inverse(matrices: Tensor) -> Tensor:
    """Inverse of (..., 3, 3) matrices, in closed form, so that an absent camera's that is singular or no number raises nothing."""
    a, b, c = matrices.unbind(dim=-1)  # columns
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-2)
    return rows / (a * rows[..., 0, :]).sum(dim=-1)[..., None, None]
