"""Pictures as messages hold them, to pixels. Without ROS: the messages may be rclpy's or those that `rosbags` reads."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from bevdistill_ros.config import MAX_IMAGE_PIXELS
from bevdistill_ros.errors import brief

MAX_IMAGE_SIDE = 65_535
"""Pixels; JPEG's own limit."""

_HEADERS_WITHIN = 1 << 22
"""Bytes of a JPEG before its pixels: previews and maker's notes may take some of 64 KiB each."""
_MOSTLY_WITHIN = 1 << 12
"""Bytes in which cameras that add no previews say all there is to say."""

# Encodings whose pixels are bytes: channels, and the OpenCV conversion to BGR (None: none is needed). Those of 16 bits
# have the same names with a 16. OpenCV names a Bayer pattern by the second row's second and third pixel, sensor_msgs by
# the first row's first two.
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "8UC3": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "8UC4": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "8UC1": (1, cv2.COLOR_GRAY2BGR),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUYV),
}


def raw_image(message: Any) -> np.ndarray:
    """Pixels (height, width, 3) uint8 BGR of a sensor_msgs/Image.

    bgr8 is a view into the message; other encodings of bytes, and those of 16 bits, are converted by OpenCV, the rest by
    cv_bridge, if there is one.

    Raises:
        ValueError: the message contradicts itself, or its encoding is not supported. The text names the field.
    """
    height, width, encoding = message.height, message.width, message.encoding
    check_image_size(width, height)
    deep = encoding.endswith("16") and encoding[:-2] + "8" in _ENCODINGS
    if encoding not in _ENCODINGS and not deep:
        return _through_cv_bridge(message)
    channels, conversion = _ENCODINGS[encoding[:-2] + "8" if deep else encoding]
    row = width * channels * (2 if deep else 1)
    if message.step < row:
        raise ValueError(f"field step is {message.step}, but a row of {width} {encoding} pixels has {row} bytes")
    data = np.frombuffer(message.data, dtype=np.uint8)
    needed = message.step * (height - 1) + row
    if data.size < needed:
        raise ValueError(
            f"field data has {data.size} bytes, but {width}x{height} {encoding} with step {message.step} needs {needed}"
        )
    # The last row's padding may be missing, so the view is made by strides rather than by reshape.
    if deep:  # the higher byte of each value, so that white stays white
        data = data[0 if message.is_bigendian else 1 :]
        pixels = np.lib.stride_tricks.as_strided(data, (height, width, channels), (message.step, 2 * channels, 2))
    else:
        pixels = np.lib.stride_tricks.as_strided(data, (height, width, channels), (message.step, channels, 1))
    if conversion is None:
        return pixels
    if channels == 2 and width % 2:
        raise ValueError(f"{encoding} images must have an even width, not {width}")
    if channels == 1:
        pixels = pixels[..., 0]
    return cv2.cvtColor(np.ascontiguousarray(pixels), conversion)


def _through_cv_bridge(message: Any) -> np.ndarray:
    try:
        from cv_bridge import CvBridge

        image = CvBridge().imgmsg_to_cv2(message, desired_encoding="bgr8")
    except Exception as error:  # cv_bridge raises its own, OpenCV's and NumPy's kinds, and ImportError late
        known = ", ".join(_ENCODINGS)
        text = " ".join(str(error).split())
        raise ValueError(
            f"encoding {brief(message.encoding)} cannot be converted ({text}); supported are {known}"
        ) from None
    image = np.asarray(image)
    if image.shape != (message.height, message.width, 3) or image.dtype != np.uint8:
        raise ValueError(f"encoding {brief(message.encoding)} was converted to {image.shape} {image.dtype}")
    return image


def check_image_size(width: int, height: int) -> None:
    """Raise ValueError where no camera has pictures of that size; whatever is allocated for a picture is bounded by this.

    A picture's size is a claim of a few bytes, and some formats make gigabytes of pixels out of kilobytes.
    """
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise ValueError(f"image is {width}x{height} pixels: the sides must be 1 to {MAX_IMAGE_SIDE}")
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"image is {width}x{height} pixels, more than the {MAX_IMAGE_PIXELS} that are decoded")


def encoded_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height that the header of a JPEG or PNG states; None for anything else.

    Of a JPEG the first frame header counts, as for libjpeg, which refuses a second one; like libjpeg this skips what lies between
    segments.
    """
    view = memoryview(data)
    if len(view) >= 24 and bytes(view[:8]) == b"\x89PNG\r\n\x1a\n" and bytes(view[12:16]) == b"IHDR":
        return int.from_bytes(view[16:20], "big"), int.from_bytes(view[20:24], "big")
    if len(view) < 4 or bytes(view[:2]) != b"\xff\xd8":
        return None
    # The copy is what this costs, so it is a small one first.
    size = _jpeg_size(bytes(view[:_MOSTLY_WITHIN]))
    return _jpeg_size(bytes(view[:_HEADERS_WITHIN])) if size is None and len(view) > _MOSTLY_WITHIN else size


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    position = 2
    while (position := content.find(b"\xff", position)) >= 0 and position + 9 <= len(content):
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in (0x00, 0x01, *range(0xD0, 0xD8)):  # these have no length
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(content[position + 7 : position + 9], "big"), int.from_bytes(
                content[position + 5 : position + 7], "big"
            )
        elif marker in (0xD8, 0xD9, 0xDA):  # a second start, the end, or pixels before any frame
            return None
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None
