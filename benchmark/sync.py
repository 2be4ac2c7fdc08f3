"""Synchronisers on simulated camera streams whose truth is known: does a set ever mix two capture instants?

    python benchmark/sync.py                                        # 10 simulated minutes a stream; a table
    python benchmark/sync.py --json benchmark/results/sync.json

Beside each other, on the very same messages: bevdistill_ros.synchroniser and message_filters'
ApproximateTimeSynchronizer (of whatever ROS 2 environment is sourced) with the usual slop of 0.1 s and with one chosen
for the rig.

Every stream: six cameras, stamps with +-1 ms of jitter, 2 % independent loss, transport of 5 to 30 ms, so that
messages of different cameras overtake each other. Rigs: `nuscenes_12hz`, 12 Hz with the offsets of a nuScenes keyframe
(42.6 ms in all), and `even_10hz`, 10 Hz with the cameras 16.6 ms apart (83 ms in all; Autoware's TIER IV rig is of
this kind). Variants: offsets given; offsets given wrongly by up to 3 ms; learnt from the stream; a camera lost for a
tenth of the time in the middle; a bag of 20 s played in a loop.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bevdistill_ros.synchroniser import CameraSet, Synchroniser

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result

try:
    import message_filters
    from rclpy.time import Time
except ImportError:
    message_filters = None

MS = 1_000_000  # ns
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
NUSCENES_OFFSETS = (0, 7_616_000, 15_495_000, 23_049_000, 32_681_000, 42_579_000)  # a real keyframe
EVEN_OFFSETS = tuple(round(index * 83 * MS / 5) for index in range(6))
START = 1_700_000_000_000_000_000
COMMON_SLOP = 0.1


@dataclass(frozen=True)
class Stream:
    """What the simulated rig does, and what the synchroniser is told about it."""

    period_ns: int
    offsets_ns: tuple[int, ...]
    fitting_slop: float  # s, the best for message_filters on this rig
    given: tuple[int, ...] | None  # None: to be learnt
    loss: float = 0.02
    jitter_ns: int = MS
    transport_ns: tuple[int, int] = (5 * MS, 30 * MS)
    lost_camera: int | None = None
    loop_s: int | None = None


def _streams() -> dict[str, Stream]:
    rigs = {
        "nuscenes_12hz": Stream(round(1e9 / 12), NUSCENES_OFFSETS, 0.05, NUSCENES_OFFSETS),
        "even_10hz": Stream(100 * MS, EVEN_OFFSETS, 0.09, EVEN_OFFSETS),
    }
    streams = {}
    for name, rig in rigs.items():
        streams[name] = rig
        wrong = tuple(offset + error * MS for offset, error in zip(rig.offsets_ns, (3, -3, 2, -1, -3, 3)))
        streams[f"{name}_offsets_3ms_off"] = replace(rig, given=wrong)
        streams[f"{name}_learnt"] = replace(rig, given=None)
        streams[f"{name}_camera_lost"] = replace(rig, lost_camera=3)
        streams[f"{name}_loop"] = replace(rig, loop_s=20)
    return streams


@dataclass(frozen=True)
class Message:
    """One simulated image. `instant` is the truth, which no synchroniser sees."""

    arrival_ns: int
    camera: str
    stamp_ns: int
    instant: int


def simulate(stream: Stream, seconds: float, seed: int) -> tuple[list[Message], dict[int, frozenset[str]]]:
    """The messages in order of arrival, and the cameras delivered of every instant."""
    rng = random.Random(seed)
    frames = int(seconds * 1e9) // stream.period_ns
    per_loop = frames if stream.loop_s is None else stream.loop_s * 1_000_000_000 // stream.period_ns
    messages, delivered = [], {}
    for instant in range(frames):
        there = set()
        for index, camera in enumerate(CAMERAS):
            jitter = rng.randint(-stream.jitter_ns, stream.jitter_ns)
            transport = rng.randint(*stream.transport_ns)
            out = index == stream.lost_camera and 0.45 * frames <= instant < 0.55 * frames
            if rng.random() < stream.loss or out:
                continue
            exposed = stream.offsets_ns[index] + jitter
            stamp = START + (instant % per_loop) * stream.period_ns + exposed
            messages.append(Message(START + instant * stream.period_ns + exposed + transport, camera, stamp, instant))
            there.add(camera)
        delivered[instant] = frozenset(there)
    messages.sort(key=lambda message: message.arrival_ns)
    return messages, delivered


def run_ours(policy: Synchroniser, messages: list[Message]) -> tuple[list[tuple[int, CameraSet]], float]:
    """(time of emission, set) of all sets, and the microseconds of computation a message. Deadlines fire when they
    are due."""
    emitted = []
    begin = time.perf_counter()
    for message in messages:
        deadline = policy.next_deadline_ns
        while deadline is not None and deadline < message.arrival_ns:
            emitted += [(deadline, item) for item in policy.poll(deadline)]
            deadline = policy.next_deadline_ns
        sets = policy.add(message.camera, message.stamp_ns, message, message.arrival_ns)
        if sets:
            emitted += [(message.arrival_ns, item) for item in sets]
    spent = time.perf_counter() - begin
    end = messages[-1].arrival_ns + 10**9
    return emitted + [(end, item) for item in policy.flush(end)], 1e6 * spent / len(messages)


@dataclass(frozen=True)
class _Header:
    stamp: Any


@dataclass(frozen=True)
class _Stamped:
    header: _Header
    truth: Message


def run_stock(messages: list[Message], slop: float, queue_size: int = 5) -> tuple[list[tuple[Message, ...]], float]:
    """The sets of message_filters' approximate policy, and its microseconds a message (with rclpy's own Time)."""
    sources = {camera: message_filters.SimpleFilter() for camera in CAMERAS}
    policy = message_filters.ApproximateTimeSynchronizer(list(sources.values()), queue_size, slop)
    emitted: list[tuple[Message, ...]] = []
    policy.registerCallback(lambda *images: emitted.append(tuple(image.truth for image in images)))
    stamped = [_Stamped(_Header(Time(nanoseconds=message.stamp_ns)), message) for message in messages]
    begin = time.perf_counter()
    for image in stamped:
        sources[image.truth.camera].signalMessage(image)
    return emitted, 1e6 * (time.perf_counter() - begin) / len(messages)


def measure(stream: Stream, seconds: float, seed: int = 0) -> dict[str, Any]:
    """All figures of one stream."""
    messages, delivered = simulate(stream, seconds, seed)
    offsets = None if stream.given is None else dict(zip(CAMERAS, stream.given))
    policy = Synchroniser(CAMERAS, offsets)
    emitted, us = run_ours(policy, messages)

    mixed = right_complete = flagged = wrongly_partial = out_of_order = 0
    late_complete, late_partial = [], []
    previous = -1
    for now, item in emitted:
        instants = {message.instant for message in item.messages.values()}
        if len(instants) > 1:
            mixed += 1
            continue
        (instant,) = instants
        out_of_order += instant <= previous
        previous = instant
        waited = (now - max(message.arrival_ns for message in item.messages.values())) / MS
        if item.complete:
            right_complete += 1
            late_complete.append(waited)
        elif frozenset(item.messages) == delivered[instant]:
            flagged += 1
            late_partial.append(waited)
        else:
            wrongly_partial += 1
    counters = policy.counters
    count = len(CAMERAS)
    figures = {
        "mixed_sets": mixed,
        "complete_frames": sum(len(there) == count for there in delivered.values()),
        "emitted_complete": right_complete,
        "partial_frames": sum(policy.min_cameras <= len(there) < count for there in delivered.values()),
        "partial_flagged": flagged,  # the mask is exactly what arrived
        "partial_though_more_arrived": wrongly_partial,
        "out_of_order": out_of_order,
        "us_per_message": round(us, 2),
        "added_ms_complete": _quantiles(late_complete),  # from the arrival of the set's last image to the set
        "added_ms_partial": _quantiles(late_partial),
        "offsets": policy.offset_state,
        "resets": counters.resets,
        "dropped": {reason: sum(each.values()) for reason, each in counters.dropped.items() if any(each.values())},
    }
    if message_filters is not None:
        stock = {}
        for slop in (COMMON_SLOP, stream.fitting_slop):
            sets, stock_us = run_stock(messages, slop)
            stock[f"slop_{slop}"] = {
                "sets": len(sets),
                "mixed_sets": sum(len({message.instant for message in images}) > 1 for images in sets),
                "us_per_message": round(stock_us, 2),
            }
        figures["stock_mixed_sets"] = stock[f"slop_{COMMON_SLOP}"]["mixed_sets"]
        figures["stock"] = stock
    return figures


def _quantiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        name: round(ordered[int(q * (len(ordered) - 1))], 2) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))
    }


def _rows(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f"{'stream':32} {'mixed':>6} {'complete':>13} {'partial':>11} {'us':>6}   stock: mixed / sets, by slop"
    for name, row in figures.items():
        stock = ", ".join(f"{s['mixed_sets']} / {s['sets']} ({slop[5:]} s)" for slop, s in row.get("stock", {}).items())
        complete = f"{row['emitted_complete']} / {row['complete_frames']}"
        partial = f"{row['partial_flagged']} / {row['partial_frames']}"
        refused = "" if row["offsets"] in ("given", "learned") else f"  offsets {row['offsets']}: nothing emitted"
        columns = f"{name:32} {row['mixed_sets']:6} {complete:>13} {partial:>11} {row['us_per_message']:6}"
        yield f"{columns}   {stock}{refused}"


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated time of a stream (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if message_filters is None:
        report("message_filters cannot be imported: no figures of the stock policy (source a ROS 2 environment)")
    figures = {name: measure(stream, 60 * options.minutes, options.seed) for name, stream in _streams().items()}
    for row in _rows(figures):
        report(row)
    if options.json:
        write_result(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
