"""The tree of frames over time, free of ROS.

A link is stored with the child frame and gives the pose of the child in its parent: translation (x, y, z) in m and
unit quaternion (x, y, z, w), so that parent_p = rotate(rotation, child_p) + translation. Times are integer ns; time 0
asks for the latest time that all links of the path share.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import NamedTuple

from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)

LATEST = 0
LOOP = "The tf tree is invalid because it contains a loop."

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Pose(NamedTuple):
    """Pose of a frame in another one."""

    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Quaternion = (0.0, 0.0, 0.0, 1.0)

    def __matmul__(self, other: Pose) -> Pose:
        """a_T_b @ b_T_c = a_T_c."""
        moved = rotate(self.rotation, other.translation)
        translation = tuple(a + b for a, b in zip(moved, self.translation))
        return Pose(translation, multiply(self.rotation, other.rotation))

    def inverse(self) -> Pose:
        x, y, z, w = self.rotation
        back = (-x, -y, -z, w)
        return Pose(tuple(-value for value in rotate(back, self.translation)), back)


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Hamilton product: the rotation b followed by a."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def rotate(q: Quaternion, v: Vector) -> Vector:
    """v turned by the unit quaternion q."""
    x, y, z, w = q
    # v + 2 w (u x v) + 2 u x (u x v), with u the vector part
    cx, cy, cz = y * v[2] - z * v[1], z * v[0] - x * v[2], x * v[1] - y * v[0]
    return (
        v[0] + 2.0 * (w * cx + y * cz - z * cy),
        v[1] + 2.0 * (w * cy + z * cx - x * cz),
        v[2] + 2.0 * (w * cz + x * cy - y * cx),
    )


def slerp(a: Quaternion, b: Quaternion, fraction: float) -> Quaternion:
    """From a to b along the shorter arc."""
    dot = sum(p * q for p, q in zip(a, b))
    if dot < 0.0:
        dot, b = -dot, tuple(-value for value in b)
    angle = math.acos(min(dot, 1.0))
    if angle < 1e-9:
        return a
    weight_a = math.sin((1.0 - fraction) * angle) / math.sin(angle)
    weight_b = math.sin(fraction * angle) / math.sin(angle)
    return tuple(weight_a * p + weight_b * q for p, q in zip(a, b))


def seconds(time: int) -> str:
    return f"{time // 1_000_000_000}.{time % 1_000_000_000:09d}"


@dataclass
class Link:
    """What is known of one child frame: its pose in its parent, by ascending time. A static link holds at any time."""

    static: bool
    authority: str = ""
    times: list[int] = field(default_factory=list)
    entries: list[tuple[str, Pose]] = field(default_factory=list)

    def insert(self, time: int, parent: str, pose: Pose, cache_time: int) -> bool:
        """Add a pose; False if it is older than what the cache keeps."""
        if self.static:
            self.times, self.entries = [LATEST], [(parent, pose)]
            return True
        if self.times:
            oldest_kept = self.times[-1] - cache_time
            stale = bisect.bisect_left(self.times, oldest_kept)
            del self.times[:stale], self.entries[:stale]
            if time < oldest_kept:
                return False
        # after entries of the same time: the newest of them answers
        index = bisect.bisect_right(self.times, time)
        self.times.insert(index, time)
        self.entries.insert(index, (parent, pose))
        return True

    def latest(self) -> tuple[int, str] | None:
        """Time and parent of the latest pose; time 0 of a static link, None of an empty one."""
        return (self.times[-1], self.entries[-1][0]) if self.times else None

    def at(self, time: int) -> tuple[str, Pose]:
        """Parent and pose at `time`. Raises ExtrapolationException."""
        times, entries = self.times, self.entries
        if not times:
            raise ExtrapolationException("Lookup would require extrapolation: the buffer holds no data")
        if self.static or time == LATEST:
            return entries[-1]
        if len(times) == 1 and time != times[0]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation at time {seconds(time)}, "
                f"but only time {seconds(times[0])} is in the buffer"
            )
        if time > times[-1]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the future. Requested time {seconds(time)} "
                f"but the latest data is at time {seconds(times[-1])}"
            )
        if time < times[0]:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the past. Requested time {seconds(time)} "
                f"but the earliest data is at time {seconds(times[0])}"
            )
        before = bisect.bisect_right(times, time) - 1
        parent, pose = entries[before]
        if times[before] == time:
            return parent, pose
        parent_after, pose_after = entries[before + 1]
        if parent_after != parent:
            return parent, pose  # re-parented in between: nothing to interpolate
        fraction = (time - times[before]) / (times[before + 1] - times[before])
        translation = tuple(a + (b - a) * fraction for a, b in zip(pose.translation, pose_after.translation))
        return parent, Pose(translation, slerp(pose.rotation, pose_after.rotation, fraction))


class FrameTree:
    """Links by child frame. Not thread-safe: the caller locks."""

    def __init__(self, cache_time: int):
        self.cache_time = cache_time
        self.links: dict[str, Link] = {}
        self.frames: set[str] = set()

    def insert(
        self,
        child: str,
        parent: str,
        time: int,
        translation: Vector,
        rotation: Quaternion,
        authority: str,
        static: bool,
    ) -> str | None:
        """Add the pose of `child` in `parent`. Returns why it was refused, or None."""
        child, parent = child.removeprefix("/"), parent.removeprefix("/")
        if not child or not parent:
            return f"frame_id '{parent}' and child_frame_id '{child}' must both be set"
        if child == parent:
            return f"frame_id and child_frame_id are both '{child}'"
        if any(math.isnan(value) for value in (*translation, *rotation)):
            return f"the transform of '{child}' holds a NaN"
        norm = math.sqrt(sum(value * value for value in rotation))
        if norm == 0.0:
            return f"the quaternion of '{child}' is zero"
        pose = Pose(tuple(translation), tuple(value / norm for value in rotation))
        link = self.links.get(child)
        if link is None or link.static != static:
            link = self.links[child] = Link(static)
        self.frames.update((child, parent))
        if not link.insert(time, parent, pose, self.cache_time):
            return f"the transform of '{child}' at time {seconds(time)} is older than the buffer's cache time"
        link.authority = authority
        return None

    def clear(self) -> None:
        """Forget all poses that depend on time. Frames stay known, static links stay."""
        for link in self.links.values():
            if not link.static:
                link.times.clear()
                link.entries.clear()

    def validate(self, frame: str, argument: str) -> None:
        """Raises InvalidArgumentException or LookupException for a frame that cannot be looked up."""
        if not frame or frame.startswith("/"):
            why = "cannot start with a '/'" if frame else "cannot be empty"
            raise InvalidArgumentException(f'Invalid argument "{frame}" passed as {argument}: frame ids {why}')
        if frame not in self.frames:
            raise LookupException(f'"{frame}" passed as {argument} does not exist.')

    def _ancestors(self, frame: str) -> list[tuple[str, int]]:
        """(parent, latest time of the link to it) from `frame` to the root."""
        ancestors: list[tuple[str, int]] = []
        visited = {frame}
        while (link := self.links.get(frame)) is not None and (latest := link.latest()) is not None:
            time, frame = latest
            if frame in visited:
                raise LookupException(LOOP)
            visited.add(frame)
            ancestors.append((frame, time))
        return ancestors

    @staticmethod
    def _unconnected(target: str, source: str) -> ConnectivityException:
        return ConnectivityException(
            f"Could not find a connection between '{target}' and '{source}' because they are not part of the same tree."
        )

    def latest_common_time(self, target: str, source: str) -> int:
        """The latest time at which every link between the frames is known; 0 where all of them are static."""
        self.validate(target, "target_frame")
        self.validate(source, "source_frame")
        if target == source:
            latest = self.links[source].latest() if source in self.links else None
            return latest[0] if latest else LATEST
        up_source = [(source, LATEST), *self._ancestors(source)]
        up_target = [(target, LATEST), *self._ancestors(target)]
        depth_in_target = {frame: depth for depth, (frame, _) in enumerate(up_target)}
        for depth, (frame, _) in enumerate(up_source):
            if frame in depth_in_target:
                links = up_source[: depth + 1] + up_target[: depth_in_target[frame] + 1]
                break
        else:
            raise self._unconnected(target, source)
        return min((time for _, time in links if time != LATEST), default=LATEST)

    def lookup(self, target: str, source: str, time: int) -> tuple[Pose, int]:
        """target_T_source at `time`, and the time it holds for. Raises a TransformException."""
        if target == source:
            link = self.links.get(target)
            latest = link.latest() if link is not None and time == LATEST else None
            return Pose(), latest[0] if latest else time
        self.validate(target, "target_frame")
        self.validate(source, "source_frame")
        if time == LATEST:
            time = self.latest_common_time(target, source)
        where = f", when looking up transform from frame [{source}] to frame [{target}]"

        # from the source to the root, as far as the data go
        ancestor_T_source = {source: Pose()}
        # Why it goes no further, as text: a frame that keeps the exception it raises is freed by the garbage collector alone,
        # and all frames that have called it, with what they hold.
        frame, cut_off = source, ""
        while (link := self.links.get(frame)) is not None:
            try:
                parent, parent_T_frame = link.at(time)
            except ExtrapolationException as error:
                cut_off = f"{error}{where}"  # the path may branch off below
                break
            if parent in ancestor_T_source:
                raise LookupException(LOOP)
            ancestor_T_source[parent] = parent_T_frame @ ancestor_T_source[frame]
            frame = parent

        # from the target to the first frame above it that is above the source too
        ancestor_T_target = Pose()
        frame, visited = target, {target}
        while frame not in ancestor_T_source:
            link = self.links.get(frame)
            if link is None:
                raise ExtrapolationException(cut_off) if cut_off else self._unconnected(target, source)
            try:
                frame, parent_T_frame = link.at(time)
            except ExtrapolationException as error:
                raise ExtrapolationException(f"{error}{where}") from None
            if frame in visited:
                raise LookupException(LOOP)
            visited.add(frame)
            ancestor_T_target = parent_T_frame @ ancestor_T_target
        return ancestor_T_target.inverse() @ ancestor_T_source[frame], time

    def can_lookup(self, target: str, source: str, time: int) -> tuple[bool, str]:
        """Whether `lookup` would answer, and why not."""
        try:
            self.lookup(target, source, time)
        except TransformException as error:
            return False, str(error)
        return True, ""
