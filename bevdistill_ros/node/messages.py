"""Between ROS messages and the package's own types: images in, boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Vector3
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.msg import DetectedObject, DetectedObjectArray

# --------------------------------------------------------------------------------------------------------------- time


def time_message(nanoseconds: int) -> Time:
    """builtin_interfaces/Time of integer nanoseconds."""
    sec, nanosec = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str) -> Header:
    """std_msgs/Header."""
    return Header(stamp=time_message(stamp_ns), frame_id=frame_id)


# ------------------------------------------------------------------------------------------------------------- images

# Encodings whose pixels are bytes: channels, and the OpenCV conversion to BGR (None: none is needed). OpenCV names a
# Bayer pattern by the second row's second and third pixel, sensor_msgs by the first row's first two.
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

    bgr8 is a view into the message; other encodings of bytes are converted by OpenCV, the rest by cv_bridge, if there
    is one.

    Raises:
        ValueError: the message contradicts itself, or its encoding is not supported. The text names the field.
    """
    height, width, encoding = message.height, message.width, message.encoding
    if height <= 0 or width <= 0:
        raise ValueError(f"image is {width}x{height} pixels")
    if encoding not in _ENCODINGS:
        return _through_cv_bridge(message)
    channels, conversion = _ENCODINGS[encoding]
    row = width * channels
    if message.step < row:
        raise ValueError(f"field step is {message.step}, but a row of {width} {encoding} pixels has {row} bytes")
    data = np.frombuffer(message.data, dtype=np.uint8)
    needed = message.step * (height - 1) + row
    if data.size < needed:
        raise ValueError(
            f"field data has {data.size} bytes, but {width}x{height} {encoding} with step {message.step} needs {needed}"
        )
    # The last row's padding may be missing, so the view is made by strides rather than by reshape.
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
        raise ValueError(f"encoding '{message.encoding}' cannot be converted ({text}); supported are {known}") from None
    return np.asarray(image)


def encoded_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height that the header of a JPEG or PNG states; None for anything else."""
    view = memoryview(data)
    if len(view) >= 24 and bytes(view[:8]) == b"\x89PNG\r\n\x1a\n" and bytes(view[12:16]) == b"IHDR":
        return int.from_bytes(view[16:20], "big"), int.from_bytes(view[20:24], "big")
    if len(view) < 4 or bytes(view[:2]) != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(view):
        if view[position] != 0xFF:
            return None
        marker = view[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in (0x01, *range(0xD0, 0xD9)):  # these have no length
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(view[position + 7 : position + 9], "big"), int.from_bytes(
                view[position + 5 : position + 7], "big"
            )
        elif marker in (0xD9, 0xDA):  # end, or pixels before any frame
            return None
        else:
            position += 2 + int.from_bytes(view[position + 2 : position + 4], "big")
    return None


def image_source(message: Any) -> tuple[np.ndarray | memoryview, tuple[int, int] | None]:
    """What ``preprocess.Preprocessor`` takes of an Image or CompressedImage, and its (width, height) where it can be
    told.

    A compressed image's bytes go on as they are, to be decoded at the size that is needed.

    Raises:
        ValueError: the message holds no picture.
    """
    if hasattr(message, "encoding"):
        pixels = raw_image(message)
        return pixels, (message.width, message.height)
    data = memoryview(message.data)
    if not len(data):
        raise ValueError("field data is empty")
    return data, encoded_size(data)


# -------------------------------------------------------------------------------------------------------------- boxes


def box_pose(boxes: Boxes, i: int) -> Pose:
    """Gravity centre and heading of box ``i``; the quaternion is (0, 0, sin(yaw / 2), cos(yaw / 2))."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in boxes.centers[i])
    half = float(boxes.yaws[i]) / 2
    pose.orientation.z, pose.orientation.w = float(np.sin(half)), float(np.cos(half))
    return pose


def box_size(boxes: Boxes, i: int) -> Vector3:
    """x length, y width, z height."""
    length, width, height = (float(v) for v in boxes.sizes[i])
    return Vector3(x=length, y=width, z=height)


def detections(boxes: Boxes, stamp_ns: int, frame_id: str) -> Detection3DArray:
    """vision_msgs/Detection3DArray: header on the array and on each detection, one hypothesis each with the class's
    name."""
    array = Detection3DArray(header=header(stamp_ns, frame_id))
    for i, name in enumerate(boxes.names):
        detection = Detection3D(header=header(stamp_ns, frame_id))
        detection.bbox.center = box_pose(boxes, i)
        detection.bbox.size = box_size(boxes, i)
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = name
        result.hypothesis.score = float(boxes.scores[i])
        result.pose.pose = box_pose(boxes, i)
        detection.results = [result]
        array.detections.append(detection)
    return array


def objects(
    boxes: Boxes, stamp_ns: int, frame_id: str, cameras: Sequence[str], stamps: Mapping[str, int]
) -> DetectedObjectArray:
    """The same boxes with velocity, and which cameras they rest on.

    Args:
        boxes: in ``frame_id`` at ``stamp_ns``.
        stamp_ns: reference time of the set.
        frame_id: the base frame.
        cameras: all cameras of the rig.
        stamps: image stamps (ns) of those that were used.
    """
    array = DetectedObjectArray(header=header(stamp_ns, frame_id))
    array.cameras = list(cameras)
    array.used = [name in stamps for name in cameras]
    array.stamps = [time_message(stamps.get(name, 0)) for name in cameras]
    array.partial = not all(array.used)
    for i, name in enumerate(boxes.names):
        vx, vy = (float(v) for v in boxes.velocities[i])
        array.objects.append(
            DetectedObject(
                class_name=name,
                score=float(boxes.scores[i]),
                pose=box_pose(boxes, i),
                size=box_size(boxes, i),
                velocity=Vector3(x=vx, y=vy, z=0.0),
            )
        )
    return array


def label_info(class_names: Sequence[str], threshold: float, stamp_ns: int) -> LabelInfo:
    """Every class name with its number in the model, and the score threshold."""
    info = LabelInfo(header=header(stamp_ns, ""))
    info.class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(class_names)]
    info.threshold = float(threshold)
    return info
