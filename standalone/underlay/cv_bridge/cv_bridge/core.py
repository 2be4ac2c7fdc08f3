"""Image messages to NumPy arrays and back.

Encodings: rgb8, bgr8, rgba8, bgra8, mono8 and their 16-bit forms, bayer_*8 and bayer_*16, and the plain OpenCV types
(8UC1 to 64FC4). Colours are converted among the named colour encodings of one depth.
"""

from __future__ import annotations

import re
import sys

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

DEPTHS = {
    "8U": np.uint8,
    "8S": np.int8,
    "16U": np.uint16,
    "16S": np.int16,
    "32S": np.int32,
    "32F": np.float32,
    "64F": np.float64,
}
DEPTH_NAMES = {np.dtype(dtype): name for name, dtype in DEPTHS.items()}
COLOUR_CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
COLOUR = re.compile(r"(rgb|bgr|rgba|bgra|mono)(8|16)")
BAYER = re.compile(r"bayer_(rggb|bggr|gbrg|grbg)(8|16)")
PLAIN = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)C([1-4])?")
# OpenCV names a Bayer pattern after the second row's second and third pixel
BAYER_TO_BGR = {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}


class CvBridgeError(TypeError):
    """A conversion that is not possible."""


def _layout(encoding: str) -> tuple[np.dtype, int]:
    """Type and number of channels of `encoding`. Raises CvBridgeError."""
    if match := COLOUR.fullmatch(encoding):
        return np.dtype(f"uint{match[2]}"), COLOUR_CHANNELS[match[1]]
    if match := BAYER.fullmatch(encoding):
        return np.dtype(f"uint{match[2]}"), 1
    if match := PLAIN.fullmatch(encoding):
        return np.dtype(DEPTHS[match[1]]), int(match[2] or 1)
    raise CvBridgeError(f"Unrecognized image encoding [{encoding}]")


def _convert(image: np.ndarray, source: str, target: str) -> np.ndarray:
    """`image` from one encoding to another. Raises CvBridgeError."""
    if source == target:
        return image
    source_layout, target_layout = _layout(source), _layout(target)
    from_colour, to_colour = COLOUR.fullmatch(source), COLOUR.fullmatch(target)
    if bayer := BAYER.fullmatch(source):
        if to_colour is None:
            raise CvBridgeError(f"[{source}] is a Bayer pattern, and [{target}] is not a color format")
        image = cv2.cvtColor(image, BAYER_TO_BGR[bayer[1]])
        return _convert(image, f"bgr{bayer[2]}", target)
    if from_colour is None or to_colour is None:
        if source_layout[1] != target_layout[1]:
            raise CvBridgeError(f"[{source}] has {source_layout[1]} channels, and [{target}] has {target_layout[1]}")
        return image.astype(target_layout[0])  # numbers stay as they are
    if from_colour[1] != to_colour[1]:
        source_name = from_colour[1].upper().replace("MONO", "GRAY")
        target_name = to_colour[1].upper().replace("MONO", "GRAY")
        image = cv2.cvtColor(image, getattr(cv2, f"COLOR_{source_name}2{target_name}"))
    if from_colour[2] != to_colour[2]:
        # white stays white: 255 and 65535
        factor = 65535.0 / 255.0 if to_colour[2] == "16" else 255.0 / 65535.0
        image = np.rint(image * factor).astype(target_layout[0])
    return image


class CvBridge:
    """Converts between sensor_msgs images and arrays of shape (height, width) or (height, width, channels)."""

    def dtype_with_channels_to_cvtype2(self, dtype, n_channels: int) -> str:
        return f"{DEPTH_NAMES[np.dtype(dtype)]}C{n_channels}"

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        dtype, channels = _layout(encoding)
        return dtype.name, channels

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = "passthrough") -> np.ndarray:
        """The image in `desired_encoding`; in its own with "passthrough". Raises CvBridgeError."""
        dtype, channels = _layout(img_msg.encoding)
        height, width, step = img_msg.height, img_msg.width, img_msg.step
        row_bytes = width * channels * dtype.itemsize
        buffer = np.frombuffer(img_msg.data, np.uint8)
        if step < row_bytes or buffer.size < height * step:
            raise CvBridgeError(
                f"Image of {width} x {height} pixels in [{img_msg.encoding}] needs rows of {row_bytes} bytes, "
                f"but step is {step} and there are {buffer.size} bytes"
            )
        rows = buffer[: height * step].reshape(height, step)[:, :row_bytes]
        image = np.ascontiguousarray(rows).view(dtype.newbyteorder(">" if img_msg.is_bigendian else "<"))
        image = image.astype(dtype, copy=False)
        if channels > 1:
            image = image.reshape(height, width, channels)
        return image if desired_encoding == "passthrough" else _convert(image, img_msg.encoding, desired_encoding)

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = "passthrough", header=None) -> Image:
        """A message of `cvim`, which must have the type of `encoding`. Raises CvBridgeError."""
        if not isinstance(cvim, np.ndarray):
            raise TypeError("Your input type is not a numpy array")
        native = cvim.dtype.newbyteorder("=")
        channels = 1 if cvim.ndim == 2 else cvim.shape[2]
        plain = self.dtype_with_channels_to_cvtype2(native, channels)
        if encoding != "passthrough" and _layout(encoding) != (native, channels):
            raise CvBridgeError(f"encoding specified as {encoding}, but image has incompatible type {plain}")
        message = Image()
        if header is not None:
            message.header = header
        message.height, message.width = int(cvim.shape[0]), int(cvim.shape[1])
        message.encoding = plain if encoding == "passthrough" else encoding
        message.is_bigendian = int(
            cvim.dtype.byteorder == ">" or (cvim.dtype.byteorder == "=" and sys.byteorder == "big")
        )
        message.data.frombytes(cvim.tobytes())
        message.step = int(cvim.shape[1]) * channels * native.itemsize
        return message

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = "passthrough"
    ) -> np.ndarray:
        """The decoded image: as decoded with "passthrough", else taken for BGR and converted. Raises CvBridgeError."""
        image = cv2.imdecode(np.frombuffer(cmprs_img_msg.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise CvBridgeError(f"Cannot decode the image ({cmprs_img_msg.format or 'no format given'})")
        return image if desired_encoding == "passthrough" else _convert(image, "bgr8", desired_encoding)

    def cv2_to_compressed_imgmsg(self, cvim: np.ndarray, dst_format: str = "jpg") -> CompressedImage:
        """A message of `cvim`, encoded as the file name suffix `dst_format` says. Raises CvBridgeError."""
        if not isinstance(cvim, np.ndarray):
            raise TypeError("Your input type is not a numpy array")
        try:
            _, encoded = cv2.imencode(f".{dst_format}", cvim)
        except cv2.error as error:
            raise CvBridgeError(f"Cannot encode an image of type {cvim.dtype} as {dst_format}: {error}") from None
        message = CompressedImage()
        message.format = dst_format
        message.data.frombytes(encoded.tobytes())
        return message
