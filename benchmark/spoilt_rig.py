"""Six cameras, odometry and TF as a robot publishes them, spoilt on request: a process of its own.

    python benchmark/spoilt_rig.py START_NS [--raw] [--clock] [--reliable] [--await-listeners]

It prints `ready` and for how many seconds it has waited for DDS to find who listens. On stdin: `begin NAME` (a fault of
fault_list.py is there from now on), `mend` (all are gone), end of file (end). At its end it prints, as JSON, the instants that it
published whole and healthy, and by how many seconds the last image of each left later than it was due: a machine with too few cores
holds up the rig as well as the node. Every picture shows, all over itself, of which instant and camera it is, so that who
receives boxes of it can tell whether it was the right one: see `code_of` and `Picture`. Stamps are of this machine's clock.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CAMERAS = ("cam_a", "cam_b", "cam_c", "cam_d", "cam_e", "cam_f")
PERIOD = 100_000_000  # ns
OFFSET = 5_000_000  # ns from camera to camera
DISCOVERY_S = 15.0  # at most: processes on one machine announce themselves every 3 s
CODES = 64  # instants after which the pictures repeat
SPEED = 8.0  # m/s along x of odom
FOCAL = 180.0
MOUNT_Z = 1.5
NETWORK = (36, 64)  # height, width of the images that the network gets
SIZES = {"small": (352, 198), "soak": (704, 396)}  # width, height of the pictures; the aspect ratio is the network's
_GRID = (3, 4)  # blocks of a picture, one bit each


def code_of(stamp: int, camera: int, start: int) -> int | None:
    """The code of the instant that an image with this stamp must show; None for a stamp that no image has."""
    instant = round((stamp - start - camera * OFFSET) / PERIOD)
    return instant % CODES if abs(stamp - start - camera * OFFSET - instant * PERIOD) <= PERIOD // 4 else None


class Picture:
    """Pictures that say what they are: six bits of the instant, three of the camera, three to check them."""

    @staticmethod
    def bits(code: int, camera: int) -> list[int]:
        check = (code * 5 + camera * 3) % 8
        number = code | camera << 6 | check << 9
        return [number >> i & 1 for i in range(12)]

    @staticmethod
    def draw(code: int, camera: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(height, width, 3) uint8 BGR, with noise as a sensor's."""
        rows, columns = _GRID
        blocks = np.array(Picture.bits(code, camera), np.float32).reshape(rows, columns) * 150 + 50
        picture = cv2.resize(blocks, size, interpolation=cv2.INTER_NEAREST)[..., None]
        noise = rng.normal(0, 6, (size[1] // 2, size[0] // 2, 3)).astype(np.float32)
        return np.clip(picture + cv2.resize(noise, size), 0, 255).astype(np.uint8)

    @staticmethod
    def read(image: np.ndarray) -> tuple[int, int] | None:
        """(code, camera) of a picture at any size; None where it shows something else, or only half of one."""
        rows, columns = _GRID
        height, width = image.shape[0] // rows, image.shape[1] // columns
        number = 0
        for i in range(rows * columns):
            row, column = divmod(i, columns)
            block = image[row * height + 2 : (row + 1) * height - 2, column * width + 2 : (column + 1) * width - 2]
            number |= int(block.mean() > 125) << i
            if block.reshape(-1, 3).mean(1).std() > 25:
                return None
        code, camera = number & 63, number >> 6 & 7
        return (code, camera) if Picture.bits(code, camera) == [number >> i & 1 for i in range(12)] else None


@dataclass
class Spoilt:
    """What is wrong with the rig at present; a new one is a healthy rig. Cameras are meant by name."""

    mute: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # the publisher itself
    same_message: set[str] = field(default_factory=set)
    same_picture: set[str] = field(default_factory=set)
    delay_s: dict[str, float] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    swap: set[str] = field(default_factory=set)  # of two images the later one first
    every: dict[str, int] = field(default_factory=dict)  # only each n-th image
    loss: float = 0.0
    rival: set[str] = field(default_factory=set)  # a second driver on the topic, half a period later
    data: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    size: dict[str, tuple[int, int]] = field(default_factory=dict)
    message: dict[str, Callable[[Any], None]] = field(default_factory=dict)  # changes an image message in place
    stamp_shift: dict[str, int] = field(default_factory=dict)  # ns
    jitter: dict[str, int] = field(default_factory=dict)  # ns
    zero_stamp: set[str] = field(default_factory=set)
    info: dict[str, Callable[[Any], None] | None] = field(default_factory=dict)  # None: no CameraInfo
    frame: dict[str, str] = field(default_factory=dict)
    odom: bool = True
    odom_delay_s: float = 0.0
    odom_shift: int = 0  # ns
    odom_jump: bool = False  # five metres, to and fro, within each set
    odom_spoil: Callable[[Any], None] | None = None
    mount_z: float = MOUNT_Z
    time_shift: int = 0  # ns; of everything, the clock included
    clock: bool = True
    stall: bool = False  # everything is held back, and comes at once afterwards


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("start", type=int)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--reliable", action="store_true")
    parser.add_argument("--await-listeners", action="store_true", help="begin once every publisher has a subscriber")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Here, as a process that imports this file for its constants needs no ROS.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import rclpy
    from fault_list import FAULTS
    from rclpy.signals import SignalHandlerOptions

    faults = {fault.name: fault for fault in FAULTS}
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    rig = _Rig(options)
    ended = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            command, _, name = line.strip().partition(" ")
            spoilt = Spoilt()
            if command == "begin":
                faults[name].spoil(spoilt)
            rig.spoilt = spoilt
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    print("ready", rig.await_listeners(DISCOVERY_S) if options.await_listeners else 0.0, flush=True)
    rig.run(ended)
    try:
        print(json.dumps(list(rig.healthy.items())), flush=True)
    except BrokenPipeError:  # whoever started this process has ended
        pass
    rclpy.try_shutdown()


class _Rig:
    def __init__(self, options: argparse.Namespace) -> None:
        import rclpy
        from geometry_msgs.msg import TransformStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image
        from tf2_msgs.msg import TFMessage

        self.spoilt = Spoilt()
        self._start, self._raw, self._size = options.start, options.raw, SIZES[options.size]
        self._rng = np.random.default_rng(options.seed)
        self._image_type, self._info_type = Image if options.raw else CompressedImage, CameraInfo
        self._tf_type, self._transform_type, self._clock_type = TFMessage, TransformStamped, Clock
        self._node = rclpy.create_node("spoilt_rig")
        reliability = ReliabilityPolicy.RELIABLE if options.reliable else ReliabilityPolicy.BEST_EFFORT
        self._qos = QoSProfile(depth=10, reliability=reliability)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images: dict[str, Any] = {}
        self._infos = {c: self._node.create_publisher(CameraInfo, f"/{c}/camera_info", self._qos) for c in CAMERAS}
        self._tf = self._node.create_publisher(TFMessage, "/tf", 100)
        self._static = self._node.create_publisher(TFMessage, "/tf_static", latched)
        self._clock = self._node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._mounted: float | None = None
        draw = [[Picture.draw(code, i, self._size, self._rng) for code in range(CODES)] for i in range(len(CAMERAS))]
        encode = (lambda p: p.tobytes()) if options.raw else _jpeg
        self._pictures = [[encode(picture) for picture in row] for row in draw]
        self._others: dict[tuple, bytes] = {}
        self._last: dict[str, Any] = {}
        self._held: dict[str, Any] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.healthy: dict[int, float] = {}  # instant: s that an image of it left too late, at most

    def await_listeners(self, seconds: float) -> float:
        """Until every publisher has a subscriber, or for so long; returns how long it took."""
        begun = time.monotonic()
        self._images = {camera: self._image_publisher(camera) for camera in CAMERAS}
        publishers = [*self._images.values(), *self._infos.values(), self._tf, self._static]
        while not all(p.get_subscription_count() for p in publishers) and time.monotonic() - begun < seconds:
            time.sleep(0.01)
        return round(time.monotonic() - begun, 3)

    def _image_publisher(self, camera: str) -> Any:
        topic = f"/{camera}/image_raw" + ("" if self._raw else "/compressed")
        return self._node.create_publisher(self._image_type, topic, self._qos)

    def run(self, ended: threading.Event) -> None:
        instant = (time.time_ns() - self._start) // PERIOD + 1
        self._zero = time.monotonic() - (time.time_ns() - self._start) / 1e9  # monotonic time of the start
        next_clock = 0.0
        while not ended.is_set():
            now = time.monotonic()
            while self._zero + instant * PERIOD / 1e9 <= now + 0.01:
                self._plan(instant)
                instant += 1
            if self._clock is not None and now >= next_clock and self.spoilt.clock:
                next_clock = now + 0.01
                stamp = round((now - self._zero) * 1e9) + self._start + self.spoilt.time_shift
                self._clock.publish(self._clock_type(clock=_time(stamp)))
            while self._due and self._due[0][0] <= now and not self.spoilt.stall:
                heapq.heappop(self._due)[2]()
            ended.wait(0.002)
        while self._due:  # the last instant is published whole
            time.sleep(max(0.0, self._due[0][0] - time.monotonic()))
            heapq.heappop(self._due)[2]()
        # Destroyed at once, the publishers would take with them what is still on its way.
        time.sleep(1.0)
        self._node.destroy_node()

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (seconds, self._count, action))

    def _plan(self, instant: int) -> None:
        """All messages of one instant, each at its time."""
        spoilt, begin = self.spoilt, self._zero + instant * PERIOD / 1e9
        if spoilt == Spoilt():
            self.healthy[instant] = 0.0
        stamps = [self._start + spoilt.time_shift + instant * PERIOD + i * OFFSET for i in range(len(CAMERAS))]
        if self._mounted != spoilt.mount_z:
            self._mounted = spoilt.mount_z
            self._static.publish(self._tf_type(transforms=[self._mount(i) for i in range(len(CAMERAS))]))
        if spoilt.odom:
            poses = self._tf_type(transforms=[self._pose(stamp, spoilt) for stamp in stamps])
            self._at(begin + spoilt.odom_delay_s, lambda: self._tf.publish(poses))
        for i, camera in enumerate(CAMERAS):
            existing = self._images.get(camera)
            if camera in spoilt.gone and existing is not None:
                self._node.destroy_publisher(self._images.pop(camera))
            elif camera not in spoilt.gone and existing is None:
                self._images[camera] = self._image_publisher(camera)
            due = begin + i * OFFSET / 1e9 + spoilt.delay_s.get(camera, 0.0)
            self._at(
                due, lambda i=i, stamp=stamps[i], due=due: self._send_and_note_lateness(i, instant, stamp, spoilt, due)
            )
            if camera in spoilt.rival:
                self._at(due + 0.05, lambda i=i, stamp=stamps[i] + PERIOD // 2: self._send(i, instant, stamp, spoilt))

    def _send_and_note_lateness(self, i: int, instant: int, stamp: int, spoilt: Spoilt, due: float) -> None:
        """``_send``, and note how late that was."""
        self._send(i, instant, stamp, spoilt)
        if instant in self.healthy:
            self.healthy[instant] = max(self.healthy[instant], round(time.monotonic() - due, 4))

    def _send(self, i: int, instant: int, stamp: int, spoilt: Spoilt) -> None:
        camera = CAMERAS[i]
        publisher = self._images.get(camera)
        if publisher is None or camera in spoilt.mute or instant % spoilt.every.get(camera, 1):
            return
        if spoilt.loss and self._rng.random() < spoilt.loss:
            return
        stamp += spoilt.stamp_shift.get(camera, 0)
        if camera in spoilt.jitter:
            stamp += int(self._rng.integers(-spoilt.jitter[camera], spoilt.jitter[camera] + 1))
        width, height = self._size
        info = self._info_type(width=width, height=height, distortion_model="plumb_bob")
        info.header.frame_id = spoilt.frame.get(camera, f"{camera}_optical")
        info.header.stamp = _time(0 if camera in spoilt.zero_stamp else stamp)
        focal = FOCAL * width / SIZES["small"][0]
        info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        info.d = [0.0] * 5
        change = spoilt.info.get(camera, lambda info: None)
        if change is not None:
            change(info)
            self._infos[camera].publish(info)
        message = self._message(i, instant, info.header, spoilt)
        if camera in spoilt.same_message and camera in self._last:
            message = self._last[camera]
        elif camera in spoilt.same_picture and camera in self._last:
            message.data = self._last[camera].data
        self._last[camera] = message
        if camera in spoilt.swap:
            held = self._held.pop(camera, None)
            if held is None:
                self._held[camera] = message
                return
            publisher.publish(message)
            message = held
        for _ in range(spoilt.copies.get(camera, 1)):
            publisher.publish(message)

    def _message(self, i: int, instant: int, header: Any, spoilt: Spoilt) -> Any:
        camera, code = CAMERAS[i], instant % CODES
        size = spoilt.size.get(camera, self._size)
        data = self._pictures[i][code]
        if size != self._size:
            if (i, code, size) not in self._others:
                picture = Picture.draw(code, i, size, self._rng)
                self._others[i, code, size] = picture.tobytes() if self._raw else _jpeg(picture)
            data = self._others[i, code, size]
        if camera in spoilt.data:
            data = spoilt.data[camera](data)
        message = self._image_type(header=header)
        if self._raw:
            message.width, message.height, message.step, message.encoding = *size, 3 * size[0], "bgr8"
        else:
            message.format = "jpeg"
        message.data.frombytes(data)
        if camera in spoilt.message:
            spoilt.message[camera](message)
        return message

    def _pose(self, stamp: int, spoilt: Spoilt) -> Any:
        transform = self._transform_type(child_frame_id="base_link")
        transform.header.frame_id, transform.header.stamp = "odom", _time(stamp + spoilt.odom_shift)
        transform.transform.translation.x = position_at(stamp, self._start)
        if spoilt.odom_jump and (stamp - self._start) % PERIOD >= 3 * OFFSET:
            transform.transform.translation.x += 5.0
        transform.transform.rotation.w = 1.0
        if spoilt.odom_spoil is not None:
            spoilt.odom_spoil(transform.transform)
        return transform

    def _mount(self, i: int) -> Any:
        transform = self._transform_type(child_frame_id=f"{CAMERAS[i]}_optical")
        transform.header.frame_id = "base_link"
        transform.transform.translation.z = self._mounted
        half = math.pi * i / len(CAMERAS)
        sine, cosine = math.sin(half) / 2, math.cos(half) / 2
        rotation = transform.transform.rotation  # Rz(60 degrees i), after the turn of the axes (-0.5, 0.5, -0.5, 0.5)
        rotation.x, rotation.y, rotation.z, rotation.w = -cosine - sine, cosine - sine, sine - cosine, cosine + sine
        return transform


def position_at(stamp: int, start: int) -> float:
    """Where the base is on the x axis of odom, m."""
    return SPEED * (stamp - start) / 1e9


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _time(nanoseconds: int) -> Any:
    from builtin_interfaces.msg import Time

    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


if __name__ == "__main__":
    main()
