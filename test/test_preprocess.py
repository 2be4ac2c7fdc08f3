"""The preprocessing: pixels end where the returned K says, from bytes and from arrays alike."""

from __future__ import annotations

import pickle
import tracemalloc

import cv2
import numpy as np
import pytest

from bevdistill_ros.config import ImageConfig
from bevdistill_ros.geometry import Camera
from bevdistill_ros.preprocess import Preprocessor

K = np.array([[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]])
LENSES = {
    "none": ("plumb_bob", []),
    "plumb_bob": ("plumb_bob", [-0.25, 0.08, 0.001, -0.001, 0.0]),
    "equidistant": ("equidistant", [0.02, -0.01, 0.0, 0.0]),
}


def picture_of(points: np.ndarray, camera: Camera) -> np.ndarray:
    """A dark picture with a soft white blob where each point is."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    image = np.zeros((camera.height, camera.width))
    for u, v in camera.project(points)[0]:
        image += np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 9.0**2))
    return np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def blob_center(image: np.ndarray, near: np.ndarray, radius: int) -> np.ndarray:
    """Centre of brightness within ``radius`` pixels of ``near``."""
    columns, rows = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    weight = image[..., 0].astype(float) * (np.hypot(columns - near[0], rows - near[1]) < radius)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("size", [(256, 704), (96, 256), (896, 1600)])
def test_points_land_where_the_new_k_says(lens: str, size: tuple[int, int]) -> None:
    camera = Camera(K, 1600, 900, *LENSES[lens])
    points = np.array([[0.0, 0.5, 10.0], [-3.5, 1.0, 10.0], [3.0, 1.2, 9.0]])
    picture = picture_of(points, camera)
    preprocessor = Preprocessor(ImageConfig(*size))
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    for source in (picture, encoded.tobytes()):
        image, new_K = preprocessor(source, camera)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        expected, _ = Camera(new_K, size[1], size[0]).project(points)  # an ideal pinhole: the lens is gone
        radius = max(4, round(40 * new_K[0, 0] / K[0, 0]))
        for pixel in expected:
            assert np.abs(blob_center(image, pixel, radius) - pixel).max() < 0.15


@pytest.mark.parametrize(
    ("size", "cy", "first_row"),
    [
        ((900, 1600), 491.5, (491.5 + 0.5) * 0.44 - 0.3 * 256),  # nuScenes' front camera: nearly all that goes is sky
        ((960, 1280), 480.0, (480.0 + 0.5) * 0.55 - 0.3 * 256),  # 4:3: the horizon stays in the picture
        ((900, 1600), 800.0, 900 * 0.44 - 256),  # looks far up: cropped as low as the picture reaches
        ((900, 1600), 100.0, 0.0),  # looks far down: nothing to crop above
    ],
)
def test_the_horizon_is_placed_and_the_middle_kept(size: tuple[int, int], cy: float, first_row: float) -> None:
    K = np.array([[1000.0, 0, size[1] / 2 - 0.5], [0, 1000, cy], [0, 0, 1]])
    out, new_K = Preprocessor(ImageConfig(256, 704))(np.full((*size, 3), 9, np.uint8), Camera(K, size[1], size[0]))
    scale = 704 / size[1]
    assert new_K[0, 2] == pytest.approx(351.5) and new_K[0, 0] == pytest.approx(1000 * scale)
    assert new_K[1, 2] == pytest.approx((cy + 0.5) * scale - 0.5 - first_row)
    assert out[1:-1, 1:-1].min() == 9  # no border comes in


def test_bytes_and_arrays_give_nearly_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (30, 50, 3), dtype=np.uint8), (1600, 900), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(".png", smooth)[1].tobytes()
    jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    reference = preprocessor(smooth, camera)[0].astype(int)
    for source in (encoded, jpeg):
        difference = np.abs(preprocessor(source, camera)[0] - reference)
        assert difference.mean() < 1.0 and np.quantile(difference, 0.99) <= 4


def test_fine_texture_is_averaged_whatever_the_format() -> None:
    # Noise tells a mean over 4 x 4 pixels from a choice among them.
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    reference = preprocessor(noise, camera)[0].astype(int)
    assert np.array_equal(preprocessor(cv2.imencode(".png", noise)[1].tobytes(), camera)[0], reference)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    assert np.abs(preprocessor(jpeg, camera)[0] - reference).mean() < 1.0


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_interpolation_keeps_pixels_in_place(interpolation: str) -> None:
    camera = Camera(K, 1600, 896)
    ramp = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (896, 8))[..., None], 3, axis=2)
    image, _ = Preprocessor(ImageConfig(640, 1152, interpolation))(ramp, camera)
    source = (np.arange(130) + 0.5) / 0.72 - 0.5
    assert (
        np.abs(image[300, :130, 0] - source).max() < 0.51
    )  # half a grey level, or half a pixel: the same on this ramp
    assert abs((image[300, :126, 0] - source[:126]).mean()) < 0.05
    same, _ = Preprocessor(ImageConfig(896, 1600, interpolation))(ramp, camera)
    assert np.array_equal(same, ramp)


def test_copies_for_worker_processes() -> None:
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    picture = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    image, new_K = preprocessor(picture, camera)
    copied = pickle.loads(pickle.dumps(preprocessor))(picture, camera)
    assert np.array_equal(copied[0], image) and np.array_equal(copied[1], new_K)


def test_sizes_that_the_factor_does_not_divide() -> None:
    camera = Camera(K, 1603, 901)
    picture = np.full((901, 1603, 3), 100, np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    png = cv2.imencode(".png", picture)[1].tobytes()
    for source in (picture, jpeg, png):
        assert abs(int(Preprocessor(ImageConfig(96, 256))(source, camera)[0].min()) - 100) <= 1


def test_exif_orientation_does_not_turn_the_pixels() -> None:
    camera = Camera(np.array([[60.0, 0, 32], [0, 60.0, 32], [0, 0, 1]]), 64, 64)
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    # APP1 with one IFD entry: tag 0x0112 (orientation), SHORT, 1, value 6 (turn by 90 degrees).
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]
    out, _ = Preprocessor(ImageConfig(64, 64))(turned, camera)
    assert out[:30].min() > 200 and out[34:].max() < 50


def test_bad_pictures_are_refused() -> None:
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    with pytest.raises(ValueError, match="cannot be decoded|no picture"):
        preprocessor(b"not a picture", camera)
    with pytest.raises(ValueError, match="no picture"):
        preprocessor(b"", camera)
    with pytest.raises(ValueError, match="picture is 640x480"):
        preprocessor(np.zeros((480, 640, 3), np.uint8), camera)
    with pytest.raises(ValueError, match="its calibration 1600x900"):
        preprocessor(cv2.imencode(".jpg", np.zeros((480, 640, 3), np.uint8))[1].tobytes(), camera)
    with pytest.raises(ValueError, match="interpolation"):
        ImageConfig(96, 256, "sinc")
    for pixels in (np.zeros((900, 1600), np.uint8), np.zeros((900, 1600, 3), np.float32)):
        with pytest.raises(ValueError, match=r"\(h, w, 3\) uint8"):
            preprocessor(pixels, camera)


def encode(picture: np.ndarray, extension: str) -> bytes:
    return cv2.imencode(extension, picture)[1].tobytes()


@pytest.mark.parametrize("size", [(96, 256), (256, 704)])
@pytest.mark.parametrize("lens", LENSES)
def test_a_row_of_a_batch_is_written_in_place(lens: str, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    camera, preprocessor = Camera(K, 1600, 900, *LENSES[lens]), Preprocessor(ImageConfig(*size))
    for source in (picture, encode(picture, ".jpg"), encode(picture, ".png")):
        expected, new_K = preprocessor(source, camera)
        batch = np.full((3, *size, 3), 77, np.uint8)
        image, K_of_row = preprocessor(source, camera, batch[1])
        assert np.shares_memory(image, batch) and np.array_equal(K_of_row, new_K)
        assert np.array_equal(batch[1], expected) and (batch[[0, 2]] == 77).all()


def test_only_the_decoder_allocates_anything_of_a_pictures_size() -> None:
    """With an image to write to, the rest of the way needs no other, nor a copy of the encoded bytes."""
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(256, 704))
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    encoded, row = memoryview(encode(noise, ".jpg")), np.zeros((256, 704, 3), np.uint8)
    decoded = 450 * 800 * 3

    def peak(*arguments: np.ndarray) -> int:
        tracemalloc.start()
        try:
            preprocessor(encoded, camera, *arguments)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(row)  # makes the plan
    assert decoded <= peak(row) < decoded + 20_000 < len(encoded)
    assert peak() >= decoded + row.nbytes  # it would be seen


def test_a_row_stays_as_it_was_where_a_picture_cannot_be_had() -> None:
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    row = np.full((96, 256, 3), 77, np.uint8)
    for bad in (
        b"",
        b"not a picture",
        encode(np.zeros((480, 640, 3), np.uint8), ".jpg"),
        np.zeros((9, 9, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match="picture"):
            preprocessor(bad, camera, row)
    assert (row == 77).all()


def test_a_row_that_does_not_fit_is_refused_rather_than_left_alone() -> None:
    camera, preprocessor = Camera(K, 1600, 900), Preprocessor(ImageConfig(96, 256))
    fixed = np.zeros((96, 256, 3), np.uint8)
    fixed.setflags(write=False)
    shapes = [np.zeros((256, 96, 3), np.uint8), np.zeros((96, 256), np.uint8), np.zeros((96, 256, 3), np.float32)]
    for row in (*shapes, np.zeros((96, 512, 3), np.uint8)[:, ::2], fixed):
        with pytest.raises(TypeError, match="out must be"):
            preprocessor(np.zeros((900, 1600, 3), np.uint8), camera, row)


GOLDEN = {
    (96, "none"): [117, 129, 139, 142, 112, 115, 142, 124, 125, 117, 126, 123],
    (96, "plumb_bob"): [139, 111, 140, 129, 123, 112, 142, 138, 131, 132, 124, 138],
    (96, "equidistant"): [148, 111, 140, 146, 122, 131, 142, 134, 117, 134, 120, 129],
    (256, "none"): [120, 147, 74, 112, 144, 138, 155, 142, 184, 149, 61, 136],
    (256, "plumb_bob"): [110, 154, 80, 165, 99, 125, 155, 113, 166, 183, 91, 144],
    (256, "equidistant"): [131, 131, 81, 122, 132, 177, 155, 149, 135, 123, 94, 123],
}
"""Pixels of noise by height and lens: a map that is off by a thirtieth of a pixel, or another way of resampling, changes them."""


@pytest.mark.parametrize("size", [(96, 256), (256, 704)])
@pytest.mark.parametrize("lens", LENSES)
def test_pixels_are_those_that_the_weights_were_trained_on(lens: str, size: tuple[int, int]) -> None:
    # Of decoded pixels, because decoders of JPEG differ. OpenCV 4.5.5 and 5.0 agree to the bit; another processor may round.
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    image, _ = Preprocessor(ImageConfig(*size))(noise, Camera(K, 1600, 900, *LENSES[lens]))
    found = image[7 :: size[0] // 3, 5 :: size[1] // 4, 0].ravel().astype(int)
    assert np.abs(found - GOLDEN[size[0], lens]).max() <= 1


def test_a_changed_calibration_is_followed() -> None:
    preprocessor = Preprocessor(ImageConfig(96, 256), cache_size=2)
    picture = np.zeros((900, 1600, 3), np.uint8)
    focal = [preprocessor(picture, Camera(K * [[f], [f], [1]], 1600, 900))[1][0, 0] for f in (1.0, 1.1, 1.2, 1.0)]
    assert focal == pytest.approx([K[0, 0] * 0.16 * f for f in (1.0, 1.1, 1.2, 1.0)])
