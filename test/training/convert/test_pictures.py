"""Images of any encoding, and broken ones."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import robot

from bevdistill_ros.geometry import Camera
from bevdistill_ros.training.convert.pictures import Pictures

PLAIN = Camera(robot.K, robot.WIDTH, robot.HEIGHT)
EQUIDISTANT = Camera(robot.K, robot.WIDTH, robot.HEIGHT, "equidistant", np.array([0.05, -0.02, 0.0, 0.0]))
RATIONAL = Camera(robot.K, robot.WIDTH, robot.HEIGHT, "rational_polynomial", np.array([-0.3, 0.05, 0, 0, 0, 0.1, 0, 0]))
JPEG = robot.jpeg(0)


def compressed(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(data=np.frombuffer(data, np.uint8), format="")


def encoded(suffix: str, pixels: np.ndarray) -> SimpleNamespace:
    return compressed(
        cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 99] if suffix == ".jpg" else [])[1].tobytes()
    )


def raw(encoding: str, pixels: np.ndarray, pad: int = 0, big: bool = False) -> SimpleNamespace:
    height, width = pixels.shape[:2]
    rows = np.pad(np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1), ((0, 0), (0, pad)))
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=rows.shape[1], is_bigendian=big, data=rows.reshape(-1)
    )  # fmt: skip


FORMS = {
    "jpeg": lambda p: encoded(".jpg", p),
    "png": lambda p: encoded(".png", p),
    "bgr8": lambda p: raw("bgr8", p, pad=3),
    "rgb8": lambda p: raw("rgb8", p[..., ::-1]),
    "bgra8": lambda p: raw("bgra8", np.dstack([p, np.zeros_like(p[..., :1])])),
    "rgb16": lambda p: raw("rgb16", p[..., ::-1].astype("<u2") * 257, pad=6),
    "bgr16_big": lambda p: raw("bgr16", p.astype(">u2") * 257, big=True),
}


LENSES = {"plumb_bob": robot.distorted_camera(), "equidistant": EQUIDISTANT, "rational": RATIONAL, "none": PLAIN}


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
@pytest.mark.parametrize("form", FORMS)
def test_any_encoding_becomes_what_an_ideal_camera_would_see(form, lens):
    seen, ideal = robot.picture(lens), robot.picture(PLAIN).astype(int)
    found = cv2.imdecode(np.frombuffer(Pictures(99).jpeg(FORMS[form](seen), lens), np.uint8), cv2.IMREAD_COLOR)
    inside = (slice(4, -4), slice(4, -4))
    known = found[inside].any(-1)  # what the lens does not see is black
    assert known.mean() > 0.8
    error = np.abs(found - ideal)[inside][known].mean()
    untouched = np.abs(seen - ideal)[inside][known].mean()
    assert error < 4 and (error < untouched / 2 or not lens.is_distorted)


@pytest.mark.parametrize("channels", ["mono8", "mono16", "bayer_rggb8", "bayer_rggb16"])
def test_grey_and_bayer(channels):
    value = 150
    kind, factor = ("<u2", 257) if channels.endswith("16") else ("u1", 1)
    pixels = np.full((robot.HEIGHT, robot.WIDTH), value * factor, kind)
    data = Pictures(99).jpeg(raw(channels, pixels), PLAIN)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(found.astype(int) - value).max() <= 2


def test_an_undistorted_jpeg_keeps_its_bytes():
    assert Pictures(50).jpeg(compressed(JPEG), PLAIN) == JPEG


def test_a_thumbnail_in_a_jpeg_is_no_fault():
    """Its own headers and scan stand inside of a segment; and some cameras write more behind the picture."""
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    segment = b"Exif\x00\x00" + small + b"\xff\x01"
    data = JPEG[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + JPEG[2:] + small
    assert Pictures(50).jpeg(compressed(data), PLAIN) == data


@pytest.mark.parametrize("lens", [PLAIN, robot.distorted_camera()], ids=["kept", "undistorted"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (JPEG[: len(JPEG) // 2], "cut off"),
        (JPEG[:100], "cut off|corrupt"),
        (JPEG[:-300] + bytes(range(1, 151)) + b"\xff\x01" * 5 + JPEG[-140:], "corrupt"),
        (b"", "empty"),
        (b"\x00" * 1000, "no picture"),
        (b"\xff\xd8" + b"\x00" * 1000, "corrupt"),
        (cv2.imencode(".jpg", np.zeros((10, 10, 3), np.uint8))[1].tobytes(), "10x10"),
        (cv2.imencode(".png", np.zeros((10, 10, 3), np.uint8))[1].tobytes(), "10x10"),
    ],
    ids=["cut", "head", "corrupt", "empty", "zeros", "marker", "other_jpeg", "other_png"],
)
def test_broken_images_are_refused(data, reason, lens):
    with pytest.raises(ValueError, match=reason):
        Pictures(95).jpeg(compressed(data), lens)


@pytest.mark.parametrize("cut", range(0, len(JPEG) - 2, max(1, len(JPEG) // 60)))
def test_a_jpeg_that_is_cut_anywhere_is_never_taken(cut):
    with pytest.raises(ValueError):
        Pictures(95).jpeg(compressed(JPEG[:cut]), PLAIN)
