"""CameraInfo: whatever is in it, it gives a calibration that can be calculated with, or is refused; and the right one."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevdistill_ros.camera_info import intrinsics_from_info
from bevdistill_ros.config import MAX_IMAGE_PIXELS, ImageConfig
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import FOCAL_LENGTHS, MAX_DISTANCE, make_transform
from bevdistill_ros.preprocess import Preprocessor

few = settings(max_examples=80, deadline=None, derandomize=True)
EDGES = st.sampled_from([0.0, -1.0, 1e-300, 1e-3, 1e7, 1e300, float("inf"), float("-inf"), float("nan")])
COUNTS = st.sampled_from([0, 1, 2, 65_535, 65_536, 2**31, 2**32 - 1])


def info(
    width=320, height=192, k=None, d=(), model="plumb_bob", binning=(0, 0), roi=(0, 0, 0, 0), p=None
) -> SimpleNamespace:
    k = [250.0, 0.0, 160.0, 0.0, 250.0, 96.0, 0.0, 0.0, 1.0] if k is None else k
    region = dict(zip(("x_offset", "y_offset", "width", "height"), roi))
    p = [250.0, 0.0, 160.0, -20.0, 0.0, 250.0, 96.0, 0.0, 0.0, 0.0, 1.0, 0.0] if p is None else p
    return SimpleNamespace(
        width=width, height=height, k=np.array(k), p=np.array(p), d=array.array("d", d), distortion_model=model,
        binning_x=binning[0], binning_y=binning[1], roi=SimpleNamespace(**region),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": [0.0] * 9}, "field k is all zero"),
        ({"k": [float("nan")] * 9}, "field k, d or distortion_model"),
        ({"k": [1e-300, 0, 1, 0, 1e-300, 1, 0, 0, 1]}, "is of no lens"),
        ({"k": [1e300, 0, 1, 0, 1e300, 1, 0, 0, 1]}, "is of no lens"),
        ({"k": [9.0, 0, 1e300, 0, 9.0, 1, 0, 0, 1]}, "is of no lens"),
        ({"d": [0.1] * 100_000}, "field d has 100000 distortion coefficients"),
        ({"d": [0.1, 0.2, 0.3]}, "takes"),
        ({"d": [float("inf"), 0, 0, 0]}, "must be finite"),
        ({"d": [1e9, 0, 0, 0]}, "must be finite, and at most"),
        ({"model": "x" * 10_000}, "distortion model 'xxx"),
        ({"width": 0}, "no calibration for this image size"),
        ({"width": 65_535, "height": 65_535}, "no calibration for this image size"),
        ({"width": 2**32 - 1}, "no calibration for this image size"),
        ({"roi": (2**32 - 1, 0, 2**32 - 1, 9)}, "field roi"),
        ({"binning": (2**32 - 1, 1)}, "leaves nothing"),
    ],
)
def test_what_is_no_camera_is_refused_in_a_line(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        intrinsics_from_info(info(**changes))
    assert len(str(error.value)) < 600


def test_a_baseline_of_another_planet_is_refused() -> None:
    p = [250.0, 0.0, 160.0, 1e12, 0.0, 250.0, 96.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="field p: its fourth column"):
        intrinsics_from_info(info(p=p), rectified=True)


@few
@given(
    binning=st.tuples(st.integers(0, 4), st.integers(0, 4)), left=st.integers(0, 60), top=st.integers(0, 40),
    size=st.tuples(st.integers(8, 200), st.integers(8, 120)), focal=st.floats(50, 2000), whole=st.booleans(),
    point=st.tuples(st.floats(-3, 3), st.floats(-2, 2), st.floats(1, 50)),
)  # fmt: skip
def test_region_and_binning_move_pixels_as_the_sensor_does(binning, left, top, size, focal, whole, point) -> None:
    """A pixel of the full sensor at u is at (u - left + 0.5) / binning - 0.5: blocks are joined, and their centres are pixels."""
    k = [focal, 0.0, 160.0, 0.0, focal, 96.0, 0.0, 0.0, 1.0]
    roi = (0, 0, 0, 0) if whole else (left, top, *size)
    camera = intrinsics_from_info(info(k=k, binning=binning, roi=roi)).camera
    bx, by = (max(1, b) for b in binning)
    width, height = (320, 192) if whole else size
    assert (camera.width, camera.height) == (width // bx, height // by)
    u, v = focal * point[0] / point[2] + 160.0, focal * point[1] / point[2] + 96.0
    expected = [(u - roi[0] + 0.5) / bx - 0.5, (v - roi[1] + 0.5) / by - 0.5]
    assert camera.project(np.array(point))[0] == pytest.approx(expected, abs=1e-6)


@few
@given(
    k=st.lists(EDGES | st.floats(-500, 500), min_size=9, max_size=9), d=st.lists(EDGES | st.floats(-1, 1), max_size=15),
    p=st.lists(EDGES | st.floats(-500, 500), min_size=12, max_size=12), rectified=st.booleans(), keep=st.integers(0, 9),
    width=COUNTS | st.just(320), height=COUNTS | st.just(192), binning=st.tuples(COUNTS, COUNTS), roi=st.tuples(*[COUNTS] * 4),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", ""]), plain=st.booleans(),
)  # fmt: skip
def test_anything_is_refused_or_can_be_calculated_with(
    k, d, p, rectified, keep, width, height, binning, roi, model, plain
) -> None:
    usual = info()
    k[:keep], p[: keep + 3] = usual.k[:keep], usual.p[: keep + 3]  # all of K wrong is refused at once
    if plain:
        binning, roi = (0, 0), (0, 0, 0, 0)
    message = info(width, height, k, d, model, binning, roi, p)
    try:
        intrinsics = intrinsics_from_info(message, rectified)
    except ValueError:
        return
    camera = intrinsics.camera
    assert 0 < camera.width * camera.height <= MAX_IMAGE_PIXELS
    assert np.isfinite(intrinsics.frame_T_image).all()
    K = Preprocessor(ImageConfig(32, 64)).plan(camera).K
    assert np.isfinite(np.linalg.inv(K.astype(np.float32))).all()


@pytest.mark.parametrize("focal", FOCAL_LENGTHS)
@pytest.mark.parametrize("distance", [0.0, MAX_DISTANCE])
def test_the_most_extreme_calibration_that_is_taken_gives_boxes_that_are_numbers(
    tiny_checkpoint, focal, distance
) -> None:
    detector = Detector.from_checkpoint(tiny_checkpoint)
    camera = intrinsics_from_info(info(k=[focal, 0.0, 160.0, 0.0, focal, 96.0, 0.0, 0.0, 1.0])).camera
    pixels = np.random.default_rng(0).integers(0, 255, (192, 320, 3), np.uint8)
    image, K = detector.preprocess(pixels, camera)
    boxes = detector(image[None], K[None], make_transform(translation=(distance, -distance, distance))[None])
    assert len(boxes) and np.isfinite(boxes.centers).all() and np.isfinite(boxes.scores).all()
