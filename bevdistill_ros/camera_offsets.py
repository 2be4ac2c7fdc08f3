"""At which offsets within a period the cameras of a rig are exposed, read off their stamps (integer ns)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MS = 1_000_000  # ns
LEARNING, LEARNED, AMBIGUOUS = "learning", "learned", "ambiguous"  # OffsetEstimate.state
ENOUGH = 8  # stamps of a camera that an estimate needs
_SHORTEST_PERIOD_NS = 1 * MS  # closer stamps of one camera are repetitions, not frames


@dataclass(frozen=True)
class OffsetEstimate:
    """Offsets read off a stream of stamps. `offsets_ns` is empty unless `state` is "learned"; the first exposed
    camera has 0."""

    state: str  # "learning" (too little seen), "learned" or "ambiguous"
    reason: str  # what is missing or ambiguous, in words; empty when learned
    offsets_ns: Mapping[str, int] = field(default_factory=dict)
    period_ns: int | None = None
    jitter_ns: int | None = None  # within which the stamps keep to period and offsets


def estimate_offsets(stamps_ns: Mapping[str, Sequence[int]]) -> OffsetEstimate:
    """Estimate the nominal offsets of periodically exposed cameras from some recent stamps of each (ascending).

    A periodic stream gives only each camera's phase, its offset modulo the period. On that circle the offsets of one
    instant are an arc, and the instants could be cut apart in any gap between neighbouring phases: every cut explains
    the stream equally well. What tells the right one is that a rig exposes an instant's images as close together as it
    can, so that the pause between instants is the largest gap. Where no gap is clearly the largest (by a tenth of the
    period, and by four times the jitter), as with cameras spread evenly over the period, or where the cameras have no
    common period, the answer is "ambiguous", never a guess.
    """
    if not stamps_ns:
        return OffsetEstimate(LEARNING, "no camera has delivered anything yet")
    for camera, stamps in stamps_ns.items():
        if len(stamps) < ENOUGH:
            return OffsetEstimate(LEARNING, f"camera '{camera}' has delivered {len(stamps)} of {ENOUGH} images")

    periods = {camera: period_of(stamps) for camera, stamps in stamps_ns.items()}
    period = median([p for p in periods.values() if p is not None])
    for camera, own in periods.items():
        if own is None or abs(own - period) > period // 20:
            what = "irregularly" if own is None else f"every {own / MS:.1f} ms"
            reason = f"camera '{camera}' delivers {what}, the cameras in the middle every {period / MS:.1f} ms"
            return OffsetEstimate(AMBIGUOUS, reason, period_ns=period)

    # Phases against one camera, between images that lie near to each other: an error of the period does not add up.
    reference = next(iter(stamps_ns))
    phases: dict[str, int] = {}
    jitter = 0
    for camera, stamps in stamps_ns.items():
        differences = []
        for stamp in stamps:
            nearest = min(stamps_ns[reference], key=lambda other: abs(other - stamp))
            if 2 * abs(stamp - nearest) <= 3 * period:
                differences.append((stamp - nearest) % period)
        if len(differences) < ENOUGH // 2:
            return OffsetEstimate(LEARNING, f"cameras '{camera}' and '{reference}' have not delivered at the same time")
        phases[camera] = min(differences, key=lambda d: sum(_circular(d - other, period) for other in differences))
        residuals = sorted(_circular(d - phases[camera], period) for d in differences)
        own_jitter = residuals[(len(residuals) - 1) * 9 // 10]
        if own_jitter > period // 8:
            reason = f"cameras '{camera}' and '{reference}' shift by {own_jitter / MS:.1f} ms against each other"
            return OffsetEstimate(AMBIGUOUS, reason, period_ns=period, jitter_ns=own_jitter)
        jitter = max(jitter, own_jitter)

    order = sorted(phases, key=phases.__getitem__)
    gaps = [(phases[after] - phases[before]) % period for before, after in zip(order, order[1:] + order[:1])]
    if max(gaps) == 0:  # all phases are equal, and the one gap is the whole period
        gaps[-1] = period
    pause, runner_up = sorted([*gaps, 0], reverse=True)[:2]
    if pause - runner_up < max(period // 10, 4 * jitter):
        first, second = (order[i] for i in sorted(range(len(gaps)), key=gaps.__getitem__, reverse=True)[:2])
        reason = (
            f"a set could end with camera '{first}' or with '{second}': the pauses after them, {pause / MS:.1f} and "
            f"{runner_up / MS:.1f} ms of a period of {period / MS:.1f} ms, are too much alike"
        )
        return OffsetEstimate(AMBIGUOUS, reason, period_ns=period, jitter_ns=jitter)
    start = phases[order[(gaps.index(pause) + 1) % len(order)]]
    offsets = {camera: (phase - start) % period for camera, phase in phases.items()}
    return OffsetEstimate(LEARNED, "", offsets, period, jitter)


def median(values: Iterable[int]) -> int:
    """The lower median: one of the values."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _circular(difference: int, period: int) -> int:
    """Distance on a circle of circumference `period`."""
    return min(difference % period, -difference % period)


def period_of(stamps: Sequence[int]) -> int | None:
    """Median interval of ascending stamps: right also where up to half of them are lost. None: too few."""
    intervals = [after - before for before, after in zip(stamps, list(stamps)[1:])]
    intervals = [interval for interval in intervals if interval >= _SHORTEST_PERIOD_NS]
    return median(intervals) if intervals else None
