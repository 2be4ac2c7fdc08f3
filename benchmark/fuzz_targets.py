"""What is fuzzed: for each door into the programs, inputs, and what happens to them inside.

A target's ``run(rng)`` makes one input of ``rng`` alone and puts it through. It returns whether the input was taken, raises one of
the target's ``refusals`` where it was refused as documented, and anything else is a fault: an exception of another kind, or
``WrongResult`` where what came out cannot be worked with.
"""

from __future__ import annotations

import array
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import rclpy.logging
import safetensors.torch
import tf2_ros
import torch
from fuzz_mutations import COUNTS, TEXTS, changed_bytes, changed_json, some_float, some_json
from geometry_msgs.msg import TransformStamped

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.config import MAX_IMAGE_PIXELS, ImageConfig
from bevdistill_ros.detector import load_network
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml
from bevdistill_ros.geometry import Camera
from bevdistill_ros.images import encoded_size, raw_image
from bevdistill_ros.node.calibration import CalibrationStore, Mount, TransformSource, load_calibration_file
from bevdistill_ros.paths import share_directory
from bevdistill_ros.preprocess import Preprocessor

SIZE = ImageConfig(32, 64)


class WrongResult(Exception):
    """An input was taken, but what was made of it is not what the next step may expect."""


class Target(Protocol):
    """See the module."""

    refusals: tuple[type[Exception], ...]

    def run(self, rng: random.Random) -> bool: ...


def _check(condition: Any, what: str) -> None:
    if not condition:
        raise WrongResult(what)


def _check_prepared(image: np.ndarray, K: np.ndarray) -> None:
    _check(
        image.shape == (SIZE.height, SIZE.width, 3) and image.dtype == np.uint8, f"image {image.shape} {image.dtype}"
    )
    _check(np.isfinite(K).all() and np.isfinite(np.linalg.inv(K.astype(np.float32))).all(), f"K {K.tolist()}")


class Images:
    """Pictures of messages, encoded and raw, to the network's input."""

    refusals = (ValueError,)
    ENCODINGS = (
        "bgr8", "rgb8", "bgra8", "rgba8", "mono8", "mono16", "bgr16", "rgba16", "bayer_rggb8", "bayer_gbrg16", "yuv422", "yuyv",
        "uyvy", "8UC3", "8UC1", "16UC1", "32FC1", "32FC3", "64FC4", "8UC0", "8UC99", "16", "bgr816", "nv12", "jpeg",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
        pixels = cv2.resize(pixels, (40, 24), interpolation=cv2.INTER_CUBIC)
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
        self.encoded = [
            cv2.imencode(".jpg", pixels)[1].tobytes(),
            cv2.imencode(".jpg", pixels, progressive)[1].tobytes(),
            cv2.imencode(".jpg", pixels[..., 0])[1].tobytes(),
            cv2.imencode(".png", pixels)[1].tobytes(),
            cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 256)[1].tobytes(),
            cv2.imencode(".bmp", pixels)[1].tobytes(),
            cv2.imencode(".webp", pixels)[1].tobytes(),
            cv2.imencode(".tiff", pixels)[1].tobytes(),
        ]
        self.cameras = [self._camera(40, 24), self._camera(40, 24, [-0.2, 0.05, 0.001, 0.0]), self._camera(400, 240)]
        self.preprocess = Preprocessor(SIZE)

    @staticmethod
    def _camera(width: int, height: int, D: list[float] | None = None) -> Camera:
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        return Camera(K, width, height, "plumb_bob", np.array(D or []))

    def run(self, rng: random.Random) -> bool:
        if rng.random() < 0.35:
            return self._raw(rng)
        data = changed_bytes(rng, rng.choice(self.encoded))
        camera = rng.choice(self.cameras)
        claimed = encoded_size(data)
        # The calibration agrees with the lie of a header in some cases, so that decoding is tried.
        if claimed and 0 < claimed[0] * claimed[1] <= (MAX_IMAGE_PIXELS if rng.random() < 0.002 else 10_000):
            camera = self._camera(*claimed)
        _check_prepared(*self.preprocess(memoryview(data), camera))
        return True

    def _raw(self, rng: random.Random) -> bool:
        encoding = rng.choice((*self.ENCODINGS, *TEXTS)) if rng.random() < 0.5 else "bgr8"
        width, height = (rng.choice(COUNTS) if rng.random() < 0.2 else rng.randrange(1, 40) for _ in range(2))
        row = width * rng.choice((1, 2, 3, 4, 6, 8))
        step = rng.choice((row, row, row + rng.randrange(9), rng.choice(COUNTS)))
        needed = min(step * height, 20_000)
        size = needed if rng.random() < 0.7 else rng.randrange(needed + 20)
        message = SimpleNamespace(
            width=width, height=height, encoding=encoding, step=step, is_bigendian=rng.randrange(2),
            data=array.array("B", rng.randbytes(size)),
        )  # fmt: skip
        pixels = raw_image(message)
        _check(pixels.shape == (height, width, 3) and pixels.dtype == np.uint8, f"pixels {pixels.shape} {pixels.dtype}")
        _check_prepared(*self.preprocess(pixels, self._camera(width, height)))
        return True


