"""What the shipped Fast DDS profiles are for, they do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from bevdistill_ros.paths import small_queues

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc what is in use"),
    pytest.mark.skipif("fastrtps" not in os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"), reason="Fast DDS"),
]

WAITING, SIZE = 30, 300_000
PROGRAM = f"""
import array, ctypes, rclpy, time
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage
NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
def in_use():
    info = mallinfo()
    return info.uordblks + info.hblkhd
rclpy.init()
node = rclpy.create_node("queues")
got = [0]
def take(message):
    got[0] += 1
node.create_subscription(CompressedImage, "~/image", take, QoSProfile(depth={WAITING}))
publisher = node.create_publisher(CompressedImage, "~/image", QoSProfile(depth=1))
image = CompressedImage(data=array.array("B", bytes({SIZE})))
def send_and_take(count):
    expected = got[0] + count
    for _ in range(count):
        publisher.publish(image)  # within a process it is in the queue at once
    end = time.monotonic() + 60
    while got[0] < expected and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    assert got[0] == expected, got
while not publisher.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.1)
for _ in range(3):
    send_and_take(1)
before = in_use()
send_and_take({WAITING})
print("kept", in_use() - before)
node.destroy_node()
rclpy.shutdown()
"""


def kept(**environment: str) -> int:
    """Bytes in use after so many images have waited, and have been taken, beside those in use before."""
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr[-2000:]
    return int(said.stdout.split()[-1])


def test_subscriptions_give_back_what_their_queues_took(ros_domain) -> None:
    assert kept(**small_queues()) < 2 * SIZE


def test_without_the_profile_they_keep_it(ros_domain) -> None:
    """Why there is one; where this fails, it is no longer needed."""
    assert kept() > WAITING * SIZE / 2
