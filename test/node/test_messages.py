"""Messages against cases computed by hand."""

from __future__ import annotations

import array
import math

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node import messages

STAMP = 1_600_000_000_123_456_789


def one_box() -> Boxes:
    """A truck 10 m ahead and 2 m to the left that heads left (yaw 90 degrees)."""
    return Boxes(
        np.array([[10.0, 2.0, 0.5]]), np.array([[6.0, 2.5, 3.0]]), np.array([math.pi / 2]), np.array([[0.0, 4.0]]),
        np.array([0.75]), np.array([1]), ("car", "truck"),
    )  # fmt: skip


def image(encoding: str, pixels: np.ndarray, pad: int = 0, cut: int = 0) -> Image:
    """Image message of (h, w[, c]) bytes with ``pad`` bytes after each row, ``cut`` bytes missing at the end."""
    rows = pixels.reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, pad)), constant_values=99).tobytes()
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1] + pad)
    message.data = array.array("B", data[: len(data) - cut])
    return message


def test_time_is_exact() -> None:
    stamp = messages.time_message(STAMP)
    assert (stamp.sec, stamp.nanosec) == (1_600_000_000, 123_456_789)
    assert messages.time_message(0).sec == 0


def test_detections() -> None:
    array = messages.detections(one_box(), STAMP, "base_link")
    (detection,) = array.detections
    for header in (array.header, detection.header):
        assert header.frame_id == "base_link" and header.stamp == messages.time_message(STAMP)
    center, size = detection.bbox.center, detection.bbox.size
    assert (center.position.x, center.position.y, center.position.z) == (10.0, 2.0, 0.5)
    half = math.sqrt(0.5)
    assert (center.orientation.x, center.orientation.y) == (0.0, 0.0)
    assert (center.orientation.z, center.orientation.w) == pytest.approx((half, half))
    assert (size.x, size.y, size.z) == (6.0, 2.5, 3.0)
    (result,) = detection.results
    assert result.hypothesis.class_id == "truck" and result.hypothesis.score == 0.75
    assert result.pose.pose == center
    assert detection.id == ""


def test_nothing_found_is_an_empty_array_with_its_time() -> None:
    array = messages.detections(Boxes.empty(("car",)), STAMP, "base_link")
    assert array.detections == [] and array.header.stamp == messages.time_message(STAMP)
    assert messages.objects(Boxes.empty(("car",)), STAMP, "base_link", ("a",), {"a": 1}).objects == []


def test_objects_say_which_cameras() -> None:
    array = messages.objects(one_box(), STAMP, "base_link", ("a", "b", "c"), {"c": STAMP, "a": STAMP - 5})
    assert list(array.cameras) == ["a", "b", "c"] and list(array.used) == [True, False, True] and array.partial
    stamps = [(s.sec, s.nanosec) for s in array.stamps]
    assert stamps == [(1_600_000_000, 123_456_784), (0, 0), (1_600_000_000, 123_456_789)]
    (found,) = array.objects
    assert found.class_name == "truck" and found.score == 0.75
    assert (found.velocity.x, found.velocity.y) == (0.0, 4.0)
    whole = messages.objects(one_box(), STAMP, "base_link", ("a",), {"a": STAMP})
    assert not whole.partial


def test_label_info() -> None:
    info = messages.label_info(("car", "bus"), 0.25, STAMP)
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, "car"), (1, "bus")]
    assert info.threshold == 0.25


BGR = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]], dtype=np.uint8)


@pytest.mark.parametrize("pad", [0, 1, 7])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("bgr8", BGR),
        ("8UC3", BGR),
        ("rgb8", BGR[..., ::-1]),
        ("bgra8", np.dstack([BGR, np.full((2, 2), 255, np.uint8)])),
        ("rgba8", np.dstack([BGR[..., ::-1], np.full((2, 2), 255, np.uint8)])),
    ],
)
def test_colour_encodings_and_padded_rows(encoding, pixels, pad) -> None:
    message = image(encoding, pixels, pad, cut=pad)  # drivers leave out the last row's padding
    assert np.array_equal(messages.raw_image(message), BGR)