class CameraInfos:
    """CameraInfo messages to calibrations, and to plans of how pictures are warped."""

    refusals = (ValueError,)
    MODELS = ("plumb_bob", "rational_polynomial", "equidistant", "", "fisheye", *TEXTS)

    def __init__(self, folder: Path) -> None:
        self.stores = [CalibrationStore({}, rectified) for rectified in (False, True)]
        self.preprocess = Preprocessor(SIZE)

    def run(self, rng: random.Random) -> bool:
        K = [250.0, 0.0, 160.0, 0.0, 250.0, 96.0, 0.0, 0.0, 1.0]
        P = [250.0, 0.0, 160.0, -20.0, 0.0, 250.0, 96.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        D = [rng.uniform(-0.3, 0.3) for _ in range(rng.choice((0, 0, 4, 5, 5, 8, 12, 14, rng.randrange(30))))]
        counts = {"width": 320, "height": 192, "binning_x": rng.randrange(3), "binning_y": rng.randrange(3)}
        region = dict.fromkeys(("x_offset", "y_offset", "width", "height"), 0)
        if rng.random() < 0.3:
            region = {"x_offset": rng.randrange(200), "y_offset": rng.randrange(100), "width": 100, "height": 90}
        for values in (K, P, D):
            while rng.random() < 0.3 and values:
                values[rng.randrange(len(values))] = some_float(rng)
        for values in (counts, region):
            if rng.random() < 0.2:
                values[rng.choice(list(values))] = rng.choice(COUNTS)
        model = rng.choice(self.MODELS) if rng.random() < 0.4 else "plumb_bob"
        header = SimpleNamespace(frame_id=rng.choice(TEXTS))
        info = SimpleNamespace(
            header=header, **counts, k=np.array(K), p=np.array(P), d=array.array("d", D), distortion_model=model,
            roi=SimpleNamespace(**region, do_rectify=False),
        )  # fmt: skip
        store = rng.choice(self.stores)
        store.hear("camera", info)
        intrinsics = store.intrinsics("camera")
        _check(intrinsics is not None, "no calibration, though none was refused")  # an equal one was refused before
        camera = intrinsics.camera
        _check(np.isfinite(intrinsics.frame_T_image).all(), "frame_T_image is not finite")
        _check(camera.width * camera.height <= MAX_IMAGE_PIXELS, f"{camera.width}x{camera.height} pixels")
        plan = self.preprocess.plan(camera)
        _check_prepared(np.zeros((SIZE.height, SIZE.width, 3), np.uint8), plan.K)
        if rng.random() < 0.05:  # slow
            rays = camera.rays(np.array([[camera.width / 2, camera.height / 2]]))
            _check(rays.shape == (1, 3), "no ray")
        return True


class Transforms:
    """TF messages to poses of the cameras of a set. Nothing is refused by an exception: what is wrong is told in the answer."""

    refusals = ()
    FRAMES = ("base_link", "odom", "camera", "lidar", "/base_link", "map")
    STAMP = 1_700_000_000_000_000_000

    def __init__(self, folder: Path) -> None:
        rclpy.logging.set_logger_level(
            "tf2_buffer", rclpy.logging.LoggingSeverity.FATAL
        )  # it tells of every one refused
        self.renew()

    def renew(self) -> None:
        """A drive of two seconds, straight on, with a camera mounted."""
        self.buffer = tf2_ros.Buffer()
        self.source = TransformSource(self.buffer, "base_link", "odom")
        mount = self._message("base_link", "camera", 0)
        mount.transform.rotation.w = 1.0
        self.buffer.set_transform_static(mount, "fuzz")
        for seconds in range(-1, 2):
            pose = self._message("odom", "base_link", self.STAMP + seconds * 10**9)
            pose.transform.translation.x, pose.transform.rotation.w = 10.0 * seconds, 1.0
            self.buffer.set_transform(pose, "fuzz")

    @staticmethod
    def _message(parent: str, child: str, stamp: int) -> TransformStamped:
        message = TransformStamped()
        message.header.frame_id, message.child_frame_id = parent, child
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        return message

    def run(self, rng: random.Random) -> bool:
        self.renew()  # so that an input does not depend on those before
        for _ in range(rng.randint(1, 4)):
            self.buffer_one(rng)
        names = [rng.choice((*self.FRAMES, *TEXTS)) if rng.random() < 0.3 else "camera" for _ in range(2)]
        stamps = [self._stamp(rng) for _ in names]
        mounts = {f"camera_{i}": Mount(stamp, frame) for i, (stamp, frame) in enumerate(zip(stamps, names))}
        poses = self.source.attempt(mounts, stamps[0], 10**9, last=True)
        _check(poses is not None, "no answer to the last attempt")
        for pose in poses.base_T_camera.values():
            _check(np.isfinite(pose.astype(np.float32)).all(), f"pose {pose.tolist()}")
        return len(poses.base_T_camera) == len(mounts)

    def buffer_one(self, rng: random.Random) -> None:
        """Put in one transform."""
        parent, child = (
            rng.choice((*self.FRAMES, *TEXTS)) if rng.random() < 0.4 else f for f in ("base_link", "camera")
        )
        message = self._message(*(text.encode(errors="replace").decode() for text in (parent, child)), self._stamp(rng))
        translation, rotation = message.transform.translation, message.transform.rotation
        translation.x, translation.y, translation.z = (self._near(rng, 5.0) for _ in range(3))
        rotation.x, rotation.y, rotation.z, rotation.w = (self._near(rng, 1.0) for _ in range(4))
        put = self.buffer.set_transform_static if rng.random() < 0.3 else self.buffer.set_transform
        put(message, "fuzz")

    @staticmethod
    def _near(rng: random.Random, span: float) -> float:
        return some_float(rng) if rng.random() < 0.15 else rng.uniform(-span, span)

    def _stamp(self, rng: random.Random) -> int:
        """Mostly within the buffer's ten seconds, else anything that a header can say."""
        if rng.random() < 0.7:
            return self.STAMP + rng.randrange(-(10**9), 10**9)
        return rng.choice((0, 1, -1, -(2**31), 2**31 - 1, 1_700_000_000)) * 10**9 + rng.choice((0, 1, 10**9 - 1))


class Checkpoints:
    """Checkpoint files: their header, what it says of tensors, and their configuration."""

    refusals = (UserError,)

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        models = share_directory() / "config" / "models"
        self.configs = [read_yaml(path)["model"] for path in sorted(models.glob("*_nano.yaml"))]
        state = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3), "half": torch.ones(4).half()}
        self.metadata = {
            "format": "bevdistill-checkpoint",
            "version": "1",
            "config": json.dumps(self.configs[0]),
            "cameras": json.dumps(["CAM_FRONT", "CAM_BACK"]),
            "training": json.dumps({"steps": 10}),
        }
        self.whole = safetensors.torch.save(state, self.metadata)
        length = int.from_bytes(self.whole[:8], "little")
        self.header, self.body = json.loads(self.whole[8 : 8 + length]), self.whole[8 + length :]

    def run(self, rng: random.Random) -> bool:
        self.path.write_bytes(self._content(rng))
        checkpoint = load_checkpoint(self.path)
        _check(all(torch.isfinite(tensor).all() for tensor in checkpoint.state.values()), "weights that are not finite")
        if rng.random() < 0.05:  # slow: these weights do not fit, which must be told whatever the configuration is
            load_network(checkpoint, torch.device("cpu"), str(self.path))
        return True

    def _content(self, rng: random.Random) -> bytes:
        what = rng.random()
        if what < 0.2:
            return changed_bytes(rng, self.whole)
        header = dict(self.header)
        if what < 0.75:
            config = rng.choice(self.configs)
            for _ in range(rng.randint(1, 2)):
                config = changed_json(rng, config)
            header["__metadata__"] = {**self.metadata, "config": json.dumps(config)}
        elif what < 0.85:
            field = rng.choice(("cameras", "training", "version", "format", "config"))
            value = json.dumps(some_json(rng)) if rng.random() < 0.8 else "[" * rng.choice((3, 2000, 200_000))
            header["__metadata__"] = {**self.metadata, field: value}
        else:
            header = changed_json(rng, header)
        text = json.dumps(header).encode()
        if rng.random() < 0.05:
            text = text[:1] + text[1:-1] + b"," + text[1:]  # everything twice
        length = rng.choice((*COUNTS, 2**63, 2**64 - 1)) if rng.random() < 0.05 else len(text)
        body = self.body if rng.random() < 0.9 else rng.randbytes(rng.randrange(80))
        return length.to_bytes(8, "little") + text + body


