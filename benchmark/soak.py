"""Half an hour of six cameras with random faults all along: is every complete frame answered, and does anything grow?

    python benchmark/soak.py --minutes 2                                       # a try
    python benchmark/soak.py --json benchmark/results/soak.json                # 30 minutes
    python benchmark/soak.py --minutes 8 --bare                                # what Fast DDS alone keeps, beside it

Six 704x396 JPEG cameras at 10 Hz; rig and node are processes of their own, reliable DDS between them, so that nothing is lost
on the way and the counts must balance. A stand-in for the network tells which pictures it was given (see fault_bench.py), the
rest is the real node. Faults are drawn from fault_list.py, each for 0.3 to 3 s, with 1 to 4 s between them; --seed repeats a
run's choice.

Figures: `complete` frames the rig published whole and healthy; of these `answered` (complete sets of boxes), `superseded` (gave
way to a newer one before the network was free), `failed` (the network failed, and ~/status said so), `partial_at_return` (answered
without a camera whose fault had just ended), `published_late` (answered without a camera; by the rig's own clock an image left it
more than half of the node's deadline after it was due: machine and rig were held up, not the node) and `lost` (none of these:
must be 0). `balance` holds the node's own counts; `listener_held_up_s` says for how long at most this process, which listens, was
not run, because a reliable publisher keeps only so many sets for it. `wrong` counts sets of boxes that rest on mixed, stale or
unflagged images. `rss_growth_pct` and `threads` are the node's after warm-up, `rss_mb_by_minute` is the way there.

The node runs with the Fast DDS profile that docs/node.md advises where memory is watched; with --default-queues it does not, and
its subscriptions keep what their queues once took. With --bare a process that only subscribes to the same topics, by rclpy and
without the profile, runs beside it: `bare_rss_mb_by_minute`.

Exit status 1 if a frame is lost, a count does not balance, a set is wrong, or, of 10 minutes or more, the node has grown by a
percent: before, its allocator still fills up.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from fault_bench import Bench, own_domain
from fault_list import FAULTS
from results_file import write_result
from spoilt_rig import CAMERAS, PERIOD

from bevdistill_ros.stamps import header_ns

RETURN = (
    10  # instants after a fault within which a camera that is back may still be missing: DDS must find its publisher
)
PARAMETERS = {"queue_depth": "30"}
LATE_S = 0.05  # half of the node's deadline_ms
BARE = f"""
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage
rclpy.init()
node = rclpy.create_node("bare")
for camera in {CAMERAS!r}:
    for kind, topic in ((CompressedImage, "image_raw/compressed"), (CameraInfo, "camera_info")):
        node.create_subscription(kind, "/" + camera + "/" + topic, lambda message: None, QoSProfile(depth=30))
rclpy.spin(node)
"""


def process_numbers(pid: int) -> tuple[float, int]:
    """Resident memory in MB and number of threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) / 1024, int(lines["Threads"])