def test_padded_views_go_through_opencv() -> None:
    """The view of a padded message is not contiguous, and what preprocessing calls must take it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    view = messages.raw_image(image("bgr8", pixels, pad=5))
    assert np.array_equal(cv2.resize(view, (3, 4), interpolation=cv2.INTER_AREA),
                          cv2.resize(pixels, (3, 4), interpolation=cv2.INTER_AREA))  # fmt: skip
    x, y = (m.astype(np.float32) for m in np.meshgrid(np.arange(6), np.arange(8)))
    assert np.array_equal(cv2.remap(view, x, y, cv2.INTER_LINEAR), pixels)


def test_grey() -> None:
    grey = np.array([[1, 2], [3, 250]], np.uint8)
    assert np.array_equal(messages.raw_image(image("mono8", grey, 3)), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_a_single_colour(pattern) -> None:
    """A mosaic of one colour must give that colour: mixed-up patterns would swap red and blue."""
    value = {"r": 200, "g": 100, "b": 50}
    cell = np.array([value[c] for c in pattern], np.uint8).reshape(2, 2)
    found = messages.raw_image(image(f"bayer_{pattern}8", np.tile(cell, (6, 6))))
    assert np.array_equal(found, np.broadcast_to(np.array([50, 100, 200], np.uint8), (12, 12, 3)))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv_grey_and_colour(encoding, order) -> None:
    grey = {"y": 128, "u": 128, "v": 128}
    red = {"y": 81, "u": 90, "v": 240}  # ITU-R BT.601, studio range

    def picture(colour: dict[str, int]) -> np.ndarray:
        first, second = [colour[c] for c in order[:2]], [colour[c] for c in order[2:]]
        return messages.raw_image(image(encoding, np.tile(np.array([first, second], np.uint8), (2, 2, 1))))

    assert np.ptp(picture(grey)) == 0
    blue, green, red_value = picture(red)[0, 0].astype(int)
    assert red_value > 240 and blue < 15 and green < 15


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"step": 5}, "step is 5"),
        ({"height": 3}, "data has 12 bytes"),
        ({"width": 0}, "0x2"),
        ({"encoding": "nonsense"}, "'nonsense'"),
    ],
)
def test_contradictory_images_are_refused(change, text) -> None:
    message = image("bgr8", BGR)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=text):
        messages.raw_image(message)


@pytest.mark.parametrize("size", [(1600, 900), (33, 17)])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_size_is_read_from_the_header(size, extension) -> None:
    encoded = cv2.imencode(extension, np.zeros((size[1], size[0], 3), np.uint8))[1].tobytes()
    assert messages.encoded_size(encoded) == size
    if extension == ".jpg":
        metadata = b"\xff\xe1\x00\x10" + b"\xff\xc0" * 7  # a segment that holds what looks like a frame
        assert messages.encoded_size(encoded[:2] + b"\xff\xff" + metadata[:1] + metadata[1:] + encoded[2:]) == size


@pytest.mark.parametrize("before", [0, 3000, 4070, 4085, 4096, 5000, 70_000, 1_000_000])
def test_size_is_found_behind_previews_of_any_length(before) -> None:
    encoded = cv2.imencode(".jpg", np.zeros((17, 33, 3), np.uint8))[1].tobytes()
    segments = b""
    while len(segments) < before:
        length = min(before - len(segments) + 2, 65_000)
        segments += b"\xff\xe2" + length.to_bytes(2, "big") + bytes(length - 2)
    assert messages.encoded_size(encoded[:2] + segments + encoded[2:]) == (33, 17)


def test_headers_cut_anywhere_give_no_size_and_no_error() -> None:
    encoded = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    found = [messages.encoded_size(encoded[:n]) for n in range(len(encoded))]
    assert set(found) == {None, (16, 16)} and found[0] is None
    rng = np.random.default_rng(0)
    for _ in range(500):
        messages.encoded_size(b"\xff\xd8" + rng.integers(0, 256, 40, dtype=np.uint8).tobytes())


def test_compressed_bytes_go_on_unchanged() -> None:
    encoded = cv2.imencode(".jpg", BGR)[1].tobytes()
    source, size = messages.image_source(CompressedImage(format="jpeg", data=array.array("B", encoded)))
    assert bytes(source) == encoded and size == (2, 2)
    with pytest.raises(ValueError, match="empty"):
        messages.image_source(CompressedImage())
