"""Where the cameras are and how they image: from CameraInfo and TF, or from a YAML file in place of either."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tf2_ros
from rclpy.time import Time

from bevdistill_ros.camera_info import Intrinsics, intrinsics_from_info
from bevdistill_ros.errors import UserError, brief, name_of
from bevdistill_ros.files import read_yaml
from bevdistill_ros.geometry import (
    MAX_COEFFICIENTS,
    MAX_DISTANCE,
    Camera,
    ego_ref_T_cam,
    make_transform,
    rotation_from_quaternion,
)
from bevdistill_ros.images import MAX_IMAGE_SIDE, check_image_size
from bevdistill_ros.stamps import stamp_ns

# ---------------------------------------------------------------------------------------------------------- YAML file


@dataclass(frozen=True, eq=False)
class FileCalibration:
    """What a calibration file says of one camera; None where it leaves that to CameraInfo, TF or the image."""

    camera: Camera | None = None
    base_T_camera: np.ndarray | None = None
    frame_id: str | None = None


_INTRINSIC_KEYS = ("width", "height", "K", "distortion_model", "D")


def load_calibration_file(path: str | Path) -> dict[str, FileCalibration]:
    """Read a calibration file; config/nuscenes_rig.yaml documents the format.

    Returns:
        By camera name.

    Raises:
        UserError: the file is missing or wrong. The text names the file and the field.
    """
    path = Path(path)
    document = read_yaml(path)
    cameras = document.get("cameras") if isinstance(document, Mapping) else None
    if not isinstance(cameras, Mapping) or not cameras:
        raise UserError(f"{path}: must hold 'cameras:' with one entry a camera")
    named = {name_of(name): entry for name, entry in cameras.items()}
    return {name: _file_camera(f"{path}: cameras.{name}", entry) for name, entry in named.items()}


def _file_camera(where: str, entry: Any) -> FileCalibration:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: must be a mapping")
    known = (*_INTRINSIC_KEYS, "base_T_camera", "frame_id")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise UserError(f"{where}.{name_of(unknown[0])}: unknown field; the fields are {', '.join(known)}")
    camera = None
    if any(key in entry for key in _INTRINSIC_KEYS):
        size = {}
        for key in ("width", "height"):
            value = entry.get(key)
            if type(value) is not int or not 0 < value <= MAX_IMAGE_SIDE:
                raise UserError(f"{where}.{key}: must be a positive number of pixels, not {brief(value)}")
            size[key] = value
        model = entry.get("distortion_model", "plumb_bob")
        K = _numbers(f"{where}.K", entry.get("K"), 9)
        D = _numbers(f"{where}.D", entry.get("D", []), None)
        try:
            check_image_size(size["width"], size["height"])
            camera = Camera(K=K.reshape(3, 3), **size, distortion_model=str(model), D=D)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    mount = None
    if "base_T_camera" in entry:
        pose = entry["base_T_camera"]
        if not isinstance(pose, Mapping) or set(pose) != {"translation", "rotation"}:
            raise UserError(f"{where}.base_T_camera: must hold 'translation: [x, y, z]' and 'rotation: [x, y, z, w]'")
        translation = _numbers(f"{where}.base_T_camera.translation", pose["translation"], 3)
        quaternion = _numbers(f"{where}.base_T_camera.rotation", pose["rotation"], 4)
        if abs(np.linalg.norm(quaternion) - 1) > 0.01:
            raise UserError(
                f"{where}.base_T_camera.rotation: must be a unit quaternion x, y, z, w, not {quaternion.tolist()}"
            )
        mount = make_transform(rotation_from_quaternion(quaternion), translation)
    frame_id = entry.get("frame_id")
    if frame_id is not None and (not isinstance(frame_id, str) or not frame_id):
        raise UserError(f"{where}.frame_id: must be the name of a frame, not {brief(frame_id)}")
    return FileCalibration(camera, mount, frame_id)


def _numbers(where: str, value: Any, count: int | None) -> np.ndarray:
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    # Whole numbers of YAML have any size; a comparison with them is exact where a conversion fails.
    if not numbers or (count is not None and len(value) != count) or not all(abs(v) <= MAX_DISTANCE for v in value):
        raise UserError(
            f"{where}: must be a list of {count or ''} finite numbers, not {brief(value)}".replace("  ", " ")
        )
    return np.array(value, dtype=np.float64)


# ------------------------------------------------------------------------------------------- what is known of a camera


MAX_FRAME_NAME = 255


@dataclass(frozen=True, eq=False)
class Mount:
    """One camera of a set: its image's stamp (ns), and its frame for TF to place, or its pose in the base frame."""

    stamp_ns: int
    frame: str
    base_T_camera: np.ndarray | None = None


