"""What bevdistill_ros relies on in cv_bridge: holds on the stand-in and on the real package."""

import cv2
import cv_bridge
import numpy as np
import pytest
from sensor_msgs.msg import Image


@pytest.fixture(scope="module")
def bridge():
    bridge = cv_bridge.CvBridge()
    try:
        bridge.encoding_to_dtype_with_channels("bgr8")
    except ImportError as error:
        pytest.skip(f"the installed cv_bridge does not load its compiled part: {error}")
    return bridge


def image(*shape: int, dtype=np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, shape)
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("encoding", "array"),
    [
        ("bgr8", image(5, 7, 3)),
        ("rgb8", image(5, 7, 3)),
        ("bgra8", image(5, 7, 4)),
        ("mono8", image(5, 7)),
        ("mono16", image(5, 7, dtype=np.uint16)),
        ("16UC1", image(5, 7, dtype=np.uint16)),
        ("32FC1", image(5, 7, dtype=np.float32)),
        ("64FC3", image(5, 7, 3, dtype=np.float64)),
    ],
)
def test_round_trip(bridge, encoding: str, array: np.ndarray):
    message = bridge.cv2_to_imgmsg(array, encoding)
    assert (message.height, message.width, message.encoding) == (5, 7, encoding)
    assert message.step == array[0].nbytes
    back = bridge.imgmsg_to_cv2(message)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_passthrough_names_the_plain_type(bridge):
    assert bridge.cv2_to_imgmsg(image(2, 3, 3)).encoding == "8UC3"
    assert bridge.cv2_to_imgmsg(image(2, 3, dtype=np.float32)).encoding == "32FC1"


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_colours_convert_to_bgr(bridge, encoding: str):
    bgr = image(4, 6, 3)
    source = {
        "rgb8": bgr[..., ::-1].copy(),
        "bgr8": bgr,
        "rgba8": cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA),
        "bgra8": cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
        "mono8": bgr[..., 0].copy(),
    }[encoding]
    expected = np.repeat(bgr[..., :1], 3, axis=2) if encoding == "mono8" else bgr
    converted = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(source, encoding), "bgr8")
    np.testing.assert_array_equal(converted, expected)


@pytest.mark.parametrize(("pattern", "red"), [("rggb", (0, 0)), ("bggr", (1, 1)), ("grbg", (0, 1)), ("gbrg", (1, 0))])
def test_bayer_patterns_put_red_where_they_say(bridge, pattern: str, red: tuple[int, int]):
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[red[0] :: 2, red[1] :: 2] = 200
    bgr = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(mosaic, f"bayer_{pattern}8"), "bgr8")
    inner = bgr[4:12, 4:12].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(inner, [0, 0, 200], atol=1)


def test_rows_may_be_padded(bridge):
    array = image(3, 5, 3)
    message = Image(height=3, width=5, encoding="bgr8", step=24)
    padded = np.full((3, 24), 255, np.uint8)
    padded[:, :15] = array.reshape(3, 15)
    message.data.frombytes(padded.tobytes())
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message, "bgr8"), array)


def test_errors(bridge):
    message = Image(height=2, width=2, encoding="no_such_encoding", step=2)
    message.data.frombytes(bytes(4))
    with pytest.raises(cv_bridge.CvBridgeError):
        bridge.imgmsg_to_cv2(message, "bgr8")
    with pytest.raises(cv_bridge.CvBridgeError):
        bridge.cv2_to_imgmsg(image(2, 3), "bgr8")
    with pytest.raises(TypeError):
        bridge.cv2_to_imgmsg([[1, 2]], "mono8")


def test_png_survives_compression_exactly(bridge):
    array = image(6, 8, 3)
    message = bridge.cv2_to_compressed_imgmsg(array, "png")
    assert message.format == "png"
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message), array)
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message, "rgb8"), array[..., ::-1])


def test_jpeg_is_the_default_compression(bridge):
    message = bridge.cv2_to_compressed_imgmsg(np.full((16, 16, 3), 90, np.uint8))
    assert bytes(message.data[:2]) == b"\xff\xd8"
    np.testing.assert_allclose(bridge.compressed_imgmsg_to_cv2(message, "bgr8"), 90, atol=2)
