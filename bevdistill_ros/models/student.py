"""What the students have in common: what depends on the calibration is made apart from what depends on the images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.outputs import Outputs


class Student(BevNetwork):
    """A camera-only detector. Cameras may be in any order and number; masked ones are as if absent.

    A calibration stays the same for many sets of images: who runs the network keeps what ``calibrate`` gives, and calls ``run``.
    """

    inputs = ("images", "K", "ego_T_cam", "mask")

    def forward(self, images: Tensor, K: Tensor, ego_T_cam: Tensor, mask: Tensor | None = None) -> Outputs:
        """Run the network.

        Args:
            images: (B, N, H, W, 3) uint8, BGR, as ``preprocess.Preprocessor`` makes them.
            K: (B, N, 3, 3) float32 of those images.
            ego_T_cam: (B, N, 4, 4) float32, base frame at the reference time.
            mask: (B, N) bool, False where a camera is missing; None: all are there.
        """
        mask = all_present(images) if mask is None else mask
        return self.run(images, self.calibrate(K, ego_T_cam, mask, images.shape[2:4]))

    @abstractmethod
    def calibrate(self, K: Tensor, ego_T_cam: Tensor, mask: Tensor, size: tuple[int, int]) -> Any:
        """All that ``run`` needs to know of the cameras: a named tuple, which depends on these arguments and the weights alone.

        Args:
            K, ego_T_cam, mask: as for ``forward``.
            size: (H, W) of the images.
        """

    @abstractmethod
    def padded(self, calibration: Any, cameras: int, size: tuple[int, int]) -> Any:
        """What ``calibrate`` gave for one sample of so many ``cameras`` and images of ``size`` = (H, W), in tensors whose sizes
        hardly ever change with the calibration. ``run`` gives the same, for inference alone.

        Whoever records ``run``, as a CUDA graph for instance, has the calibration as its input so: a tuple whose parts, where they
        are not None, copy others of the same sizes by ``copy_``.
        """

    @abstractmethod
    def run(self, images: Tensor, calibration: Any) -> Outputs:
        """What ``forward`` gives on images (B, N, H, W, 3) of a calibration that ``calibrate`` has seen."""