@contextmanager
def bare_subscriber(wanted: bool) -> Iterator[int | None]:
    """Process number of a subscriber without any code of ours."""
    if not wanted:
        yield None
        return
    process = subprocess.Popen([sys.executable, "-c", BARE], stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def soak(
    minutes: float, seed: int, report: Callable[[str], None], give_back: bool = True, bare: bool = False
) -> dict[str, Any]:
    """Run it; returns the figures. ``give_back``: see ``Bench``; ``bare``: see ``bare_subscriber``."""
    random_ = random.Random(seed)
    choice = [fault for fault in FAULTS if fault.soak and fault.setup == "plain"]
    samples: list[tuple[float, float, int]] = []  # s since the start, MB, threads
    bare_mb: list[tuple[float, float]] = []  # s since the start, MB
    held_up = [0.0]  # s by which this process was woken too late
    disturbed: list[tuple[float, float]] = []  # monotonic s
    with (
        Bench(reliable=True, size="soak", parameters=PARAMETERS, give_back=give_back) as bench,
        bare_subscriber(bare) as bare_pid,
    ):
        if not bench.settle():
            raise SystemExit("the node does not become well:\n" + bench.said()[-3000:])
        begun = time.monotonic()

        def pass_time(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end and bench.node.poll() is None:
                if not samples or time.monotonic() - begun - samples[-1][0] >= 2.0:
                    samples.append((time.monotonic() - begun, *process_numbers(bench.node.pid)))
                    if bare_pid is not None:
                        bare_mb.append((samples[-1][0], process_numbers(bare_pid)[0]))
                now = time.monotonic()
                pause = min(0.2, max(0.0, end - now))
                time.sleep(pause)
                held_up.append(time.monotonic() - now - pause)

        told = 0.0
        count = 0
        while time.monotonic() - begun < minutes * 60 and bench.node.poll() is None:
            pass_time(random_.uniform(1.0, 4.0))
            fault = random_.choice(choice)
            since = time.monotonic()
            bench.begin(fault)
            pass_time(random_.uniform(0.3, 3.0))
            bench.mend(fault)
            disturbed.append((since, time.monotonic()))
            count += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                report(
                    f"{(told - begun) / 60:5.1f} min, {count} faults, {len(bench.sets)} sets, {samples[-1][1]:.1f} MB"
                )
        pass_time(2.0)
        healthy = bench.end_rig()
        quiet = lambda: bench.counts().get("pending sets") == 0 and time.monotonic() - bench.sets[-1].at > 2.0  # noqa: E731
        bench.wait(quiet, 20.0)
        time.sleep(1.0)  # for diagnostics of the end
        alive = bench.node.poll() is None
        figures = account(bench, healthy, samples, disturbed, begun)
        figures |= {"faults": count, "seed": seed, "node_alive": alive, "listener_held_up_s": round(max(held_up), 3)}
        figures |= {"bare_rss_mb_by_minute": _by_minute(bare_mb)} if bare else {}
        if not alive:
            report(bench.said()[-3000:])
    return figures


def account(bench: Bench, late_s: dict[int, float], samples: list, disturbed: list, begun: float) -> dict[str, Any]:
    """What became of every frame, and how the node went.

    ``late_s``: of every instant that the rig published whole and healthy, by how many s the last image left too late.
    """
    first = round((bench.sets[0].t_ref - bench.start) / PERIOD) + 1
    healthy = [instant for instant in late_s if instant >= first]
    instant_of = lambda t_ref: round((t_ref - bench.start) / PERIOD)  # noqa: E731
    answered = {instant_of(s.t_ref): s for s in bench.sets}
    failed = {instant_of(header_ns(m)) for _, m in bench.statuses if not m.published}
    counted = dict.fromkeys(("answered", "superseded", "failed", "partial_at_return", "published_late", "lost"), 0)
    gaps, lost_as = [], []
    # At each status, so many sets had given way to newer ones up to then; frames without an answer must be among them.
    superseded_until = [(instant_of(header_ns(m)), m.superseded_sets) for _, m in bench.statuses]
    previous, since = None, RETURN
    for instant in healthy:
        since = since + 1 if previous is not None and instant == previous + 1 else 0
        previous = instant
        found = answered.get(instant)
        if found is not None and not found.missing:
            counted["answered"] += 1
        elif found is not None and since < RETURN:
            counted["partial_at_return"] += 1
        elif found is not None:
            late = late_s[instant]
            counted["published_late" if late > LATE_S else "lost"] += 1
            text = f"{instant} answered without {', '.join(found.missing)}, {since} frames after a fault"
            lost_as.append(f"{text}; its images left the rig up to {late * 1e3:.0f} ms too late")
        elif instant in failed:
            counted["failed"] += 1
        else:
            gaps.append(instant)
    position = given_way = unanswered = 0
    for i, instant in enumerate(gaps):
        while position < len(superseded_until) and superseded_until[position][0] <= instant:
            position += 1
        if position < len(superseded_until):  # the first status of a newer set
            given_way = superseded_until[position][1]
        if i + 1 - unanswered <= given_way:
            counted["superseded"] += 1
        else:
            unanswered += 1
            late = late_s[instant]
            lost_as.append(f"{instant} not answered, {given_way} given way, up to {late * 1e3:.0f} ms too late")
    counted["lost"] += unanswered
    counts = bench.counts()
    cameras = _camera_counts(bench)
    received = [c["images"] - c["images in sets"] - c["images waiting"] - c["dropped"] for c in cameras.values()]
    balance = {
        "sets": counts["sets"],
        "published": counts["published"],
        "superseded": counts["superseded sets"],
        "failed": counts["failed sets"],
        "pending": counts["pending sets"],
        "boxes_received": len(bench.sets),
        "failures_received": sum(not m.published for _, m in bench.statuses),
        "images_unaccounted": sum(abs(number) for number in received),
    }
    balance["exact"] = (
        balance["sets"] == balance["published"] + balance["superseded"] + balance["failed"] + balance["pending"]
        and balance["published"] == balance["boxes_received"]
        and balance["failed"] == balance["failures_received"]
        and balance["images_unaccounted"] == 0
    )
    end = samples[-1][0]
    warm = [s for s in samples if s[0] >= min(120.0, 0.25 * end)]
    part = max(1, len(warm) // 10)
    rss_first, rss_last = (statistics.median(s[1] for s in some) for some in (warm[:part], warm[-part:]))
    return {
        "minutes": round(end / 60, 2),
        "complete": len(healthy),
        **counted,
        "lost_as": lost_as[:10],
        "wrong": sum(bool(s.wrong) for s in bench.sets),
        "first_wrong": next((s.wrong for s in bench.sets if s.wrong), ""),
        "balance": balance,
        "rss_mb": [round(rss_first, 1), round(rss_last, 1)],
        "rss_growth_pct": round((rss_last / rss_first - 1) * 100, 2),
        "rss_mb_by_minute": _by_minute([(at, mb) for at, mb, _ in samples]),
        "threads": [min(s[2] for s in warm), max(s[2] for s in warm)],
        "latency_ms": _latencies(bench, disturbed, begun),
    }


def _by_minute(samples: list[tuple[float, float]]) -> list[float]:
    """Median of each minute, of (s since the start, value)."""
    minutes: dict[int, list[float]] = {}
    for at, value in samples:
        minutes.setdefault(int(at / 60), []).append(value)
    return [round(statistics.median(values), 1) for _, values in sorted(minutes.items())]


def _camera_counts(bench: Bench) -> dict[str, dict[str, int]]:
    found = {}
    for status in bench.health[-1][1].status:
        camera = status.name.split(": ")[-1]
        if camera in CAMERAS:
            values = {v.key: v.value for v in status.values}
            found[camera] = {key: int(values[key]) for key in ("images", "images in sets", "images waiting")}
            found[camera]["dropped"] = sum(int(v) for key, v in values.items() if key.startswith("dropped: "))
    return found


def _latencies(bench: Bench, disturbed: list[tuple[float, float]], begun: float) -> list[dict[str, float]]:
    """By minute, from an image's stamp to its boxes, of sets that came while nothing was wrong (and had not for a second)."""
    by_minute: dict[int, list[float]] = {}
    position = 0
    for at, message in bench.statuses:
        while position < len(disturbed) and disturbed[position][1] + 1.0 < at:
            position += 1
        if message.published and not (position < len(disturbed) and disturbed[position][0] <= at):
            by_minute.setdefault(int((at - begun) / 60), []).append(message.latency_ms)
    return [
        {"minute": minute, "sets": len(v), "p50": round(statistics.median(v), 1), "p99": round(_p99(v), 1)}
        for minute, v in sorted(by_minute.items())
        if minute >= 0
    ]


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def main(argv: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--default-queues", action="store_true", help="the node without the Fast DDS profile")
    parser.add_argument("--bare", action="store_true", help="beside it a process that only subscribes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(argv)
    with own_domain():
        figures = soak(options.minutes, options.seed, report, not options.default_queues, options.bare)
    for key, value in figures.items():
        report(f"{key}: {value}")
    if options.json:
        write_result(options.json, figures)
    good = (
        figures["node_alive"]
        and figures["balance"]["exact"]
        and not figures["lost"]
        and not figures["wrong"]
        and (figures["minutes"] < 10 or figures["rss_growth_pct"] < 1.0)
        and figures["threads"][0] == figures["threads"][1]
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
