"""The messages of a recorded drive, made without ROS: one place for what our bags hold, whoever writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bevdistill_ros.geometry import quaternion_from_rotation

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

TF = "tf2_msgs/msg/TFMessage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
DETECTIONS = "vision_msgs/msg/Detection3DArray"

FIXED_FRAME, BASE_FRAME = "map", "base_link"


@dataclass(frozen=True, eq=False)
class TruthBox:
    """An annotated object.

    Attributes:
        name: detection class.
        identity: of the object, the same in all messages.
        center: (3,) gravity centre, m.
        rotation: (3, 3).
        size: (3,) length, width, height, m.
    """

    name: str
    identity: str
    center: np.ndarray
    rotation: np.ndarray
    size: Sequence[float] | np.ndarray


class Messages:
    """Short constructors for the messages of a recorded drive. Stamps are integer ns, quaternions (x, y, z, w)."""

    def __init__(self, store: Typestore) -> None:
        self.types = store.types

    def make(self, msgtype: str, **fields: Any) -> Any:
        """A message of ``msgtype`` ('sensor_msgs/msg/Image'); every field must be given."""
        return self.types[msgtype](**fields)

    def time(self, stamp: int) -> Any:
        """builtin_interfaces/Time, exact to the nanosecond."""
        return self.make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)

    def header(self, stamp: int, frame: str) -> Any:
        """std_msgs/Header."""
        return self.make("std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame)

    def vector(self, xyz: Sequence[float]) -> Any:
        """geometry_msgs/Vector3."""
        x, y, z = (float(v) for v in xyz)
        return self.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def quaternion(self, xyzw: Sequence[float]) -> Any:
        """geometry_msgs/Quaternion."""
        x, y, z, w = (float(v) for v in xyzw)
        return self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def pose(self, xyz: Sequence[float], xyzw: Sequence[float]) -> Any:
        """geometry_msgs/Pose."""
        x, y, z = (float(v) for v in xyz)
        position = self.make("geometry_msgs/msg/Point", x=x, y=y, z=z)
        return self.make("geometry_msgs/msg/Pose", position=position, orientation=self.quaternion(xyzw))

    def transform(self, stamp: int, parent: str, child: str, xyz: Sequence[float], xyzw: Sequence[float]) -> Any:
        """geometry_msgs/TransformStamped of parent_T_child."""
        return self.make(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp, parent),
            child_frame_id=child,
            transform=self.make(
                "geometry_msgs/msg/Transform", translation=self.vector(xyz), rotation=self.quaternion(xyzw)
            ),
        )

    def tf(self, transforms: list[Any]) -> Any:
        """tf2_msgs/TFMessage."""
        return self.make(TF, transforms=transforms)

    def camera_info(self, stamp: int, frame: str, K: np.ndarray, width: int, height: int) -> Any:
        """sensor_msgs/CameraInfo of undistorted images with intrinsics ``K`` (3, 3)."""
        region = self.make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self.make(
            CAMERA_INFO,
            header=self.header(stamp, frame),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([K, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def compressed_image(self, stamp: int, frame: str, data: bytes, image_format: str) -> Any:
        """sensor_msgs/CompressedImage of an encoded image ('jpeg' or 'png')."""
        return self.make(
            COMPRESSED_IMAGE,
            header=self.header(stamp, frame),
            format=image_format,
            data=np.frombuffer(data, np.uint8),
        )

    def image(self, stamp: int, frame: str, pixels: np.ndarray) -> Any:
        """sensor_msgs/Image of (height, width, 3) uint8 BGR pixels."""
        height, width, _ = pixels.shape
        return self.make(
            IMAGE,
            header=self.header(stamp, frame),
            height=height,
            width=width,
            encoding="bgr8",
            is_bigendian=0,
            step=3 * width,
            data=pixels.reshape(-1),
        )

    def point_cloud(self, stamp: int, frame: str, fields: Sequence[str], data: bytes) -> Any:
        """sensor_msgs/PointCloud2 of packed little-endian float32 points, whose fields are named."""
        step = 4 * len(fields)
        return self.make(
            POINT_CLOUD,
            header=self.header(stamp, frame),
            height=1,
            width=len(data) // step,
            fields=[
                self.make("sensor_msgs/msg/PointField", name=name, offset=4 * index, datatype=7, count=1)
                for index, name in enumerate(fields)
            ],
            is_bigendian=False,
            point_step=step,
            row_step=len(data),
            data=np.frombuffer(data, np.uint8),
            is_dense=True,
        )

    def truth(self, stamp: int, frame: str, boxes: Iterable[TruthBox]) -> Any:
        """vision_msgs/Detection3DArray of annotated boxes in ``frame``: score 1, id is the object's identity."""
        header = self.header(stamp, frame)
        return self.make(DETECTIONS, header=header, detections=[self._truth_box(header, box) for box in boxes])

    def _truth_box(self, header: Any, box: TruthBox) -> Any:
        pose = self.pose(box.center, quaternion_from_rotation(box.rotation))
        hypothesis = self.make(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=self.make("vision_msgs/msg/ObjectHypothesis", class_id=box.name, score=1.0),
            pose=self.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        )
        return self.make(
            "vision_msgs/msg/Detection3D",
            header=header,
            results=[hypothesis],
            bbox=self.make("vision_msgs/msg/BoundingBox3D", center=pose, size=self.vector(box.size)),
            id=box.identity,
        )
