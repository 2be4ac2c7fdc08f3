"""Pictures that repeat: what counts as the same one."""

from __future__ import annotations

import array

import cv2
import numpy as np

from bevdistill_ros.node.pictures import Repeats, fingerprint


def test_repetitions_are_counted_by_camera() -> None:
    repeats = Repeats()
    for stamp, picture in enumerate((b"x", b"x", b"x", b"y", b"x"), start=1):
        repeats.see("a", stamp, picture)
    repeats.see("b", 9, b"x")
    assert [repeats.count("a", stamp) for stamp in range(1, 6)] == [1, 2, 3, 1, 1]
    assert repeats.count("b", 9) == repeats.count("b", 8) == repeats.count("c", 1) == 1


def test_an_image_sent_twice_is_no_repetition() -> None:
    repeats = Repeats()
    for stamp, picture in ((1, b"x"), (1, b"x"), (2, b"y"), (2, b"y"), (2, b"y"), (3, b"y")):
        repeats.see("a", stamp, picture)
    assert [repeats.count("a", stamp) for stamp in (1, 2, 3)] == [1, 1, 2]


def test_only_recent_images_are_remembered() -> None:
    repeats = Repeats()
    for stamp in range(1000):
        repeats.see("a", stamp, b"x")
    assert repeats.count("a", 999) == 1000 and repeats.count("a", 0) == 1
    assert len(repeats._counts["a"]) < 100


def test_every_byte_of_a_small_picture_counts() -> None:
    data = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8)
    first = fingerprint(array.array("B", data.tobytes()))
    assert first == fingerprint(data.copy())  # whatever holds the bytes
    for place in (0, 1234, 59_999):
        other = data.copy()
        other[place] ^= 1
        assert fingerprint(other) != first
    assert fingerprint(data[:-1]) != first


def test_noise_and_movement_in_a_large_jpeg_count() -> None:
    rng = np.random.default_rng(0)
    plain = cv2.resize(rng.integers(0, 256, (45, 80, 3), np.uint8), (1600, 900))

    def encoded(pixels: np.ndarray) -> bytes:
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        assert len(data) > 100_000
        return data

    first = fingerprint(encoded(plain))
    assert first == fingerprint(encoded(plain))
    for row in (40, 450, 860):  # something small has moved, and nothing is noisy
        moved = plain.copy()
        moved[row : row + 16, 800:816] = 255
        assert fingerprint(encoded(moved)) != first


def test_noise_on_a_large_raw_image_counts() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((900, 1600, 3), 90, np.uint8)
    first = fingerprint(pixels.tobytes())
    assert first == fingerprint(pixels.tobytes())
    assert fingerprint((pixels + rng.integers(0, 2, pixels.shape, np.uint8)).tobytes()) != first
    longer = pixels.tobytes() + bytes(8)
    assert fingerprint(longer) != first
    ends = np.frombuffer(pixels.tobytes(), np.uint8).copy()
    ends[-1] ^= 1
    assert fingerprint(ends) != first


def test_nothing_is_a_picture_too() -> None:
    assert fingerprint(b"") == fingerprint(array.array("B"))