class CalibrationStore:
    """What is known of every camera but for TF: from the calibration file, else from its newest CameraInfo.

    Safe to use from several threads.

    Args:
        file: what the calibration file says, by camera.
        rectified: see ``intrinsics_from_info``.
    """

    def __init__(self, file: Mapping[str, FileCalibration], rectified: bool = False) -> None:
        self._file = dict(file)
        self._rectified = rectified
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[Any, Intrinsics | None]] = {}  # last CameraInfo's content, and what it means
        self._frames: dict[str, str] = {}

    def needs_info(self, camera: str) -> bool:
        """Whether this camera's CameraInfo is of use: the file does not say how it images."""
        entry = self._file.get(camera)
        return entry is None or entry.camera is None

    def hear(self, camera: str, info: Any) -> bool:
        """Take a sensor_msgs/CameraInfo, which mostly is the same as the last.

        Returns:
            Whether it takes the place of a different one.

        Raises:
            ValueError: it does not describe a camera, so none is known now; only raised for the first of equal ones.
        """
        content = (
            info.width,
            info.height,
            # As bytes, by which what is no number equals itself; of d no more than what is refused already.
            np.array(info.k).tobytes(),
            np.array(info.p).tobytes(),
            np.array(info.d[: MAX_COEFFICIENTS + 1]).tobytes(),
            info.distortion_model,
            info.binning_x,
            info.binning_y,
        )
        content += (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
        with self._lock:
            self._frames[camera] = info.header.frame_id
            last = self._heard.get(camera)
        if last is not None and last[0] == content:
            return False
        intrinsics = None
        try:
            intrinsics = intrinsics_from_info(info, self._rectified)
        finally:  # an unusable one leaves nothing known
            with self._lock:
                self._heard[camera] = (content, intrinsics)
        return last is not None

    def intrinsics(self, camera: str) -> Intrinsics | None:
        """How the camera images; None if that is not known."""
        if not self.needs_info(camera):
            return Intrinsics(self._file[camera].camera, np.eye(4))  # a file gives the pose of the camera itself
        with self._lock:
            known = self._heard.get(camera)
        return known[1] if known else None

    def mount(self, camera: str, stamp_ns: int, image_frame: str) -> Mount:
        """The camera at one image of it, whose header.frame_id counts if the file names no frame."""
        entry = self._file.get(camera, FileCalibration())
        with self._lock:
            info_frame = self._frames.get(camera, "")
        return Mount(stamp_ns, entry.frame_id or image_frame or info_frame, entry.base_T_camera)


# ----------------------------------------------------------------------------------------------------------------- TF


@dataclass(frozen=True, eq=False)
class RigPoses:
    """Answer of ``TransformSource.attempt``.

    Attributes:
        base_T_camera: (4, 4) by camera: in the base frame at the set's reference time where ``motion_compensated``,
            else as mounted. Cameras whose pose is not known are missing.
        motion_compensated: whether the images' different times were brought to one (true also if they are all the
            same).
        problems: by camera, why its pose is not known or not exact.
        motion_problem: why there was no compensation; empty if there was, or if none is wanted.
    """

    base_T_camera: dict[str, np.ndarray]
    motion_compensated: bool
    problems: dict[str, str]
    motion_problem: str


_FASTEST_TURN = 10.0  # rad/s
_SLACK_M, _SLACK_RAD = 0.05, 0.02  # noise of an odometry, whatever the time between
_FAR_AHEAD_NS = 10_000_000_000  # of what tf2 keeps


class _NotYet(Exception):
    """The transform may still come: its frames are known, its time is ahead of what has been heard."""


class _Unknown(Exception):
    """The transform will not come by waiting; the text says why."""


class TransformSource:
    """Camera poses at a reference time, from a tf2 buffer.

    Uses nothing but ``lookup_transform(target, source, time)`` with no timeout: the caller retries while the node's
    executor goes on receiving transforms.
    """

    def __init__(self, buffer: Any, base_frame: str, fixed_frame: str) -> None:
        self._buffer = buffer
        self._base = base_frame
        self._fixed = fixed_frame

    def attempt(
        self, mounts: Mapping[str, Mount], t_ref: int, max_age_ns: int, last: bool, max_speed: float = math.inf
    ) -> RigPoses | None:
        """Try to place all cameras of a set.

        Args:
            mounts: the cameras of the set.
            t_ref: reference time of the set, ns.
            max_age_ns: how far the newest transform of a moving mount may lie from its image before it is of no use.
            last: no further attempt will be made: do with what there is.
            max_speed: m/s; a base that moves faster within the set has jumped, which nothing can compensate.

        Returns:
            The poses, or None if a transform that is missing may still come (never with ``last``).
        """
        waiting = False
        mounted: dict[str, np.ndarray] = {}
        problems: dict[str, str] = {}
        for name, mount in mounts.items():
            if mount.base_T_camera is not None:
                mounted[name] = mount.base_T_camera
                continue
            if not mount.frame:
                problems[name] = "neither the image nor its CameraInfo has a header.frame_id: the driver must fill it"
                continue
            if len(mount.frame) > MAX_FRAME_NAME:  # which would go into every message about it
                problems[name] = f"header.frame_id has {len(mount.frame)} characters: no frame is named so"
                continue
            try:
                mounted[name] = self._lookup(self._base, mount.frame, mount.stamp_ns)
            except _Unknown as error:
                problems[name] = str(error)
            except _NotYet as error:
                waiting = True
                newest, age_ns = self._newest(self._base, mount.frame, mount.stamp_ns)
                if newest is not None and age_ns <= max_age_ns:
                    mounted[name] = newest
                    problems[name] = f"{error}; used the newest one, {age_ns / 1e6:.0f} ms older"
                else:
                    problems[name] = str(error)

        fixed_T_base: dict[int, np.ndarray] = {}
        motion_problem = ""
        times = {t_ref} | {mount.stamp_ns for mount in mounts.values()}
        moving = len(times) > 1
        if self._fixed and moving:
            for time_ns in sorted(times):
                try:
                    fixed_T_base[time_ns] = self._lookup(self._fixed, self._base, time_ns)
                except (_Unknown, _NotYet) as error:
                    waiting |= isinstance(error, _NotYet)
                    motion_problem = f"motion between the images is not compensated (parameter fixed_frame): {error}"
                    break
        if waiting and not last:
            return None
        if fixed_T_base and not motion_problem:
            motion_problem = self._jump(fixed_T_base, max_speed)
        compensated = not moving or (bool(self._fixed) and not motion_problem)
        if moving and compensated:
            mounted = {
                name: ego_ref_T_cam(fixed_T_base[t_ref], fixed_T_base[mounts[name].stamp_ns], pose)
                for name, pose in mounted.items()
            }
        return RigPoses(mounted, compensated, problems, motion_problem)

    def _jump(self, fixed_T_base: Mapping[int, np.ndarray], max_speed: float) -> str:
        """What is impossible in the base's motion through the set; empty if nothing is."""
        times = sorted(fixed_T_base)
        for before, after in itertools.pairwise(times):
            seconds = (after - before) / 1e9
            step = np.linalg.inv(fixed_T_base[before]) @ fixed_T_base[after]
            metres = float(np.linalg.norm(step[:3, 3]))
            turn = math.acos(min(1.0, max(-1.0, (np.trace(step[:3, :3]) - 1) / 2)))
            if metres > max_speed * seconds + _SLACK_M or turn > _FASTEST_TURN * seconds + _SLACK_RAD:
                return (
                    f"motion between the images is not compensated: {self._base} has jumped in {self._fixed}, by "
                    f"{metres:.2f} m and {math.degrees(turn):.1f} degrees within {seconds * 1e3:.0f} ms (parameter max_speed)"
                )
        return ""

    def _lookup(self, target: str, source: str, time_ns: int) -> np.ndarray:
        """``target_T_source`` at a time. Raises _NotYet or _Unknown."""
        try:
            return _matrix(self._buffer.lookup_transform(target, source, Time(nanoseconds=time_ns)))
        except tf2_ros.ExtrapolationException as error:
            # Ahead of what has been heard, or so far back that it is forgotten? Only the first is worth waiting for.
            newest, age_ns = self._newest(target, source, time_ns)
            text = f"no transform {target} <- {source} at the image's time: {_one_line(error)}"
            if newest is not None and age_ns < -_FAR_AHEAD_NS:
                # A clock has jumped, the transforms' or the images'. tf2 takes no transform that is so much older than
                # what it has, so that without this it would never recover from a stamp in the future.
                self._buffer.clear()
                text += f"; the transforms, {-age_ns / 1e9:.0f} s ahead of the image, are forgotten"
            raise (_NotYet if newest is None or age_ns > 0 else _Unknown)(text) from None
        except tf2_ros.TransformException as error:
            raise _Unknown(f"no transform {target} <- {source}: {_one_line(error)}") from None
        except ValueError as error:
            raise _Unknown(f"transform {target} <- {source} is no rigid transform: {error}") from None

    def _newest(self, target: str, source: str, time_ns: int) -> tuple[np.ndarray | None, int]:
        """The newest ``target_T_source``, and by how many ns it is older than ``time_ns`` (negative if it is newer)."""
        try:
            transform = self._buffer.lookup_transform(target, source, Time())
            return _matrix(transform), time_ns - stamp_ns(transform.header.stamp)
        except (tf2_ros.TransformException, ValueError):
            return None, 0


def _matrix(transform: Any) -> np.ndarray:
    """4x4 of a geometry_msgs/TransformStamped. Raises ValueError where it is not a rigid transform."""
    t, q = transform.transform.translation, transform.transform.rotation
    translation = np.array([t.x, t.y, t.z])
    if not (np.abs(translation) <= MAX_DISTANCE).all():
        raise ValueError(f"its translation is {translation.tolist()} m")
    return make_transform(rotation_from_quaternion((q.x, q.y, q.z, q.w)), translation)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
