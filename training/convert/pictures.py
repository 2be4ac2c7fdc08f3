"""Recorded images as a dataset holds them: undistorted JPEGs. One that is that already passes through, byte for byte."""

from __future__ import annotations

from threading import Lock
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.config import ImageConfig
from bevdistill_ros.geometry import Camera
from bevdistill_ros.images import encoded_size, raw_image
from bevdistill_ros.preprocess import Preprocessor


class Pictures:
    """Makes JPEGs of messages. Safe to call from several threads.

    Args:
        quality: of JPEGs that are encoded here, 1..100.
    """

    def __init__(self, quality: int) -> None:
        self._parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._preprocessors: dict[tuple[int, int], Preprocessor] = {}
        self._lock = Lock()

    def jpeg(self, message: Any, camera: Camera) -> bytes:
        """The picture of an Image or CompressedImage, as an ideal pinhole of the same K would have taken it.

        Raises:
            ValueError: there is no such picture in the message, or its size is not the calibration's.
        """
        if hasattr(message, "encoding"):
            source: bytes | np.ndarray = raw_image(message)
        else:
            source = bytes(message.data)
            if not source:
                raise ValueError("the image is empty")
            if source.startswith(b"\xff\xd8"):
                _check_jpeg(source)
                if not camera.is_distorted:
                    self._check_decodes(source, camera)
                    return source
        # At its own size the network's preprocessing undistorts and leaves K as it is.
        size = (camera.height, camera.width)
        with self._lock:  # making a plan takes far more memory than the plan: one at a time
            preprocessor = self._preprocessors.setdefault(size, Preprocessor(ImageConfig(*size)))
            preprocessor.plan(camera)
        pixels, _ = preprocessor(source, camera)
        ok, encoded = cv2.imencode(".jpg", pixels, self._parameters)
        if not ok:
            raise ValueError("the image cannot be encoded as JPEG")
        return encoded.tobytes()

    @staticmethod
    def _check_decodes(data: bytes, camera: Camera) -> None:
        if (size := encoded_size(data)) != (camera.width, camera.height):
            found = f"{size[0]}x{size[1]}" if size else "of no size"
            raise ValueError(f"the image is {found}, its calibration {camera.width}x{camera.height}")
        # An eighth of the size: the whole file is read all the same.
        flags = cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION
        if cv2.imdecode(np.frombuffer(data, np.uint8), flags) is None:
            raise ValueError("the JPEG cannot be decoded")


def _check_jpeg(data: bytes) -> None:
    """Raise ValueError where a JPEG is cut off, or holds what no encoder writes: decoders make grey or coloured noise of those."""
    at = 2
    while data[at : at + 2] != b"\xff\xda":  # segment by segment: a thumbnail in one has a scan of its own
        if at + 4 > len(data) or data[at] != 0xFF:
            raise ValueError("the JPEG is cut off" if at + 4 > len(data) else "the JPEG is corrupt")
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        raise ValueError("the JPEG is cut off")
    pixels = np.frombuffer(data[at:end], np.uint8)
    after = pixels[1:][pixels[:-1] == 0xFF]
    # Behind 0xFF stand 0 (a value), a restart or another marker of 0xC4 and above; never a low one.
    if ((after > 0) & (after < 0xC4)).any():
        raise ValueError("the JPEG is corrupt")
