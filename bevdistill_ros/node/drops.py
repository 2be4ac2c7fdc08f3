"""Why images of a camera go unused at present, in plain words: read off the synchroniser's counters."""

from __future__ import annotations

from collections import deque

from bevdistill_ros.node.diagnostics import ERROR, WARN, Trouble
from bevdistill_ros.synchroniser import CONFLICT, DUPLICATE, LATE, STRAY, TOO_FEW, Counters

WINDOW_S = 2.0
"""What was dropped within so many seconds is told."""

_WHY = {
    STRAY: "have stamps far from those of the other cameras: its clock is wrong, or theirs",
    DUPLICATE: "repeat an earlier stamp: its driver hangs, or sends twice",
    CONFLICT: "are more than one for an instant: it is faster than the others, or two drivers publish on its topic",
    LATE: "came when their set had gone on without them: see what delays its driver, or raise deadline_ms",
    TOO_FEW: "found fewer than min_cameras cameras at their time: see the other cameras, or camera_offsets_ms",
}


class DropWatch:
    """Compares the counters with those of two seconds ago."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Counters]] = deque()

    def update(self, counters: Counters, now_s: float) -> dict[str, list[Trouble]]:
        """Take the present counters; returns what is to be said of each camera.

        Args:
            counters: a copy.
            now_s: monotonic seconds.
        """
        self._seen.append((now_s, counters))
        while len(self._seen) > 1 and now_s - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()
        before = self._seen[0][1]
        troubles: dict[str, list[Trouble]] = {camera: [] for camera in counters.received}
        for camera, found in troubles.items():
            received = counters.received[camera] - before.received[camera]
            for reason, why in _WHY.items():
                dropped = counters.dropped[reason][camera] - before.dropped[reason][camera]
                if dropped > 0:
                    level = ERROR if dropped >= received else WARN
                    found.append(Trouble(level, f"{dropped} of its last {received} images {why}"))
        return troubles
