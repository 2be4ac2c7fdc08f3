"""A process that publishes a rig with one fault a camera; the names say which. Ends with its standard input.

good, fine: nothing. body: its frame on TF is a body frame. unstamped: header.stamp is zero. uncalibrated: K is zero.
small: images of half the CameraInfo's size. raw: an Image in place of a CompressedImage. adrift: its frame is not on TF.
double: two publishers. Anything else is not published at all. All others are as good; the base stands in `odom`.
"""

from __future__ import annotations

import sys
import threading
import time

PERIOD_S = 0.1
WIDTH, HEIGHT = 320, 192
CAMERAS = ("good", "fine", "body", "unstamped", "uncalibrated", "small", "raw", "adrift", "double")
OPTICAL, IDENTITY = (-0.5, 0.5, -0.5, 0.5), (0.0, 0.0, 0.0, 1.0)


def main() -> None:
    import cv2
    import numpy as np
    import rclpy
    from builtin_interfaces.msg import Time
    from geometry_msgs.msg import TransformStamped
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from tf2_msgs.msg import TFMessage

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    rclpy.init(args=[])
    node = rclpy.create_node("faulty_rig")
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    compressed = [name for name in CAMERAS if name != "raw"]
    images = {
        name: node.create_publisher(CompressedImage, f"{name}/image_raw/compressed", sensor) for name in compressed
    }
    images["raw"] = node.create_publisher(Image, "raw/image_raw", sensor)
    second = node.create_publisher(CompressedImage, "double/image_raw/compressed", sensor)
    infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", sensor) for name in CAMERAS}
    moving = node.create_publisher(TFMessage, "/tf", 100)
    static = node.create_publisher(
        TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )

    def transform(parent: str, child: str, rotation: tuple, xyz: tuple, stamp: Time) -> TransformStamped:
        message = TransformStamped()
        message.header.frame_id, message.header.stamp, message.child_frame_id = parent, stamp, child
        t, q = message.transform.translation, message.transform.rotation
        t.x, t.y, t.z = xyz
        q.x, q.y, q.z, q.w = rotation
        return message

    static.publish(
        TFMessage(
            transforms=[
                transform(
                    "base_link", f"{name}_eye", IDENTITY if name == "body" else OPTICAL, (0.1 * i, 0.0, 1.0), Time()
                )
                for i, name in enumerate(CAMERAS)
                if name != "adrift"
            ]
        )
    )
    rng = np.random.default_rng(0)
    print("ready", flush=True)
    began, frame = time.monotonic(), 0
    while not ended.wait(max(0.0, began + frame * PERIOD_S - time.monotonic())):
        now = time.time_ns()
        stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        moving.publish(TFMessage(transforms=[transform("odom", "base_link", IDENTITY, (0.0, 0.0, 0.0), stamp)]))
        for name in CAMERAS:
            info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
            info.header.frame_id = f"{name}_eye"
            info.header.stamp = Time() if name == "unstamped" else stamp
            f = 0.0 if name == "uncalibrated" else 160.0
            info.k = [f, 0.0, f, 0.0, f, 0.6 * f, 0.0, 0.0, f / 160]
            infos[name].publish(info)
            scale = 2 if name == "small" else 1
            noise = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
            picture = cv2.resize(noise, (WIDTH // scale, HEIGHT // scale))
            if name == "raw":
                message = Image(header=info.header, width=WIDTH, height=HEIGHT, step=3 * WIDTH, encoding="bgr8")
                message.data.frombytes(picture.tobytes())
            else:
                message = CompressedImage(header=info.header, format="jpeg")
                message.data.frombytes(cv2.imencode(".jpg", picture)[1].tobytes())
            images[name].publish(message)
            if name == "double":
                second.publish(message)
        frame += 1
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
