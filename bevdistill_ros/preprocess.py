"""From a camera's picture to the network's input: the ONE function that training, evaluation and the node all use.

Decode (at a reduced size where the target allows), then undistort, resize and crop in one remap. Interpolation is part of the
model, so its settings are saved in the checkpoint (``ImageConfig``).

How a picture is fitted: it is undistorted to an ideal pinhole of the same K, scaled by one factor so that it covers the target, and
cropped to its horizontal middle and vertically so that the principal point, where a level camera sees the horizon, lies ``HORIZON``
of the height from the top, as far as the picture reaches: the road stays, the sky goes, whatever the aspect ratio.
How it is resampled: first by the largest whole factor f of 8, 4, 2, 1 not above the shrinking (JPEG: libjpeg's scaled decoding;
anything else: the mean of f x f pixels), then by bilinear interpolation of what remains, which is less than a factor of two.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from bevdistill_ros.config import ImageConfig
from bevdistill_ros.geometry import Camera, crop_matrix, resize_matrix
from bevdistill_ros.images import check_image_size, encoded_size

HORIZON = 0.3
INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class ImagePlan:
    """How the pictures of one camera become network inputs: decode by 1/``factor``, then remap. ``K`` is the result's."""

    factor: int
    maps: tuple[np.ndarray, np.ndarray]
    K: np.ndarray


