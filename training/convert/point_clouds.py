"""sensor_msgs/PointCloud2 of any make to nuScenes' points, each brought to the time of the sweep's stamp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevdistill_ros.geometry import invert

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""NumPy's names of sensor_msgs/PointField's data types."""

INTENSITY = ("intensity", "reflectivity")
RING = ("ring", "channel", "line", "laser_id")
TIME = ("t", "time", "timestamp", "time_offset", "offset_time", "time_stamp")

LONGEST_TURN = 10**9
"""ns. Per-point times further from the stamp are no times of that sweep."""

MOMENTS = 256
"""Poses a sweep, at most: of a turn of 100 ms, one every 0.4 ms."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points as they were measured.

    Attributes:
        points: (N, 5) float32 x, y, z, intensity, ring; zeros where the sensor gives none.
        times: (N,) int64 ns from the stamp to each point's time; None where there are none.
        strange: there are times, but none that could be of this sweep.
    """

    points: np.ndarray
    times: np.ndarray | None
    strange: bool = False


def read_cloud(message: Any, stamp: int) -> Cloud:
    """The points of a message that are somewhere: NaN and the sensor's own position, which say 'no echo', are left out.

    Times may be absolute or from the stamp, in seconds (floating point), ns or us (whole numbers); they tell by their size.

    Raises:
        ValueError: the message contradicts itself, or has no x, y, z. The text names the field.
    """
    fields = {field.name: field for field in message.fields}
    if missing := [name for name in "xyz" if name not in fields]:
        raise ValueError(f"field fields has no '{missing[0]}', only {', '.join(fields) or 'nothing'}")
    names = {"x": "x", "y": "y", "z": "z"}
    for ours, theirs in (("intensity", INTENSITY), ("ring", RING), ("time", TIME)):
        if (name := next((name for name in theirs if name in fields), None)) is not None:
            names[ours] = name
    rows = _rows(message, {ours: fields[name] for ours, name in names.items()})
    points = np.zeros((len(rows), 5), np.float32)
    for column, name in enumerate(("x", "y", "z", "intensity", "ring")):
        if name in names:
            points[:, column] = rows[name]
    seen = np.isfinite(points[:, :3]).all(1) & points[:, :3].any(1)
    times = _times(rows["time"][seen], stamp) if "time" in names else None
    return Cloud(np.nan_to_num(points[seen]), times, "time" in names and times is None)


def _rows(message: Any, fields: dict[str, Any]) -> np.ndarray:
    """Structured array of the wanted fields of all points."""
    order = ">" if message.is_bigendian else "<"
    for field in fields.values():
        if field.datatype not in _TYPES:
            raise ValueError(f"field '{field.name}' has the unknown datatype {field.datatype}")
        if field.offset + np.dtype(_TYPES[field.datatype]).itemsize > message.point_step:
            raise ValueError(f"field '{field.name}' lies beyond point_step {message.point_step}")
    kind = np.dtype(
        {
            "names": list(fields),
            "formats": [order + _TYPES[field.datatype] for field in fields.values()],
            "offsets": [field.offset for field in fields.values()],
            "itemsize": message.point_step,
        }
    )
    data = np.frombuffer(message.data, np.uint8)
    height, width, step = message.height, message.width, message.point_step
    if height * width == 0:
        return np.zeros(0, kind)
    row_step = message.row_step if height > 1 else width * step
    if row_step < width * step or data.size < (height - 1) * row_step + width * step:
        raise ValueError(
            f"field data has {data.size} bytes, too few for {height}x{width} points of {step} bytes (row_step {message.row_step})"
        )
    lines = [data[row * row_step : row * row_step + width * step] for row in range(height)]
    return np.concatenate(lines).view(kind) if height > 1 else lines[0].view(kind)


def _times(values: np.ndarray, stamp: int) -> np.ndarray | None:
    """ns from the stamp."""
    if not len(values):
        return np.zeros(0, np.int64)
    if not np.isfinite(values.astype(np.float64)).all():
        return None
    largest, span = float(np.abs(values.astype(np.float64)).max()), float(values.max()) - float(values.min())
    if values.dtype.kind in "iu":  # 32 bits: from the stamp
        times = values.astype(np.int64) * (1 if span >= 2_000_000 else 1000)
    elif largest > 1.2e9 or (stamp > LONGEST_TURN and abs(float(values[0]) * 1e9 - stamp) < LONGEST_TURN):
        # Of the clock: seconds, ms, us or ns since 1970, three digits apart; or a simulation's seconds.
        unit = next(
            unit for unit, limit in ((10**9, 1e11), (10**6, 1e14), (10**3, 1e17), (1, np.inf)) if largest < limit
        )
        base = stamp // unit  # subtracted first, for the precision
        times = _whole((values.astype(np.float64) - base) * unit) - (stamp - base * unit)
    else:
        unit = next(unit for unit, limit in ((10**9, 10.0), (10**3, 1e7), (1, np.inf)) if largest < limit)
        times = _whole(values.astype(np.float64) * unit)
    return times if np.abs(times).max() <= LONGEST_TURN else None


def _whole(values: np.ndarray) -> np.ndarray:
    """int64, with what is too large for it at a value that no sweep has."""
    return np.rint(np.clip(values, -1e18, 1e18)).astype(np.int64)


def compensated(cloud: Cloud, global_T_lidar: Callable[[int], np.ndarray]) -> np.ndarray:
    """(N, 5) float32: the points where they would lie in the LiDAR's frame at the stamp if the world stood still.

    Args:
        cloud: with times.
        global_T_lidar: the LiDAR's pose (4, 4) so many ns after the stamp.
    """
    times = cloud.times
    assert times is not None
    moments, index = np.unique(times, return_inverse=True)
    if len(moments) > MOMENTS:
        first, last = int(moments[0]), int(moments[-1])
        index = np.rint((times - first) * ((MOMENTS - 1) / (last - first))).astype(int)
        moments = np.rint(np.linspace(first, last, MOMENTS)).astype(np.int64)
    lidar_T_global = invert(global_T_lidar(0))
    motion = np.array([lidar_T_global @ global_T_lidar(int(moment)) for moment in moments]).reshape(-1, 4, 4)
    result = cloud.points.copy()
    xyz = cloud.points[:, :3].astype(np.float64)
    result[:, :3] = np.einsum("nij,nj->ni", motion[index, :3, :3], xyz) + motion[index, :3, 3]
    return result


def count_inside(points: np.ndarray, box_T_points: np.ndarray, size: np.ndarray) -> int:
    """How many points (N, 3) lie in a box of ``size`` (length, width, height) about its frame's origin."""
    half = np.asarray(size) / 2
    reach = float(np.linalg.norm(half))
    centre = -box_T_points[:3, :3].T @ box_T_points[:3, 3]
    near = points
    for axis in range(2):  # one after the other, so that few are left to look at in full
        near = near[np.abs(near[:, axis] - centre[axis]) <= reach]
    return int((np.abs(near @ box_T_points[:3, :3].T + box_T_points[:3, 3]) <= half).all(1).sum())
