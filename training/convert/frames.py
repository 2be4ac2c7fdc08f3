"""The tree of frames over a whole recording: poses as they were published, and between them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from bevdistill_ros.geometry import invert, make_transform, quaternion_from_rotation, rotation_from_quaternion


class Unconnected(Exception):
    """No chain of transforms joins the two frames, at whatever time. The text says so."""


class NoPoseThen(Exception):
    """The frames are joined, but not at the time asked for. The text says why, without the time."""


class _Link:
    """Poses of a frame in its parent, by time; ``parent`` is told by the first one."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent, self.static = parent, static
        self.stamps = array("q")
        self.poses = array("d")  # seven a stamp: x, y, z, qx, qy, qz, qw
        self._sorted = True

    def add(self, stamp: int, pose: Sequence[float]) -> None:
        if self.static:
            del self.stamps[:], self.poses[:]
        elif self.stamps and stamp <= self.stamps[-1]:
            if stamp == self.stamps[-1]:
                return
            self._sorted = False
        self.stamps.append(stamp)
        self.poses.extend(pose)

    def at(self, stamp: int, max_gap: int, max_extrapolation: int) -> np.ndarray:
        """parent_T_frame."""
        if self.static:
            return self._matrix(0)
        stamps = self.stamps
        after = bisect_right(stamps, stamp)
        if after and stamps[after - 1] == stamp:
            return self._matrix(after - 1)
        if after == 0 or after == len(stamps):
            beyond = stamps[0] - stamp if after == 0 else stamp - stamps[-1]
            if beyond > max_extrapolation or len(stamps) < 2:
                raise NoPoseThen("before the first transform" if after == 0 else "after the last transform")
            after = min(max(after, 1), len(stamps) - 1)
        gap = stamps[after] - stamps[after - 1]
        if gap > max_gap:
            raise NoPoseThen(f"transforms are more than {max_gap / 1e6:g} ms apart there")
        return _between(self._row(after - 1), self._row(after), (stamp - stamps[after - 1]) / gap)

    def _row(self, index: int) -> np.ndarray:
        return np.array(self.poses[7 * index : 7 * index + 7])

    def _matrix(self, index: int) -> np.ndarray:
        row = self._row(index)
        return make_transform(rotation_from_quaternion(row[3:]), row[:3])

    def sort(self) -> None:
        if self._sorted:
            return
        stamps, order = np.unique(np.array(self.stamps, np.int64), return_index=True)
        rows = np.array(self.poses).reshape(-1, 7)[order]
        self.stamps, self.poses = array("q", stamps.tobytes()), array("d", rows.tobytes())
        self._sorted = True


class Frames:
    """Transforms between frames at any time of a recording.

    Args:
        max_gap: ns between two poses that are interpolated.
        max_extrapolation: ns beyond the first and the last pose, with the velocity there.
    """

    def __init__(self, max_gap: int, max_extrapolation: int) -> None:
        self.max_gap, self.max_extrapolation = max_gap, max_extrapolation
        self._links: dict[str, _Link] = {}

    @property
    def names(self) -> list[str]:
        """All frames."""
        return sorted({*self._links, *(link.parent for link in self._links.values())})

    def parent(self, frame: str) -> str | None:
        """The frame that a frame hangs from."""
        return self._links[frame].parent if frame in self._links else None

    def moves(self, frame: str) -> bool:
        """Whether a frame moves against the one that it hangs from."""
        return frame in self._links and not self._links[frame].static

    def add(self, parent: str, child: str, stamp: int, pose: Sequence[float], static: bool) -> str | None:
        """Add parent_T_child, (x, y, z, qx, qy, qz, qw). Returns why it cannot be, or None.

        Between two poses a frame moves straight and turns steadily, the shorter way round. A frame has one parent.
        """
        parent, child = parent.removeprefix("/"), child.removeprefix("/")
        values = np.asarray(pose, np.float64)
        if not parent or not child or parent == child:
            return "a frame without a name, or in itself"
        if not np.isfinite(values).all() or np.linalg.norm(values[3:]) < 1e-6:
            return "not a rigid transform"
        link = self._links.get(child)
        if link is None:
            link = self._links[child] = _Link(parent, static)
        if link.parent != parent:
            return f"{child} hangs from {link.parent} and from {parent}; the first is taken"
        if link.static != static:
            return f"{child} is static and moves; the first is taken"
        link.add(stamp, pose)
        return None

    def finish(self) -> None:
        """Make ready for ``lookup``, when all poses are there."""
        for link in self._links.values():
            link.sort()

    def copy_static(self) -> Frames:
        """The same static transforms and nothing else."""
        other = Frames(self.max_gap, self.max_extrapolation)
        other._links = {name: link for name, link in self._links.items() if link.static}
        return other

    def lookup(self, target: str, source: str, stamp: int) -> np.ndarray:
        """target_T_source (4, 4) at a time.

        Raises:
            Unconnected, NoPoseThen
        """
        target, source = target.removeprefix("/"), source.removeprefix("/")
        above_target, above_source = self._chain(target), self._chain(source)
        common = next((frame for frame in above_source if frame in above_target), None)
        if common is None:
            raise Unconnected(
                f"no transforms join '{source}' and '{target}'; there are {', '.join(self.names) or 'none'}"
            )
        return invert(self._up(above_target, common, stamp)) @ self._up(above_source, common, stamp)

    def _up(self, chain: list[str], ancestor: str, stamp: int) -> np.ndarray:
        """ancestor_T_frame of the chain's first frame."""
        T = np.eye(4)
        for frame in chain[: chain.index(ancestor)]:
            try:
                T = self._links[frame].at(stamp, self.max_gap, self.max_extrapolation) @ T
            except NoPoseThen as error:
                raise NoPoseThen(f"no pose of {frame} in {self._links[frame].parent}: {error}") from None
        return T

    def _chain(self, frame: str) -> list[str]:
        """A frame and all above it."""
        chain = [frame]
        while (link := self._links.get(chain[-1])) is not None:
            if link.parent in chain:
                raise Unconnected(f"the transforms above '{frame}' form a loop at '{link.parent}'")
            chain.append(link.parent)
        return chain


def interpolate(a: np.ndarray, b: np.ndarray, fraction: float) -> np.ndarray:
    """The (4, 4) transform a part of the way from a to b: straight, and turning steadily the shorter way round."""
    rows = [np.concatenate([T[:3, 3], quaternion_from_rotation(T[:3, :3])]) for T in (a, b)]
    return _between(*rows, fraction)


def _between(a: np.ndarray, b: np.ndarray, fraction: float) -> np.ndarray:
    """Of rows x, y, z, qx, qy, qz, qw."""
    p, q = a[3:] / np.linalg.norm(a[3:]), b[3:] / np.linalg.norm(b[3:])
    dot = float(p @ q)
    if dot < 0:
        q, dot = -q, -dot
    angle = np.arccos(min(dot, 1.0))
    if angle < 1e-7:
        mixed = p + fraction * (q - p)
    else:
        mixed = (np.sin((1 - fraction) * angle) * p + np.sin(fraction * angle) * q) / np.sin(angle)
    return make_transform(rotation_from_quaternion(mixed), a[:3] + fraction * (b[:3] - a[:3]))