class Preprocessor:
    """``image, K = preprocessor(source, camera)``; plans are cached by calibration. Safe to call from several threads."""

    def __init__(self, config: ImageConfig, cache_size: int = 32) -> None:
        self.config = config
        self._cache_size = cache_size
        self._plans: OrderedDict[tuple, ImagePlan] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        # Workers of a data loader that are not forked get a copy without the lock and the cache.
        return Preprocessor, (self.config, self._cache_size)

    def __call__(
        self, source: bytes | bytearray | memoryview | np.ndarray, camera: Camera, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode, undistort, resize and crop one picture.

        Args:
            source: an encoded picture (1-D bytes: JPEG, PNG), or decoded pixels (h, w, 3) uint8 in BGR order.
            camera: its calibration, of the full-size picture.
            out: (height, width, 3) uint8 of the configured size and without gaps, as a row of a batch: the pixels are written
                there, all of them, and it is the array returned. Where an error is raised, it is as it was.

        Returns:
            (height, width, 3) uint8 BGR of the configured size, and the (3, 3) float64 K that belongs to it.

        Raises:
            ValueError: the bytes cannot be decoded, the array is not (h, w, 3) uint8, or its size is not the calibration's.
            TypeError: ``out`` is no such array.
        """
        if out is not None:
            self._check_out(out)
        plan = self.plan(camera)
        reduced = self._reduce(source, camera, plan.factor)
        flags = INTERPOLATIONS[self.config.interpolation]
        return cv2.remap(reduced, *plan.maps, flags, dst=out, borderMode=cv2.BORDER_CONSTANT), plan.K

    def _check_out(self, out: np.ndarray) -> None:
        """OpenCV leaves an array that does not fit alone, without a word, and makes another."""
        size = (self.config.height, self.config.width, 3)
        if out.shape != size or out.dtype != np.uint8 or not (out.flags.c_contiguous and out.flags.writeable):
            raise TypeError(f"out must be {size} uint8, writable and without gaps, not {out.shape} {out.dtype}")

    def plan(self, camera: Camera) -> ImagePlan:
        """The (cached) plan of a camera."""
        with self._lock:
            plan = self._plans.get(camera.key)
            if plan is not None:
                self._plans.move_to_end(camera.key)
                return plan
        plan = self._make_plan(camera)
        with self._lock:
            self._plans[camera.key] = plan
            while len(self._plans) > self._cache_size:
                self._plans.popitem(last=False)
        return plan

    def _make_plan(self, camera: Camera) -> ImagePlan:
        height, width = self.config.height, self.config.width
        scale = max(width / camera.width, height / camera.height)
        factor = next(f for f in (8, 4, 2, 1) if f <= max(1.0, 1.0 / scale))
        left = (camera.width * scale - width) / 2
        horizon = (camera.K[1, 2] + 0.5) * scale
        top = min(max(horizon - HORIZON * height, 0.0), camera.height * scale - height)
        K = crop_matrix(left, top) @ resize_matrix(scale, scale) @ camera.K
        # Where each output pixel's ray meets the distorted full-size picture, then in the reduced one.
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        rays = np.stack(
            [(columns - K[0, 2] - K[0, 1] * (rows - K[1, 2]) / K[1, 1]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]], axis=-1
        )
        pixels, _ = camera.project(np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1))
        pixels = (pixels + 0.5) / factor - 0.5
        # Pixels that the lens cannot image lie far outside, which the constant border makes black.
        pixels = np.where(np.isfinite(pixels), pixels, -1e4).astype(np.float32)
        # "nearest" rounds here: remap would take the fractions the wrong way round.
        nearest = self.config.interpolation == "nearest"
        fixed_point = cv2.convertMaps(pixels[..., 0], pixels[..., 1], cv2.CV_16SC2, nninterpolation=nearest)
        K.setflags(write=False)  # every caller gets this one
        return ImagePlan(factor=factor, maps=fixed_point, K=K)

    @staticmethod
    def _reduce(source: bytes | bytearray | memoryview | np.ndarray, camera: Camera, factor: int) -> np.ndarray:
        """The picture at 1/``factor`` of its size, partial blocks at the border included."""
        if isinstance(source, np.ndarray) and source.ndim > 1:
            image = source
            if image.shape[2:] != (3,) or image.dtype != np.uint8:
                raise ValueError(f"decoded pixels must be (h, w, 3) uint8, not {image.shape} {image.dtype}")
        else:
            encoded = np.frombuffer(source, dtype=np.uint8)
            _check_header(encoded, camera)
            if factor > 1 and encoded[:2].tobytes() == b"\xff\xd8":
                image = _decode(encoded, factor)
                _check_size(image, camera, factor)
                return image
            # Not JPEG: OpenCV would decode it whole and then pick pixels without a mean.
            image = _decode(encoded, 1)
        _check_size(image, camera, 1)
        if factor == 1:
            return image
        # Whole blocks only, so that the mean over f x f pixels is exact; a partial block at the border is completed by repetition.
        bottom, right = -image.shape[0] % factor, -image.shape[1] % factor
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return cv2.resize(image, (image.shape[1] // factor, image.shape[0] // factor), interpolation=cv2.INTER_AREA)


def _check_header(encoded: np.ndarray, camera: Camera) -> None:
    """Raise ValueError unless it says to be a JPEG or PNG of the calibration's size: before its pixels are given memory, and before
    any of the other decoders that OpenCV brings sees bytes that came from outside."""
    size = encoded_size(memoryview(encoded))
    if size is None:
        raise ValueError(f"{encoded.size} bytes are no picture that can be decoded, a JPEG or PNG")
    if size != (camera.width, camera.height):
        raise ValueError(f"picture is {size[0]}x{size[1]}, its calibration {camera.width}x{camera.height}")
    check_image_size(*size)


def _decode(encoded: np.ndarray, factor: int) -> np.ndarray:
    try:
        # The calibration is of the stored pixels, so an EXIF orientation must not turn them.
        image = cv2.imdecode(encoded, _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV allows
        raise ValueError(f"{encoded.size} bytes cannot be decoded: {' '.join(str(error).split())}") from None
    if image is None:
        raise ValueError(f"{encoded.size} bytes are no picture that can be decoded")
    return image


def _check_size(image: np.ndarray, camera: Camera, factor: int) -> None:
    if image.shape[:2] != (-(-camera.height // factor), -(-camera.width // factor)):
        size = f"{image.shape[1]}x{image.shape[0]}" + (f" (at 1/{factor})" if factor > 1 else "")
        raise ValueError(f"picture is {size}, its calibration {camera.width}x{camera.height}")
