"""How fast boxes come and how old they are, and whether that keeps within the configured band."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bevdistill_ros.node.diagnostics import WARN, Trouble
from bevdistill_ros.node.drops import WINDOW_S
from bevdistill_ros.node.parameters import Settings

_RATE_OVER = 20  # sets
_LATENCY_OVER = 100
_OTHER_CLOCK_MS = 60_000.0
"""A greater latency than this is no delay but another clock."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed: one of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Pace:
    """Of the sets published since activation."""

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=_RATE_OVER)
        self._latencies: deque[float] = deque(maxlen=_LATENCY_OVER)
        self._lacking: deque[tuple[float, tuple[str, ...]]] = deque(maxlen=_RATE_OVER)

    def published(self, now_s: float, latency_ms: float, lacking: Sequence[str]) -> None:
        """Boxes have been published: at monotonic ``now_s``, so long after their images' stamp, without those cameras."""
        self._arrivals.append(now_s)
        self._latencies.append(latency_ms)
        self._lacking.append((now_s, tuple(lacking)))

    def partial(self, now_s: float) -> list[Trouble]:
        """Which cameras the boxes do without at present: not only the last ones, as a camera may come and go."""
        recent = [lacking for at, lacking in self._lacking if now_s - at <= WINDOW_S]
        names = dict.fromkeys(name for lacking in recent for name in lacking)
        if not names:
            return []
        count = sum(bool(lacking) for lacking in recent)
        return [Trouble(WARN, f"without {', '.join(names)} in {count} of the last {len(recent)} sets")]

    def rate(self, now_s: float) -> float | None:
        """Sets a second, of the last ones; None before there are two. It falls while nothing comes."""
        if len(self._arrivals) < 2 or self._arrivals[-1] <= self._arrivals[0]:
            return None
        intervals = len(self._arrivals) - 1
        mean = (self._arrivals[-1] - self._arrivals[0]) / intervals
        return 1 / max(mean, (now_s - self._arrivals[-1]) / 2)

    def values(self, now_s: float) -> dict[str, str]:
        """For /diagnostics."""
        rate = self.rate(now_s)
        values = {} if rate is None else {"rate (Hz)": f"{rate:.2f}"}
        if self._latencies:
            values["latency (ms)"] = f"{self._latencies[-1]:.1f}"
            values["latency p50 (ms)"] = f"{percentile(self._latencies, 0.5):.1f}"
            values["latency p99 (ms)"] = f"{percentile(self._latencies, 0.99):.1f}"
        return values

    def troubles(self, settings: Settings, now_s: float) -> list[Trouble]:
        """What leaves the band of ``max_latency_ms``, ``min_rate_hz`` and ``max_rate_hz``."""
        found = []
        rate = self.rate(now_s)
        if rate is not None and settings.min_rate_hz and rate < settings.min_rate_hz:
            found.append(Trouble(WARN, f"{rate:.1f} sets a second, fewer than min_rate_hz = {settings.min_rate_hz:g}"))
        if rate is not None and settings.max_rate_hz and rate > settings.max_rate_hz:
            found.append(Trouble(WARN, f"{rate:.1f} sets a second, more than max_rate_hz = {settings.max_rate_hz:g}"))
        if settings.max_latency_ms and self._latencies:
            found += self._latency_troubles(settings.max_latency_ms)
        return found

    def _latency_troubles(self, most_ms: float) -> list[Trouble]:
        latency = percentile(list(self._latencies)[-_RATE_OVER:], 0.5)
        if abs(latency) > _OTHER_CLOCK_MS or latency < -most_ms:
            text = (
                f"the images' stamps are {abs(latency) / 1e3:.1f} s {'behind' if latency > 0 else 'ahead of'} this node's "
                "clock: the clocks differ, or a bag is played (then play /clock, too, and set use_sim_time)"
            )
        elif latency > most_ms:
            text = f"boxes come {latency:.0f} ms after their images, later than max_latency_ms = {most_ms:g}"
        else:
            return []
        return [Trouble(WARN, text)]
