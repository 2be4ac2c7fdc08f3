"""A rig in a process of its own: publishes pictures over DDS as cameras would, with stamps of now. ``bench --publish``."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.bench.rig_sets import JPEG_QUALITY, RigSet
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import quaternion_from_rotation

BASE_FRAME = "base_link"


def camera_names(rig_set: RigSet) -> list[str]:
    """As they are in topics: `<name>/image_raw/compressed`, `<name>/camera_info`."""
    return [name.lower() for name in rig_set.names]


def publish(sets: Sequence[RigSet], rate: float, stop: threading.Event | None = None) -> dict[str, Any]:
    """Publish the sets again and again, ``rate`` a second, all cameras of one at once, until told to end: by a signal, or ``stop``.

    Returns:
        ``stamps_ns`` of the sets published, read from the clock before the first image goes out; ``late_ms``, the greatest delay
        behind the pace.

    Raises:
        UserError: there is no ROS 2 here.
    """
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise UserError(f"--publish needs ROS 2 (rclpy); source your ROS 2 setup file first ({error})") from None

    ended = stop or threading.Event()
    if stop is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        return _Rig(rclpy.create_node("bevdistill_rig", start_parameter_services=False), sets).run(rate, ended)
    finally:
        rclpy.try_shutdown()


class _Rig:
    def __init__(self, node: Any, sets: Sequence[RigSet]) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CameraInfo, CompressedImage
        from tf2_msgs.msg import TFMessage

        sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        names = camera_names(sets[0])
        self._images = [
            node.create_publisher(CompressedImage, f"{name}/image_raw/compressed", sensor) for name in names
        ]
        self._infos = [node.create_publisher(CameraInfo, f"{name}/camera_info", sensor) for name in names]
        self._static = node.create_publisher(TFMessage, "/tf_static", latched)
        self._static.publish(TFMessage(transforms=[_mount(*each) for each in zip(names, sets[0].ego_T_cam)]))
        # Made beforehand: a camera's driver does not decode, and this process should not be what is measured.
        self._messages = [[_messages(one, i, name) for i, name in enumerate(names)] for one in sets]

    def run(self, rate: float, ended: threading.Event) -> dict[str, Any]:
        stamps: list[int] = []
        late = 0.0
        began = time.monotonic()
        while not ended.wait(max(0.0, began + len(stamps) / rate - time.monotonic())):
            late = max(late, time.monotonic() - began - len(stamps) / rate)
            stamp = time.time_ns()
            for i, (image, info) in enumerate(self._messages[len(stamps) % len(self._messages)]):
                for message, publisher in ((info, self._infos[i]), (image, self._images[i])):
                    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                    publisher.publish(message)
            stamps.append(stamp)
        return {"stamps_ns": stamps, "late_ms": round(late * 1e3, 2)}


def _messages(rig_set: RigSet, i: int, name: str) -> tuple[Any, Any]:
    """CompressedImage and CameraInfo, without their stamps."""
    from sensor_msgs.msg import CameraInfo, CompressedImage

    camera, picture = rig_set.cameras[i], rig_set.pictures[i]
    if isinstance(picture, np.ndarray):
        picture = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    image = CompressedImage(format="jpeg")
    image.data.frombytes(picture)
    info = CameraInfo(width=camera.width, height=camera.height, distortion_model=camera.distortion_model)
    info.k = camera.K.reshape(-1).tolist()
    info.d = camera.D.tolist()
    image.header.frame_id = info.header.frame_id = f"{name}_optical"
    return image, info


def _mount(name: str, ego_T_cam: np.ndarray) -> Any:
    from geometry_msgs.msg import TransformStamped

    transform = TransformStamped(child_frame_id=f"{name}_optical")
    transform.header.frame_id = BASE_FRAME
    place, turn = transform.transform.translation, transform.transform.rotation
    place.x, place.y, place.z = (float(v) for v in ego_T_cam[:3, 3])
    turn.x, turn.y, turn.z, turn.w = (float(v) for v in quaternion_from_rotation(ego_T_cam[:3, :3]))
    return transform
