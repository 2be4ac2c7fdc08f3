"""Rate and latency against their band, and drops in words."""

from __future__ import annotations

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.node.diagnostics import ERROR, WARN
from bevdistill_ros.node.drops import DropWatch
from bevdistill_ros.node.pace import Pace, percentile
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.synchroniser import DUPLICATE, LATE, REASONS, Counters

BAND = Settings(max_latency_ms=200.0, min_rate_hz=5.0, max_rate_hz=12.0)


def pace(rate_hz: float, latency_ms: float, count: int = 30, lacking=()) -> tuple[Pace, float]:
    made = Pace()
    for i in range(count):
        made.published(100.0 + i / rate_hz, latency_ms, lacking)
    return made, 100.0 + (count - 1) / rate_hz


@pytest.mark.parametrize(
    ("rate_hz", "latency_ms", "texts"),
    [
        (10.0, 100.0, []),
        (4.0, 100.0, ["4.0 sets a second, fewer than min_rate_hz = 5"]),
        (20.0, 100.0, ["20.0 sets a second, more than max_rate_hz = 12"]),
        (10.0, 300.0, ["boxes come 300 ms after their images, later than max_latency_ms = 200"]),
        (10.0, 3.6e6, ["the images' stamps are 3600.0 s behind this node's clock"]),
        (10.0, -3.6e6, ["the images' stamps are 3600.0 s ahead of this node's clock"]),
    ],
)
def test_what_leaves_the_band_is_told(rate_hz, latency_ms, texts) -> None:
    made, now = pace(rate_hz, latency_ms)
    found = made.troubles(BAND, now)
    assert len(found) == len(texts) and all(t.text.startswith(text) for t, text in zip(found, texts)), found
    off = Settings(max_latency_ms=0.0, min_rate_hz=0.0, max_rate_hz=0.0)
    assert made.troubles(off, now) == []


def test_one_late_set_is_no_trouble_and_the_percentiles_show_it() -> None:
    made, now = pace(10.0, 100.0, count=40)
    made.published(now + 0.1, 5000.0, ())
    assert made.troubles(BAND, now + 0.1) == []
    values = made.values(now + 0.1)
    assert values["latency p50 (ms)"] == "100.0" and values["latency p99 (ms)"] == values["latency (ms)"] == "5000.0"


def test_rate_falls_while_nothing_comes() -> None:
    made, now = pace(10.0, 100.0)
    assert made.rate(now) == pytest.approx(10.0) and made.rate(now + 2.0) == pytest.approx(1.0)
    assert Pace().rate(1.0) is None and Pace().values(1.0) == {} and Pace().troubles(BAND, 1.0) == []


def test_a_camera_that_comes_and_goes_is_told() -> None:
    made = Pace()
    for i in range(10):
        made.published(100.0 + i / 10, 50.0, ("b",) if i % 2 else ())
    (found,) = made.partial(101.0)
    assert found.text == "without b in 5 of the last 10 sets" and found.level == WARN
    assert made.partial(104.0) == []


def test_percentiles_are_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0 and percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(
    ("values", "text"),
    [({"min_rate_hz": 5.0, "max_rate_hz": 4.0}, "max_rate_hz"), ({"frozen_after": 1}, "frozen_after")],
)
def test_bands_that_nothing_can_keep_are_refused(values, text) -> None:
    with pytest.raises(UserError, match=text):
        Settings.from_values(values)


def counters(received: int, **dropped: int) -> Counters:
    made = Counters.zero(("a", "b"))
    made.received["a"] = received
    for reason, count in dropped.items():
        assert reason in REASONS
        made.dropped[reason]["a"] = count
    return made


def test_drops_of_the_last_two_seconds_are_told_and_then_no_more() -> None:
    watch = DropWatch()
    assert watch.update(counters(10, **{LATE: 3}), 100.0) == {"a": [], "b": []}  # from before anybody looked
    found = watch.update(counters(20, **{LATE: 5, DUPLICATE: 1}), 101.0)["a"]
    assert [t.level for t in found] == [WARN, WARN]
    assert any(t.text.startswith("2 of its last 10 images came when their set had gone on") for t in found)
    assert any(t.text.startswith("1 of its last 10 images repeat an earlier stamp") for t in found)
    for second in range(4):
        last = watch.update(counters(30 + second, **{LATE: 5, DUPLICATE: 1}), 102.0 + second)
    assert last == {"a": [], "b": []}


def test_a_camera_of_which_every_image_is_dropped_is_an_error() -> None:
    watch = DropWatch()
    watch.update(counters(10), 100.0)
    (found,) = watch.update(counters(20, **{DUPLICATE: 10}), 101.0)["a"]
    assert found.level == ERROR
