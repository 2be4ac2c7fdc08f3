"""Between ROS messages and the package's own types: images in, boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Vector3
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.images import encoded_size, raw_image
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
