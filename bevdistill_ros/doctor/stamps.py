"""When images come, and when they say they were taken: rate, losses, stamps, clocks, offsets within a set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bevdistill_ros.camera_offsets import AMBIGUOUS, LEARNED, MS, OffsetEstimate, estimate_offsets, median, period_of
from bevdistill_ros.doctor.facts import CameraFacts, Facts
from bevdistill_ros.doctor.findings import ERROR, NOTE, OK, WARNING, Finding
from bevdistill_ros.node.parameters import Settings

S = 1_000_000_000  # ns
SLOW_HZ = 2.0
"""Below this, objects move too far between two sets of images."""
LOST_SHARE = 0.1
BEHIND_NS, AHEAD_NS = 1 * S, 50 * MS
"""How far stamps may lie behind the node's clock, and ahead of it."""
APART_NS = S // 2
"""Cameras whose clocks differ by more never make a set."""
JITTER_SHARE = 0.15  # of the period


def check_stamps(camera: CameraFacts, settings: Settings) -> list[Finding]:
    """The stamps of one camera, each for itself: zero, repeated, backwards, irregular, late."""
    if not camera.arrivals:
        return []
    findings = []
    zero = sum(arrival.stamp_ns == 0 for arrival in camera.arrivals)
    if zero:
        what = f"header.stamp is zero in {zero} of {len(camera.arrivals)} images: they cannot be used"
        advice = "the driver must stamp its images with the time of exposure"
        findings.append(Finding(ERROR, "stamps", camera.name, what, advice))
    steps = [after - before for before, after in zip(camera.stamps, camera.stamps[1:])]
    repeated = sum(step == 0 for step in steps)
    if repeated:
        what = f"{repeated} of {len(camera.arrivals)} images repeat the stamp before"
        advice = "a frozen or doubled driver: repeated stamps are dropped"
        findings.append(Finding(WARNING, "stamps", camera.name, what, advice))
    backwards = [-step for step in steps if step < 0]
    if backwards:
        what = f"stamps run backwards {len(backwards)} times, by up to {duration(max(backwards))}"
        advice = "a bag that loops, a clock that is being set, or two publishers: sets start anew at each jump"
        findings.append(Finding(WARNING, "stamps", camera.name, what, advice))
    period = period_of(camera.stamps)
    forward = [step for step in steps if step > 0]
    if period and len(forward) >= 4:
        # The median tells which steps span several periods; their mean is the period that jitter does not bend.
        counts = [max(1, round(step / period)) for step in forward]
        period = sum(forward) // sum(counts)
        deviations = sorted(abs(step - count * period) for step, count in zip(forward, counts))
        jitter = deviations[(len(deviations) - 1) * 9 // 10]
        if jitter > JITTER_SHARE * period:
            what = f"stamps are irregular: {duration(jitter)} of jitter on a period of {duration(period)}"
            advice = "stamp by the camera's trigger or clock, not at arrival; raise tolerance_ms to twice the jitter"
            findings.append(Finding(WARNING, "jitter", camera.name, what, advice))
    delays = sorted(delays_of(camera))
    if len(delays) >= 5:
        spread = delays[(len(delays) - 1) * 9 // 10] - median(delays)
        if spread > settings.deadline_ms * MS:
            what = f"images come in bursts: one in ten is {duration(spread)} later than usual"
            advice = (
                f"sets go on without it after deadline_ms: {settings.deadline_ms:g}; look at CPU load and the network"
            )
            findings.append(Finding(WARNING, "latency", camera.name, what, advice))
    return findings


def check_rate(camera: CameraFacts, seconds: float) -> list[Finding]:
    """How many images come, and how many are lost on the way."""
    if not camera.arrivals:
        return []
    rate = rate_of(camera)
    if rate is None:
        what = f"{len(camera.arrivals)} image in {seconds:.1f} s"
        return [Finding(WARNING, "rate", camera.name, what, "a driver that stalls? listen longer with --seconds")]
    findings = []
    if rate < SLOW_HZ:
        what = f"only {rate:.1f} images a second"
        findings.append(Finding(WARNING, "rate", camera.name, what, "raise the driver's frame rate"))
    period = period_of(camera.stamps)
    steps = [after - before for before, after in zip(camera.stamps, camera.stamps[1:]) if after > before]
    if period and steps:
        lost = sum(max(0, round(step / period) - 1) for step in steps)
        expected = len(camera.arrivals) + lost
        if lost > LOST_SHARE * expected:
            what = f"{lost} of {expected} images are missing, by their stamps"
            advice = (
                "they are lost on the way: give the publisher config/fastdds_large_segment.xml (docs/node.md, QoS and "
                "DDS), send JPEG, raise queue_depth"
            )
            findings.append(Finding(WARNING, "rate", camera.name, what, advice))
    return findings


def check_clocks(facts: Facts) -> list[Finding]:
    """Stamps against the node's clock, and the cameras' clocks against each other."""
    delays = {camera.name: median(delays_of(camera)) for camera in facts.cameras if delays_of(camera)}
    findings = []
    if facts.clock_publishers and not facts.sim_time:
        what = "/clock is published, but use_sim_time is false: latencies and time-outs are on the wrong clock"
        findings.append(Finding(WARNING, "clock", "time", what, "add -p use_sim_time:=true"))
    if facts.sim_time and not facts.clock_publishers:
        what = "use_sim_time is true, but nobody publishes /clock: time stands still"
        findings.append(Finding(ERROR, "clock", "time", what, "play the bag with --clock, or set use_sim_time: false"))
        return findings
    if not delays:
        return findings
    middle = median(delays.values())
    apart = {name: delay - middle for name, delay in delays.items() if abs(delay - middle) > APART_NS}
    for name, difference in apart.items():
        side = "behind" if difference > 0 else "ahead of"
        what = f"its stamps are {duration(abs(difference))} {side} those of the other cameras: it never makes a set"
        advice = "bring the clocks together (PTP, chrony), or stamp all cameras on one machine"
        findings.append(Finding(ERROR, "clock", name, what, advice))
    if middle > BEHIND_NS:
        what = f"stamps are {duration(middle)} behind now"
        advice = "of a bag: play it with --clock and set use_sim_time: true; else let the drivers stamp by this clock"
        findings.append(Finding(WARNING, "clock", "time", what, advice))
    elif middle < -AHEAD_NS:
        what = f"stamps are {duration(-middle)} ahead of now"
        advice = "bring the clocks of cameras and computer together (PTP, chrony)"
        findings.append(Finding(WARNING, "clock", "time", what, advice))
    return findings


def check_offsets(facts: Facts) -> list[Finding]:
    """When each camera exposes within a set: learnt, or as the parameters say."""
    stamps = {camera.name: sorted(set(camera.stamps)) for camera in facts.cameras if camera.stamps}
    if len(stamps) < 2:
        return []
    settings = facts.settings
    estimate = estimate_offsets(stamps)
    if settings.camera_offsets_ms:
        return _given_offsets(settings, stamps, estimate)
    if estimate.state == AMBIGUOUS:
        what = f"the cameras' offsets cannot be learnt: {estimate.reason}"
        return [Finding(ERROR, "offsets", "time", what, "give camera_offsets_ms; until then nothing is published")]
    if estimate.state != LEARNED:
        return [Finding(NOTE, "offsets", "time", f"too little to learn offsets: {estimate.reason}", "raise --seconds")]
    offsets = ", ".join(f"{name} {estimate.offsets_ns[name] / MS:.1f}" for name in stamps)
    found = (
        f"exposed at {offsets} ms of a period of {duration(estimate.period_ns)}, jitter {duration(estimate.jitter_ns)}"
    )
    return [*_tolerance(settings, estimate), Finding(OK, "offsets", "time", found)]


def _given_offsets(settings: Settings, stamps: dict[str, Sequence[int]], estimate: OffsetEstimate) -> list[Finding]:
    """The offsets of the parameters, against the stamps."""
    offsets = {name: round(ms * MS) for name, ms in zip(settings.cameras, settings.camera_offsets_ms)}
    reference, findings = next(iter(stamps)), []
    for name in stamps:
        due = [stamp - offsets[reference] for stamp in stamps[reference]]
        differences = [
            stamp - offsets[name] - min(due, key=lambda d: abs(d - stamp + offsets[name])) for stamp in stamps[name]
        ]
        error = median(differences)
        if abs(error) > settings.tolerance_ms * MS:
            what = (
                f"its images are {duration(abs(error))} {'after' if error > 0 else 'before'} what camera_offsets_ms says "
                f"beside '{reference}', beyond tolerance_ms: {settings.tolerance_ms:g}"
            )
            findings.append(Finding(ERROR, "offsets", name, what, "correct camera_offsets_ms, or leave it empty"))
    findings += _tolerance(settings, estimate)
    if not findings:
        findings.append(Finding(OK, "offsets", "time", "the stamps keep to camera_offsets_ms"))
    return findings


def _tolerance(settings: Settings, estimate: OffsetEstimate) -> list[Finding]:
    if estimate.state != LEARNED or 2 * estimate.jitter_ns <= settings.tolerance_ms * MS:
        return []
    what = f"the cameras shift by {duration(estimate.jitter_ns)} against each other, too much for tolerance_ms: "
    advice = f"set tolerance_ms: {math.ceil(2 * estimate.jitter_ns / MS)} or more"
    return [Finding(WARNING, "jitter", "time", f"{what}{settings.tolerance_ms:g}", advice)]


def delays_of(camera: CameraFacts) -> list[int]:
    """From stamp to arrival on the node's clock (ns), of the images that have a stamp."""
    return [arrival.now_ns - arrival.stamp_ns for arrival in camera.arrivals if arrival.stamp_ns]


def rate_of(camera: CameraFacts) -> float | None:
    """Images a second, as they came; None of fewer than two."""
    if len(camera.arrivals) < 2:
        return None
    span = camera.arrivals[-1].steady_ns - camera.arrivals[0].steady_ns
    return (len(camera.arrivals) - 1) * S / span if span > 0 else None


def duration(ns: int) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("years", 31_557_600 * S), ("days", 86_400 * S), ("h", 3_600 * S), ("s", S)):
        if abs(ns) >= size:
            return f"{ns / size:.1f} {unit}"
    return f"{ns / MS:.1f} ms"
