"""A process that publishes what a camera rig would: JPEG images, CameraInfo, TF. Tests run it and talk to it on stdin.

Lines on stdin: `mute NAME`, `unmute NAME` (a camera's images stop, and come back), end of file (end). Camera i exposes at START +
k PERIOD + i OFFSET; the base moves in `odom` at SPEED along x. Everything published follows from the stamp, so the listener can
compute what to expect.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time

START = 1_600_000_000_000_000_000  # ns
PERIOD = 100_000_000
OFFSET = 7_000_000
SPEED = 10.0  # m/s
WIDTH, HEIGHT = 320, 192
FOCAL = 160.0


def stamp_of(frame: int, camera: int) -> int:
    """Image stamp (ns)."""
    return START + frame * PERIOD + camera * OFFSET


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cameras", nargs="+")
    parser.add_argument("--without", nargs="*", default=[], choices=["odom", "tf_static", "camera_info"])
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--namespace", default="")
    arguments = parser.parse_args()

    import cv2
    import numpy as np
    import rclpy
    from builtin_interfaces.msg import Time
    from geometry_msgs.msg import TransformStamped
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from tf2_msgs.msg import TFMessage

    muted: set[str] = set()
    ended = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            command, _, name = line.strip().partition(" ")
            if command == "mute":
                muted.add(name)
            elif command == "unmute":
                muted.discard(name)
        ended.set()

    rclpy.init(args=[])
    node = rclpy.create_node("camera_rig", namespace=arguments.namespace)
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    kind, topic = (Image, "image_raw") if arguments.raw else (CompressedImage, "image_raw/compressed")
    images = {name: node.create_publisher(kind, f"{name}/{topic}", sensor) for name in arguments.cameras}
    infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", sensor) for name in arguments.cameras}
    moving = node.create_publisher(TFMessage, "/tf", 100)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = node.create_publisher(TFMessage, "/tf_static", latched)

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 24, 40, 3), dtype=np.uint8)  # no camera repeats itself
    pictures = [cv2.resize(pixels, (WIDTH, HEIGHT)) for pixels in noise]
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]

    mounts = TFMessage()
    for i, name in enumerate(arguments.cameras):
        transform = TransformStamped()
        transform.header.frame_id, transform.child_frame_id = "base_link", f"{name}_optical"
        transform.transform.translation.z = 1.5
        # Optical axes look forward, then every further camera a sixth of a turn to the left: Rz(yaw) after the axes' swap.
        half = i * math.tau / 6 / 2
        rotation = transform.transform.rotation
        turn, optical = (0.0, 0.0, math.sin(half), math.cos(half)), (-0.5, 0.5, -0.5, 0.5)
        rotation.x, rotation.y, rotation.z, rotation.w = _product(turn, optical)
        mounts.transforms.append(transform)
    if "tf_static" not in arguments.without:
        static.publish(mounts)

    def time_message(nanoseconds: int) -> Time:
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    threading.Thread(target=listen, daemon=True).start()
    print("ready", flush=True)
    began, frame = time.monotonic(), 0
    while not ended.wait(max(0.0, began + frame * PERIOD / 1e9 - time.monotonic())):
        if "odom" not in arguments.without:
            poses = TFMessage()
            for i in range(len(arguments.cameras)):
                transform = TransformStamped()
                transform.header.frame_id, transform.child_frame_id = "odom", "base_link"
                transform.header.stamp = time_message(stamp_of(frame, i))
                transform.transform.translation.x = SPEED * (stamp_of(frame, i) - START) / 1e9
                transform.transform.rotation.w = 1.0
                poses.transforms.append(transform)
            moving.publish(poses)
        for i, name in enumerate(arguments.cameras):
            if name in muted:
                continue
            info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
            info.header.stamp, info.header.frame_id = time_message(stamp_of(frame, i)), f"{name}_optical"
            info.k = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, HEIGHT / 2, 0.0, 0.0, 1.0]
            info.d = [0.0] * 5
            if "camera_info" not in arguments.without:
                infos[name].publish(info)
            message = kind()
            message.header = info.header
            if arguments.raw:
                message.width, message.height, message.step, message.encoding = WIDTH, HEIGHT, 3 * WIDTH, "bgr8"
                message.data.frombytes(pictures[frame % len(pictures)].tobytes())
            else:
                message.format = "jpeg"
                message.data.frombytes(jpegs[frame % len(jpegs)])
            images[name].publish(message)
        frame += 1
    node.destroy_node()
    rclpy.try_shutdown()


def _product(a: tuple, b: tuple) -> tuple:
    """Quaternion product (x, y, z, w): the rotation b, then a."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


if __name__ == "__main__":
    main()