class CalibrationFiles:
    """Calibration files: YAML, and what it says of the cameras."""

    refusals = (UserError,)
    ENTRY: ClassVar = {
        "frame_id": "front_optical", "width": 320, "height": 192, "K": [250, 0, 160, 0, 250.5, 96, 0, 0, 1],
        "distortion_model": "plumb_bob", "D": [-0.1, 0.02, 0, 0, 0],
        "base_T_camera": {"translation": [1.5, 0.0, 1.6], "rotation": [-0.5, 0.5, -0.5, 0.5]},
    }  # fmt: skip
    EXTRAS = (
        "&a [*a]", "&a {b: *a}", "!!int ''", "!!timestamp x", "!!binary '?'", "2001-99-99", "<<: *a", "? [a]", "0x" + "f" * 5000,
        "1:60:60", "!!python/object/apply:os.system ['true']", "[" * 300, "\t", "--- a\n--- b", "!!float x", "!!bool x",
        "- &a [x, x, x, x, x, x, x, x]\n" + "".join(
            f"- &{after} [{', '.join([f'*{before}'] * 8)}]\n" for before, after in zip("abcdefghi", "bcdefghij")
        ),
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rig.yaml"

    def run(self, rng: random.Random) -> bool:
        text = json.dumps({"cameras": {"front": changed_json(rng, self.ENTRY)}}).encode()
        if rng.random() < 0.3:
            text = changed_bytes(rng, text)
        if rng.random() < 0.2:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(self.EXTRAS).encode() + (text[at:] if rng.random() < 0.5 else b"")
        self.path.write_bytes(text)
        for entry in load_calibration_file(self.path).values():
            _check(entry.base_T_camera is None or np.isfinite(entry.base_T_camera).all(), "base_T_camera is not finite")
        return True


TARGETS: dict[str, type[Target]] = {
    "images": Images,
    "camera_info": CameraInfos,
    "tf": Transforms,
    "checkpoint": Checkpoints,
    "calibration_file": CalibrationFiles,
}
