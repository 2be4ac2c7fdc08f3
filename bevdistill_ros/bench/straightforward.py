"""The way from pictures to boxes that one writes first, to compare with; the same pixels, weights and boxes but for rounding.

Every JPEG is decoded whole, as cv_bridge's ``compressed_imgmsg_to_cv2`` does, then undistorted where its lens needs it, resized and
cropped by OpenCV, normalised in NumPy, one picture after the other; the network runs as it was written, in float32, and pools by
adding every point's own feature to its cell (``scatter_add``). Which point falls into which cell is known beforehand, as for ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.config import ImageConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, Camera
from bevdistill_ros.models.bev_pool import PoolPlan
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.pixels import PIXEL_MEAN, PIXEL_STD
from bevdistill_ros.models.student import Student
from bevdistill_ros.preprocess import HORIZON

_MEAN, _STD = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)


def preprocess(picture: bytes | np.ndarray, camera: Camera, config: ImageConfig) -> np.ndarray:
    """(3, H, W) float32 RGB, normalised: what of the picture ``preprocess.Preprocessor`` keeps, at the same places."""
    return normalise(resize(bridge(picture), camera, config))


def bridge(picture: bytes | np.ndarray) -> np.ndarray:
    """Pixels (h, w, 3) BGR, as cv_bridge gives them of a CompressedImage or, decoded already, an Image."""
    if isinstance(picture, np.ndarray):
        return picture
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)


def resize(image: np.ndarray, camera: Camera, config: ImageConfig) -> np.ndarray:
    """(H, W, 3) of a full-size picture."""
    if camera.is_distorted:
        if camera.distortion_model == "equidistant":
            image = cv2.fisheye.undistortImage(image, camera.K, camera.D, Knew=camera.K)
        else:
            image = cv2.undistort(image, camera.K, camera.D)
    height, width = config.height, config.width
    scale = max(width / camera.width, height / camera.height)
    size = max(width, round(camera.width * scale)), max(height, round(camera.height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    left = (size[0] - width) // 2
    top = round(min(max((camera.K[1, 2] + 0.5) * scale - HORIZON * height, 0.0), size[1] - height))
    return small[top : top + height, left : left + width]


def normalise(image: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 RGB of (H, W, 3) uint8 BGR."""
    return ((image.astype(np.float32) - _MEAN) / _STD)[..., ::-1].transpose(2, 0, 1)


def scatter_add(context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
    """What ``bev_pool`` gives, by a feature of every point; arguments as there."""
    batch, rows, columns = plan.shape
    pixels = plan.points_by_pixel // depth.shape[1]
    features = context[pixels] * depth.flatten()[plan.points_by_pixel, None]
    cells = torch.zeros(batch * rows * columns, context.shape[1], device=context.device)
    return cells.index_add(0, plan.cells_by_pixel, features).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


class StraightforwardDetector:
    """From pictures to boxes.

    Args:
        network: a lift-splat student.

    Raises:
        UserError: it is another one, or none.
    """

    def __init__(self, network: Student | None, device: torch.device) -> None:
        if network is None:
            raise UserError("--compare: an exported model cannot be taken apart; name the checkpoint it was made of")
        if not isinstance(network, LSS):
            raise UserError(
                f"--compare: '{network.config.name}' does not lift and splat its images; compare a model of that kind, as nano"
            )
        self._network, self._device = network, device
        self._calibration: Any = None

    @torch.inference_mode()
    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> None:
        """Get to know the cameras; arguments as of ``LSS.calibrate``."""
        self._calibration = self._network.calibrate(K, ego_T_cam, mask, size)

    def __call__(self, rig_set: RigSet, score_threshold: float) -> Boxes:
        """Boxes of a set whose cameras are known."""
        return self.detect([bridge(picture) for picture in rig_set.pictures], rig_set.cameras, score_threshold)

    @torch.inference_mode()
    def detect(self, pictures: Sequence[np.ndarray], cameras: Sequence[Camera], score_threshold: float) -> Boxes:
        """Boxes of decoded pictures (h, w, 3) BGR."""
        network, calibration = self._network, self._calibration
        pixels = [
            normalise(resize(picture, camera, network.config.image)) for picture, camera in zip(pictures, cameras)
        ]
        x = torch.from_numpy(np.stack(pixels)).to(self._device)
        features = network.neck(network.backbone(x))[None]
        image = network.lift.describe(features, calibration.rays)
        bins, channels = network.lift.config.bins, network.lift.config.channels
        depth = image.depth.softmax(dim=2).permute(0, 1, 3, 4, 2).reshape(-1, bins)
        context = image.context.permute(0, 1, 3, 4, 2).reshape(-1, channels)
        bev = scatter_add(context, depth, calibration.plan)
        outputs = network.detect(network.bev_encoder(bev))
        return network.decode(outputs, score_threshold)[0]
