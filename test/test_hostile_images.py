"""Pictures out of messages: what they claim is checked before it is believed, and what is valid is decoded right."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevdistill_ros import preprocess
from bevdistill_ros.config import MAX_IMAGE_PIXELS, ImageConfig
from bevdistill_ros.geometry import Camera
from bevdistill_ros.images import encoded_size, raw_image
from bevdistill_ros.preprocess import Preprocessor

few = settings(max_examples=60, deadline=None, derandomize=True)
PIXELS = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), (40, 24))
JPEG = cv2.imencode(".jpg", PIXELS)[1].tobytes()
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()


def camera(width: int, height: int) -> Camera:
    return Camera(np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]), width, height)


def jpeg_of(width: int, height: int) -> bytes:
    """The small JPEG with another size in its header."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def png_of(width: int, height: int) -> bytes:
    """A PNG of black pixels that compress a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(min(height, 100) * (width + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(preprocess.cv2, "imdecode", decode)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("make", [jpeg_of, png_of])
def test_a_bomb_is_not_decoded(make) -> None:
    prepare = Preprocessor(ImageConfig(32, 64))
    with pytest.raises(ValueError, match="picture is 65000x65000, its calibration 40x24"):
        prepare(make(65_000, 65_000), camera(40, 24))
    with pytest.raises(ValueError, match=f"more than the {MAX_IMAGE_PIXELS} that are decoded"):
        prepare(make(65_000, 65_000), camera(65_000, 65_000))  # a calibration that lies as well


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tiff", ".ppm", ".hdr"])
def test_other_decoders_than_those_of_jpeg_and_png_see_nothing(suffix: str) -> None:
    pixels = PIXELS.astype(np.float32) if suffix == ".hdr" else PIXELS
    try:
        encoded = cv2.imencode(suffix, pixels)[1].tobytes()
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {suffix}")
    with pytest.raises(ValueError, match="no picture that can be decoded, a JPEG or PNG"):
        Preprocessor(ImageConfig(32, 64))(encoded, camera(40, 24))


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_what_is_valid_is_decoded(data: bytes) -> None:
    assert encoded_size(data) == (40, 24)
    image, _ = Preprocessor(ImageConfig(32, 64))(data, camera(40, 24))
    assert image.std() > 5


@pytest.mark.parametrize(
    "before",
    [
        b"\xff" * 9,
        b"\xff\x01",
        b"garbage",
        b"\xff\xe1\x00\x10" + bytes(14),
        b"\xff\xfe\x00\x0a\xff\xc0\x00\x11\x08\x00\x01\x00",
    ],
    ids=["fill", "no length", "garbage", "segment", "a frame in a comment"],
)
def test_the_size_is_that_which_the_decoder_finds(before: bytes) -> None:
    assert JPEG[2:6] == b"\xff\xe0\x00\x10"  # the first segment ends at byte 20
    data = JPEG[:20] + before + JPEG[20:]
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and encoded_size(data) == decoded.shape[1::-1]


@few
@given(at=st.integers(0, 700), change=st.binary(min_size=1, max_size=8), png=st.booleans(), insert=st.booleans())
def test_damaged_pictures_are_refused_or_have_the_size_that_they_claim(
    at: int, change: bytes, png: bool, insert: bool
) -> None:
    data = PNG if png else JPEG
    at %= len(data)
    data = data[:at] + change + data[at if insert else at + len(change) :]
    decoded = None
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pass
    if decoded is not None and (data[:3] == b"\xff\xd8\xff" or data[:4] == b"\x89PNG"):
        assert encoded_size(data) == decoded.shape[1::-1]
    try:
        image, _ = Preprocessor(ImageConfig(32, 64))(data, camera(40, 24))
    except ValueError:
        return
    assert image.shape == (32, 64, 3)


@few
@given(
    width=st.integers(1, 9), height=st.integers(1, 9), pad=st.integers(0, 5), missing=st.integers(0, 5),
    encoding=st.sampled_from(["bgr8", "rgb8", "bgra8", "mono8", "bgr16", "rgba16"]), big=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_raw_pixels_whatever_the_row_ends_with(width, height, pad, missing, encoding, big, seed) -> None:
    channels = {"bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4, "mono": 1}[encoding.rstrip("0168")]
    kind = np.dtype(">u2" if big else "<u2") if encoding.endswith("16") else np.dtype("u1")
    values = np.random.default_rng(seed).integers(0, 2 ** (8 * kind.itemsize), (height, width, channels)).astype(kind)
    rows = np.pad(values.reshape(height, -1).view(np.uint8).reshape(height, -1), ((0, 0), (0, pad)))
    data = rows.tobytes()
    message = SimpleNamespace(
        width=width, height=height, encoding=encoding, step=rows.shape[1], is_bigendian=int(big), data=data[: len(data) - missing]
    )  # fmt: skip
    if missing > pad:
        with pytest.raises(ValueError, match="field data has"):
            raw_image(message)
        return
    expected = (values >> 8 if kind.itemsize == 2 else values).astype(np.uint8)
    expected = np.repeat(expected, 3, 2) if channels == 1 else expected[..., :3]
    assert np.array_equal(raw_image(message), expected[..., ::-1] if encoding.startswith("rgb") else expected)


@few
@given(
    width=st.integers(0, 2**32 - 1), height=st.integers(0, 2**32 - 1), step=st.integers(0, 2**32 - 1), data=st.binary(max_size=64),
    encoding=st.sampled_from(["bgr8", "mono16", "yuv422", "bayer_rggb8", "32FC1", "", "8UC0"]) | st.text(max_size=8),
)  # fmt: skip
def test_a_raw_message_that_lies_is_refused(width, height, step, data, encoding) -> None:
    message = SimpleNamespace(width=width, height=height, encoding=encoding, step=step, is_bigendian=0, data=data)
    try:
        image = raw_image(message)
    except ValueError:
        return
    assert image.shape == (height, width, 3) and image.size <= 16 * len(data)
