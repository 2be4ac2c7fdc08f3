"""Point clouds of any make."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bevdistill_ros.geometry import make_transform, rotation_z, transform_points
from bevdistill_ros.training.convert.point_clouds import MOMENTS, Cloud, compensated, count_inside, read_cloud

STAMP = 1_700_000_000_123_456_789
DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def message(fields: list[tuple[str, str]], columns: dict[str, np.ndarray], **options) -> SimpleNamespace:
    """A PointCloud2 of those fields, in that order; ``gap`` bytes before each, ``big`` endian, ``height`` lines with ``pad``."""
    gap, big = options.get("gap", 0), options.get("big", False)
    offsets, at = [], 0
    for _, kind in fields:
        at += gap
        offsets.append(at)
        at += np.dtype(kind).itemsize
    kind = np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": [(">" if big else "<") + k for _, k in fields],
            "offsets": offsets,
            "itemsize": at + gap,
        }
    )
    count = len(next(iter(columns.values())))
    rows = np.zeros(count, kind)
    for name, values in columns.items():
        rows[name] = values
    height, pad = options.get("height", 1), options.get("pad", 0)
    lines = np.frombuffer(rows.tobytes(), np.uint8).reshape(height, -1)
    lines = np.pad(lines, ((0, 0), (0, pad)))
    return SimpleNamespace(
        fields=[
            SimpleNamespace(name=name, offset=offset, datatype=DATATYPES[k], count=1)
            for (name, k), offset in zip(fields, offsets)
        ],
        is_bigendian=big,
        point_step=kind.itemsize,
        row_step=lines.shape[1],
        height=height,
        width=count // height,
        data=lines.reshape(-1),
    )


RNG = np.random.default_rng(0)
XYZ = RNG.uniform(-50, 50, (60, 3)).astype(np.float32)
COLUMNS = {"x": XYZ[:, 0], "y": XYZ[:, 1], "z": XYZ[:, 2]}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("ring", "u2")], {"intensity": 200.0, "ring": 31}),
        ([("ring", "u1"), ("z", "f4"), ("intensity", "u1"), ("y", "f4"), ("x", "f4")], {"intensity": 200, "ring": 31}),
        ([("x", "f8"), ("y", "f8"), ("z", "f8"), ("reflectivity", "u2"), ("line", "u1")], {"reflectivity": 200, "line": 31}),
    ],
    ids=["usual", "reversed", "double"],
)  # fmt: skip
def test_fields_of_any_order_type_and_place(fields, extra, gap, big):
    columns = {**COLUMNS, **{name: np.full(60, value) for name, value in extra.items()}}
    cloud = read_cloud(message(fields, columns, gap=gap, big=big), STAMP)
    assert cloud.times is None and cloud.points.dtype == np.float32
    assert np.array_equal(cloud.points[:, :3], XYZ)
    assert (cloud.points[:, 3] == 200).all() and (cloud.points[:, 4] == 31).all()


def test_lines_with_padding():
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4")]
    cloud = read_cloud(message(fields, COLUMNS, height=4, pad=9), STAMP)
    assert np.array_equal(cloud.points[:, :3], XYZ)
    assert not cloud.points[:, 3:].any()  # there is neither intensity nor ring


def test_points_that_are_nowhere_are_left_out():
    columns = {name: values.copy() for name, values in COLUMNS.items()}
    columns["x"][[3, 4]] = np.nan, np.inf
    for values in columns.values():
        values[10] = 0.0
    cloud = read_cloud(message([("x", "f4"), ("y", "f4"), ("z", "f4")], columns), STAMP)
    assert np.array_equal(cloud.points[:, :3], np.delete(XYZ, [3, 4, 10], axis=0))


OFFSETS = np.linspace(-0.1, 0.0, 60).round(4)


@pytest.mark.parametrize(
    ("name", "kind", "values", "within"),
    [
        ("time", "f4", OFFSETS, 100),
        ("t", "u4", (OFFSETS + 0.1) * 1e9, 0),
        ("t", "u4", (OFFSETS + 0.1) * 1e6, 0),
        ("time_offset", "i4", OFFSETS * 1e9, 0),
        ("offset_time", "f8", (OFFSETS + 0.1) * 1e9, 1),
        ("timestamp", "f8", STAMP * 1e-9 + OFFSETS, 1000),
        ("timestamp", "f8", STAMP * 1e-3 + OFFSETS * 1e6, 1000),
        ("timestamp", "f8", STAMP + OFFSETS * 1e9, 1000),
    ],
    ids=["s", "ns", "us", "ns_before", "ns_double", "clock_s", "clock_us", "clock_ns"],
)
def test_times_tell_their_unit_and_beginning(name, kind, values, within):
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), (name, kind)]
    if kind != "f4":
        values = np.rint(values) if kind != "f8" else values
    cloud = read_cloud(message(fields, {**COLUMNS, name: values}), STAMP)
    expected = np.rint(OFFSETS * 1e9).astype(np.int64)
    if name in ("t", "offset_time"):
        expected = expected + 100_000_000  # these count from the beginning of the turn
    assert np.abs(cloud.times - expected).max() <= within


def test_a_simulations_clock():
    values = 12.5 + OFFSETS
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("timestamp", "f8")]
    cloud = read_cloud(message(fields, {**COLUMNS, "timestamp": values}), 12_500_000_000)
    assert np.abs(cloud.times - np.rint(OFFSETS * 1e9)).max() <= 1


def test_times_that_make_no_sense_are_none():
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("time", "f4")]
    assert read_cloud(message(fields, {**COLUMNS, "time": np.full(60, 7.0)}), STAMP).times is None
    assert read_cloud(message(fields, {**COLUMNS, "time": np.full(60, np.nan)}), STAMP).times is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fields": []}, "no 'x', only nothing"),
        ({"width": 61}, "too few for 1x61 points"),
        ({"point_step": 10}, "'z' lies beyond point_step 10"),
    ],
    ids=["fields", "width", "step"],
)
def test_contradictory_clouds_are_refused(change, text):
    cloud = message([("x", "f4"), ("y", "f4"), ("z", "f4")], COLUMNS)
    for name, value in change.items():
        setattr(cloud, name, value)
    with pytest.raises(ValueError, match=text):
        read_cloud(cloud, STAMP)
    cloud = message([("x", "f4"), ("y", "f4"), ("z", "f4")], COLUMNS)
    cloud.fields[0].datatype = 9
    with pytest.raises(ValueError, match="datatype 9"):
        read_cloud(cloud, STAMP)


def test_an_empty_cloud():
    cloud = read_cloud(
        message([("x", "f4"), ("y", "f4"), ("z", "f4"), ("time", "f4")], {n: np.zeros(0) for n in "xyz"}), STAMP
    )
    assert cloud.points.shape == (0, 5) and cloud.times.shape == (0,)


@pytest.mark.parametrize("moments", [5, 5000])
def test_compensation_takes_the_motion_out(moments):
    """A sensor that drives at 10 m/s and turns at 0.5 rad/s; with many moments, in steps."""

    def pose(after: int) -> np.ndarray:
        t = after * 1e-9
        return make_transform(rotation_z(0.5 * t), (10 * t, 0, 0))

    rng = np.random.default_rng(1)
    world = rng.uniform(-30, 30, (5000, 3))
    times = -np.rint(np.linspace(0, 1e8, moments)).astype(np.int64)[rng.integers(0, moments, 5000)]
    own = np.array([transform_points(np.linalg.inv(pose(int(t))), p) for t, p in zip(times, world)])
    points = np.column_stack([own, np.ones((5000, 2))]).astype(np.float32)
    found = compensated(Cloud(points, times), pose)
    step = 0.0 if moments <= MOMENTS else 0.1 / MOMENTS / 2 * (10 + 0.5 * 45)
    assert np.abs(found[:, :3] - world).max() <= step + 1e-4
    assert np.abs(points[:, :3] - world).max() > 1.0
    assert (found[:, 3:] == 1).all()


def test_points_in_a_turned_box():
    global_T_box = make_transform(rotation_z(0.7), (5.0, -3.0, 1.0))
    rng = np.random.default_rng(2)
    points = rng.uniform(-6, 6, (4000, 3)) + (5.0, -3.0, 1.0)
    local = transform_points(np.linalg.inv(global_T_box), points)
    expected = int((np.abs(local) <= np.array([4.0, 2.0, 1.5]) / 2).all(1).sum())
    assert count_inside(points, np.linalg.inv(global_T_box), np.array([4.0, 2.0, 1.5])) == expected > 10
