"""Which images belong to one capture instant: a synchronisation policy for camera rigs, without ROS.

A rig exposes its cameras at fixed offsets within each period: a nuScenes vehicle spreads six cameras over 43 ms of 83
ms, other rigs over 83 ms of 100 ms. Grouping by "stamps less than a slop apart" then mixes two instants as soon as one
image is lost. Here the nominal offset of its camera is subtracted from every stamp first, so that all images of one
instant have nearly the same corrected time. Everything is an integer number of nanoseconds; no clock is read: the
caller says what time it is.

The rules, in the order in which a message meets them
- A stamp of zero (or less), or a repeated stamp of the same camera, is dropped.
- A message more than `jump_ns` away from the stream is put aside. When most of the cameras that are alive have jumped
  to the same place the jump is believed: forward it is followed, backward (a bag that loops) what is open is closed and
  the stream begins anew. One camera with a wrong clock therefore neither resets the others nor displaces them.
- A message that could belong to the last emitted set, or is older, is late and dropped: the frame time only ever grows.
- Otherwise it joins the nearest open frame, if all corrected times of that frame then still lie within `tolerance_ns`,
  or it opens a new frame. With jitter j of (stamp - offset) and period P no set mixes two instants if tolerance < P -
  2 j, and every complete frame is found if tolerance >= 2 j. The tolerance in force is never more than half of the
  period seen.

When a frame is closed
- At once when it is complete.
- At once when nothing is left to wait for: a missing camera has already delivered something newer (a camera's messages
  arrive in order), or is absent (it was missing in `absent_after` emitted sets in a row; one message in time and it is
  waited for again).
- When its deadline has passed: `deadline_ns` after the moment, on the receiving clock, when its last missing camera
  was due.
- When a newer frame is emitted, or more than `max_open` frames are open.
A closed frame is emitted if it holds at least `min_cameras` messages, else dropped. Before a frame is emitted the
older ones are closed: a complete frame never has to wait for an older one, because each camera missing there has
delivered something newer.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bevdistill_ros.camera_offsets import (
    AMBIGUOUS,
    ENOUGH,
    LEARNED,
    LEARNING,
    MS,
    estimate_offsets,
    median,
    period_of,
)
from bevdistill_ros.errors import UserError

# Why a message was not used; the keys of Counters.dropped.
ZERO_STAMP = "zero_stamp"  # the driver did not fill header.stamp
DUPLICATE = "duplicate"  # the same stamp as the camera's message before: a frozen camera, or sent twice
CONFLICT = "conflict"  # the camera is already in that frame with another stamp: it runs faster than the others
LATE = "late"  # its frame was emitted already, or is older than one that was
STRAY = "stray"  # its stamp is far from those of most cameras: a wrong clock
TOO_FEW = "too_few"  # its frame was closed with fewer than min_cameras messages
RESET = "reset"  # it was waiting when reset() was called
UNPLACED = LEARNING  # the offset of its camera is not known yet
REASONS = (ZERO_STAMP, DUPLICATE, CONFLICT, LATE, STRAY, TOO_FEW, RESET, UNPLACED)

GIVEN = "given"  # a state of the offsets, besides those of an OffsetEstimate

_WINDOW = 2 * ENOUGH  # stamps kept of each camera, for period and offsets
_HOLDS = 3  # times that a frame stays open beyond its deadline because the receiver was held up
_REFIT_AFTER = 32  # closed frames without a complete one before learnt offsets are checked


@dataclass(frozen=True)
class CameraSet:
    """The images of one capture instant; those of some cameras may be missing.

    frame_ns   corrected time of the instant (stamp - offset; the middle of the messages present). Strictly increasing
               from set to set, except across a reset.
    messages, stamps   by camera, only those present; stamps are the header stamps in ns.
    cameras    every camera of the rig, in the order of `mask`.
    sequence   0, 1, 2, ...: the order of emission, also across resets.
    skew_ns    greatest difference of corrected stamps: how well the offsets fit. Never above the tolerance.
    waited_ns  receiving clock: from the first message's arrival until the set was emitted.
    """

    frame_ns: int
    messages: Mapping[str, Any]
    stamps: Mapping[str, int]
    cameras: tuple[str, ...]
    sequence: int = 0
    skew_ns: int = 0
    waited_ns: int = 0

    @property
    def mask(self) -> tuple[bool, ...]:
        """Which cameras are present, in the order of `cameras`."""
        return tuple(camera in self.messages for camera in self.cameras)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(camera for camera in self.cameras if camera not in self.messages)

    @property
    def complete(self) -> bool:
        return len(self.messages) == len(self.cameras)

    @property
    def spread_ns(self) -> int:
        """Time between the first and the last exposure in the set."""
        return max(self.stamps.values()) - min(self.stamps.values())


@dataclass
class Counters:
    """What became of the messages. For every camera, at any time,
    received = used + sum of dropped over the reasons + messages still waiting (Synchroniser.waiting)."""

    received: dict[str, int]  # messages by camera
    used: dict[str, int]  # messages that went out in a set
    dropped: dict[str, dict[str, int]]  # messages by reason, then camera
    missing: dict[str, int]  # emitted sets without the camera
    complete: int = 0  # emitted sets with every camera
    partial: int = 0  # emitted sets with a camera missing
    too_few: int = 0  # frames dropped with fewer than min_cameras messages
    resets: int = 0  # backward jumps and reset() calls
    relearned: int = 0  # times that learnt offsets were replaced

    @classmethod
    def zero(cls, cameras: Sequence[str]) -> Counters:
        def each() -> dict[str, int]:
            return dict.fromkeys(cameras, 0)

        return cls(received=each(), used=each(), dropped={reason: each() for reason in REASONS}, missing=each())

    @property
    def emitted(self) -> int:
        return self.complete + self.partial


class _Frame:
    """An instant whose images are still arriving."""

    __slots__ = ("deadline", "entries", "first_offset", "held_until", "high", "holds", "low", "opened")

    def __init__(self, now_ns: int, first_offset: int, time_ns: int):
        self.entries: dict[str, tuple[int, Any]] = {}  # camera -> (stamp, message)
        self.opened = now_ns
        self.first_offset = first_offset  # of the camera that opened it
        self.low = self.high = time_ns  # range of the corrected times
        self.deadline = 0
        self.held_until = self.holds = 0  # see catch_up()

    @property
    def time(self) -> int:
        return (self.low + self.high) // 2


class Synchroniser:
    """Groups the messages of several cameras into CameraSets; the module's docstring has the rules. Thread-safe.

    cameras       names, in the order of the mask.
    offsets_ns    nominal exposure offset of every camera within a frame, up to a common shift; zeros for cameras that
                  are triggered together. None: learnt from the first eight stamps of each, where those identify them.
                  Until then nothing is emitted; `offset_state` and `offset_reason` tell how it stands.
    tolerance_ns  greatest difference of corrected stamps within a set: at least twice the jitter of the stamps plus
                  the error of the offsets.
    deadline_ns   how much longer than due, on the receiving clock, a missing image is waited for: longer than
                  transport times differ.
    min_cameras   sets with fewer are dropped. Default: more than half of the cameras, so that one camera with a wrong
                  offset cannot fill sets of its own.
    jump_ns       a stamp further than this (and than four periods) from the stream is a jump of time.
    absent_after, max_open   see the rules.
    Raises UserError for values that cannot work.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        offsets_ns: Mapping[str, int] | None = None,
        *,
        tolerance_ns: int = 20 * MS,
        deadline_ns: int = 100 * MS,
        min_cameras: int | None = None,
        jump_ns: int = 500 * MS,
        absent_after: int = 10,
        max_open: int = 10,
    ):
        self.cameras = tuple(cameras)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise UserError(f"synchroniser: cameras must be distinct and at least one, not {list(self.cameras)}")
        self.min_cameras = len(self.cameras) // 2 + 1 if min_cameras is None else min_cameras
        if not 1 <= self.min_cameras <= len(self.cameras):
            raise UserError(f"synchroniser: min_cameras must be in 1..{len(self.cameras)}, not {self.min_cameras}")
        if offsets_ns is not None and set(offsets_ns) != set(self.cameras):
            wrong = ", ".join(sorted(set(offsets_ns) ^ set(self.cameras)))
            raise UserError(f"synchroniser: give an offset for each of the cameras and for no other (check {wrong})")
        limits = {"tolerance_ns": tolerance_ns, "deadline_ns": deadline_ns, "jump_ns": jump_ns, "max_open": max_open}
        for name, value in {**limits, "absent_after": absent_after}.items():
            if value < 1:
                raise UserError(f"synchroniser: {name} must be positive, not {value}")
        self.deadline_ns = deadline_ns
        self._configured_tolerance = tolerance_ns
        self._configured_jump = jump_ns
        self._absent_after = absent_after
        self._max_open = max_open

        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {} if offsets_ns is None else {c: int(o) for c, o in offsets_ns.items()}
        self._offset_state = LEARNING if offsets_ns is None else GIVEN
        self._offset_reason = "" if offsets_ns is not None else "no camera has delivered anything yet"
        self._counters = Counters.zero(self.cameras)
        self._sequence = 0
        self._period: int | None = None
        self._tolerance = tolerance_ns
        self._jump = jump_ns
        self._periods: dict[str, int] = {}
        self._now: int | None = None
        self._misses = dict.fromkeys(self.cameras, 0)  # emitted sets in a row without the camera
        self._since_attempt = 0  # messages since the offsets were last estimated
        self._since_complete = 0  # closed frames
        # Of each camera's last message, wherever it is: corrected time and arrival.
        self._heard: dict[str, tuple[int, int]] = {}
        # A message after a jump that is not believed yet: stamp, corrected time, message.
        self._aside: dict[str, tuple[int, int, Any]] = {}
        self._forget_stream()

    def _forget_stream(self) -> None:
        """Forget where the stream is; keep what the rig is like (offsets, period) and the counters."""
        self._open: list[_Frame] = []  # by time
        self._last: _Frame | None = None  # the last one emitted
        self._anchor: int | None = None  # corrected time around which the stream is
        self._delivered: dict[str, int] = {}  # camera -> corrected time of its last message
        self._last_stamp: dict[str, int] = {}
        self._recent = {camera: deque(maxlen=_WINDOW) for camera in self.cameras}

    # ---- what the caller sees -------------------------------------------------------------------------------------

    def add(self, camera: str, stamp_ns: int, message: Any, now_ns: int) -> list[CameraSet]:
        """Take a message in; returns the sets that are due now, oldest first, mostly none or one.

        `stamp_ns` is the header stamp, `now_ns` the receiving clock (any clock that is always the same one: wall or
        simulated). With several threads pass the lists through one InOrder. Raises KeyError for an unknown camera.
        """
        sets: list[CameraSet] = []
        with self._lock:
            self._counters.received[camera] += 1
            self._see_clock(now_ns)
            if self._accept(camera, stamp_ns, message, now_ns, sets):
                self._close(self._ready, now_ns, sets)
            self._expire(now_ns, sets)
            if self._since_complete >= _REFIT_AFTER:
                self._refit(now_ns, sets)
        return sets

    def poll(self, now_ns: int) -> list[CameraSet]:
        """The sets whose deadline has passed. To be called at `next_deadline_ns`, or just now and then."""
        sets: list[CameraSet] = []
        with self._lock:
            self._see_clock(now_ns)
            self._expire(now_ns, sets)
        return sets

    def catch_up(self, now_ns: int, for_ns: int) -> None:
        """The receiver was held up: of what came meanwhile some may still wait to be taken. Frames whose deadline has passed
        stay open for so much longer, each three times at most. To be called before add() or poll() of the same `now_ns`."""
        with self._lock:
            for frame in self._open:
                if frame.deadline <= now_ns and frame.holds < _HOLDS:
                    frame.deadline = frame.held_until = now_ns + for_ns
                    frame.holds += 1

    def flush(self, now_ns: int) -> list[CameraSet]:
        """Close every open frame: at the end of a recording."""
        sets: list[CameraSet] = []
        with self._lock:
            self._close_up_to(len(self._open) - 1, now_ns, sets)
            for camera in self._aside:
                self._drop(STRAY, camera)
            self._aside.clear()
        return sets

    def reset(self) -> None:
        """Discard what is waiting and start anew anywhere in time. Offsets, period and counters stay."""
        with self._lock:
            for frame in self._open:
                self._discard(frame, RESET)
            for camera in self._aside:
                self._drop(RESET, camera)
            self._aside.clear()
            self._heard.clear()
            self._now = None
            self._since_complete = 0
            self._forget_stream()
            self._counters.resets += 1

    @property
    def next_deadline_ns(self) -> int | None:
        """When, on the receiving clock, poll() has something to do; None while no frame is open."""
        with self._lock:
            return min((frame.deadline for frame in self._open), default=None)

    @property
    def counters(self) -> Counters:
        """A copy."""
        with self._lock:
            return copy.deepcopy(self._counters)

    @property
    def waiting(self) -> dict[str, int]:
        """Messages held, by camera: in open frames and put aside."""
        with self._lock:
            held = {camera: int(camera in self._aside) for camera in self.cameras}
            for frame in self._open:
                for camera in frame.entries:
                    held[camera] += 1
            return held

    @property
    def offsets_ns(self) -> dict[str, int]:
        """The offsets in use: without the cameras for which none is known yet."""
        with self._lock:
            return dict(self._offsets)

    @property
    def offset_state(self) -> str:
        """ "given", "learning", "learned" or "ambiguous" (nothing is emitted: give the offsets)."""
        return self._offset_state

    @property
    def offset_reason(self) -> str:
        """Why the offsets are not known, in words; empty when they are."""
        return self._offset_reason

    @property
    def period_ns(self) -> int | None:
        """Period of the cameras (the median one), once some images have come."""
        return self._period

    @property
    def tolerance_ns(self) -> int:
        """The tolerance in force: the configured one, or half of the period if that is less."""
        return self._tolerance

    @property
    def absent(self) -> tuple[str, ...]:
        """Cameras that are not waited for at present."""
        return tuple(camera for camera in self.cameras if self._misses[camera] >= self._absent_after)

    # ---- a message's way; all of the following holds the lock -----------------------------------------------------

    def _drop(self, reason: str, camera: str) -> None:
        self._counters.dropped[reason][camera] += 1

    def _see_clock(self, now: int) -> None:
        """The receiving clock may jump back (simulated time): what is waiting then counts as having come now."""
        if self._now is not None and now < self._now:
            for frame in self._open:
                frame.opened = min(frame.opened, now)
                frame.held_until = 0
                self._set_deadline(frame)
            self._heard = {camera: (time, min(arrival, now)) for camera, (time, arrival) in self._heard.items()}
        self._now = now

    def _accept(self, camera: str, stamp: int, message: Any, now: int, sets: list[CameraSet]) -> bool:
        """Put a message where it belongs. True if it went into a frame."""
        if stamp <= 0:
            self._drop(ZERO_STAMP, camera)
            return False
        if stamp == self._last_stamp.get(camera):
            self._drop(DUPLICATE, camera)
            return False
        self._last_stamp[camera] = stamp
        self._watch(camera, stamp, now, sets)
        offset = self._offsets.get(camera)
        if offset is None:
            self._drop(UNPLACED, camera)
            return False

        time = stamp - offset
        self._heard[camera] = (time, now)
        if camera in self._aside:
            self._drop(STRAY, camera)
            del self._aside[camera]
        if self._anchor is None:
            self._anchor = time
        if abs(time - self._anchor) <= self._jump:
            return self._place(camera, stamp, time, message, now, sets)

        # Far from the stream. Let the cameras vote that have been heard of lately.
        voters = [t for t, arrival in self._heard.values() if now - arrival <= self._jump]
        if 2 * sum(abs(t - time) <= self._jump for t in voters) <= len(voters):
            self._aside[camera] = (stamp, time, message)
            return False
        if time < self._anchor:
            self._close_up_to(len(self._open) - 1, now, sets)  # what is open cannot grow any more
            self._forget_stream()
            self._counters.resets += 1
            self._last_stamp[camera] = stamp
            self._recent[camera].append(stamp)
        self._anchor = time
        placed = False
        for other, (other_stamp, other_time, other_message) in list(self._aside.items()):
            if abs(other_time - time) <= self._jump:
                del self._aside[other]
                self._last_stamp[other] = other_stamp
                placed |= self._place(other, other_stamp, other_time, other_message, now, sets)
        return self._place(camera, stamp, time, message, now, sets) or placed

    def _place(self, camera: str, stamp: int, time: int, message: Any, now: int, sets: list[CameraSet]) -> bool:
        tolerance = self._tolerance
        self._delivered[camera] = time
        last = self._last
        if last is not None and time <= max(last.high, last.low + tolerance):
            self._drop(LATE, camera)
            if time >= last.high - tolerance and now < last.deadline:
                self._misses[camera] = 0  # it would have been in time, had it been waited for
            return False
        best, best_distance = None, 0
        for frame in self._open:
            if frame.high - tolerance <= time <= frame.low + tolerance:
                distance = abs(2 * time - frame.low - frame.high)
                if best is None or distance < best_distance:
                    best, best_distance = frame, distance
        if best is None:
            best = _Frame(now, self._offsets[camera], time)
            at = len(self._open)
            while at and self._open[at - 1].time > best.time:
                at -= 1
            self._open.insert(at, best)
        elif camera in best.entries:
            self._drop(CONFLICT, camera)
            return False
        best.entries[camera] = (stamp, message)
        best.low, best.high = min(best.low, time), max(best.high, time)
        self._set_deadline(best)
        self._misses[camera] = 0
        if len(self._open) > self._max_open:
            self._close_up_to(0, now, sets)
        return True

    # ---- closing frames -------------------------------------------------------------------------------------------

    def _set_deadline(self, frame: _Frame) -> None:
        """A missing camera is due after the first one as its offset says, and waited for deadline_ns longer."""
        due = 0
        for camera, offset in self._offsets.items():
            if camera not in frame.entries and offset - frame.first_offset > due:
                due = offset - frame.first_offset
        frame.deadline = max(frame.opened + due + self.deadline_ns, frame.held_until)

    def _ready(self, frame: _Frame) -> bool:
        """Whether there is nothing left to wait for."""
        if len(frame.entries) == len(self.cameras):
            return True
        absent = False
        for camera in self.cameras:
            if camera in frame.entries or self._delivered.get(camera, frame.low) - frame.low > self._tolerance:
                continue
            if self._misses[camera] < self._absent_after and camera in self._offsets:
                return False
            absent = True
        # Too small a set may still grow if an absent camera returns: that is worth the deadline.
        return not absent or len(frame.entries) >= self.min_cameras

    def _close(self, due: Callable[[_Frame], bool], now: int, sets: list[CameraSet]) -> None:
        """Close the frames that are due, and what is older than one of them that is emitted."""
        for index in range(len(self._open) - 1, -1, -1):
            frame = self._open[index]
            if not due(frame):
                continue
            if len(frame.entries) >= self.min_cameras:
                self._close_up_to(index, now, sets)
                return
            # Dropped alone: one camera whose clock is a little ahead must not close what the others are filling.
            del self._open[index]
            self._discard(frame, TOO_FEW)

    def _expire(self, now: int, sets: list[CameraSet]) -> None:
        self._close(lambda frame: frame.deadline <= now, now, sets)

    def _close_up_to(self, index: int, now: int, sets: list[CameraSet]) -> None:
        """Close the frames 0..index, oldest first."""
        closing, self._open = self._open[: index + 1], self._open[index + 1 :]
        for frame in closing:
            if len(frame.entries) < self.min_cameras:
                self._discard(frame, TOO_FEW)
            else:
                sets.append(self._emit(frame, now))

    def _discard(self, frame: _Frame, reason: str) -> None:
        for camera in frame.entries:
            self._drop(reason, camera)
        self._counters.too_few += reason == TOO_FEW
        self._since_complete += 1

    def _emit(self, frame: _Frame, now: int) -> CameraSet:
        counters = self._counters
        present = [camera for camera in self.cameras if camera in frame.entries]
        for camera in self.cameras:
            if camera in frame.entries:
                counters.used[camera] += 1
            else:
                counters.missing[camera] += 1
                self._misses[camera] += 1
        if len(present) == len(self.cameras):
            counters.complete += 1
            self._since_complete = 0
        else:
            counters.partial += 1
            self._since_complete += 1
        result = CameraSet(
            frame_ns=frame.time,
            messages={camera: frame.entries[camera][1] for camera in present},
            stamps={camera: frame.entries[camera][0] for camera in present},
            cameras=self.cameras,
            sequence=self._sequence,
            skew_ns=frame.high - frame.low,
            waited_ns=now - frame.opened,
        )
        self._sequence += 1
        frame.entries = {}  # the messages now belong to the set alone
        self._last, self._anchor = frame, frame.high
        return result

    # ---- period and offsets ---------------------------------------------------------------------------------------

    def _watch(self, camera: str, stamp: int, now: int, sets: list[CameraSet]) -> None:
        """Follow period and, where they are to be learnt, offsets."""
        recent = self._recent[camera]
        if recent and stamp <= recent[-1]:
            if recent[-1] - stamp <= self._jump:
                return  # a message out of order
            recent.clear()
        recent.append(stamp)
        # Always in the beginning, as the tolerance depends on it, then now and then.
        if len(recent) >= 3 and (len(recent) < _WINDOW or self._counters.received[camera] % ENOUGH == 0):
            self._measure_period(camera)
        if self._offset_state != GIVEN and len(self._offsets) < len(self.cameras):
            self._since_attempt += 1
            patience = ENOUGH if self._offset_state == AMBIGUOUS else 2  # frames
            if self._since_attempt >= patience * len(self.cameras):
                self._learn(now, sets)

    def _measure_period(self, camera: str) -> None:
        own = period_of(self._recent[camera])
        if own is None or own == self._periods.get(camera):
            return
        self._periods[camera] = own
        self._period = median(self._periods.values())
        self._tolerance = min(self._configured_tolerance, self._period // 2)
        self._jump = max(self._configured_jump, 4 * self._period)

    def _learn(self, now: int, sets: list[CameraSet]) -> None:
        """Learn the offsets of the cameras that deliver, once the others have had twice as long to appear."""
        self._since_attempt = 0
        enough = self._well_known()
        longest = max(len(stamps) for stamps in self._recent.values())
        if len(enough) < len(self.cameras) and (longest < _WINDOW or len(enough) < self.min_cameras):
            if not self._offsets:
                lacking = next(camera for camera in self.cameras if camera not in enough)
                seen = f"{len(self._recent[lacking])} of {ENOUGH} images"
                self._offset_state, self._offset_reason = LEARNING, f"camera '{lacking}' has delivered {seen}"
            return
        if enough.keys() <= self._offsets.keys():
            return  # the unknown ones deliver nothing
        estimate = estimate_offsets(enough)
        if estimate.state == LEARNED:
            self._adopt(estimate.offsets_ns, now, sets)
        elif not self._offsets:
            self._offset_state, self._offset_reason = estimate.state, estimate.reason

    def _well_known(self) -> dict[str, list[int]]:
        """Recent stamps of the cameras that deliver at present and have delivered enough for an estimate."""
        newest = max((stamps[-1] for stamps in self._recent.values() if stamps), default=0)
        return {
            camera: list(stamps)
            for camera, stamps in self._recent.items()
            if len(stamps) >= ENOUGH and newest - stamps[-1] <= self._jump
        }

    def _refit(self, now: int, sets: list[CameraSet]) -> None:
        """Learnt offsets have not given a complete set for a while. If every camera delivers, and the stream now
        identifies other offsets (a camera restarted, or a clock drifted), take those."""
        self._since_complete = 0
        recent = self._well_known()
        if self._offset_state != LEARNED or len(recent) < len(self.cameras):
            return
        estimate = estimate_offsets(recent)
        if estimate.state == LEARNED:
            self._counters.relearned += self._adopt(estimate.offsets_ns, now, sets)

    def _adopt(self, offsets: Mapping[str, int], now: int, sets: list[CameraSet]) -> bool:
        """Take learnt offsets over. True if a known one is now another, by more than noise."""
        # The common shift is chosen so that the frame time goes on steadily.
        known = [self._offsets[camera] - offsets[camera] for camera in offsets if camera in self._offsets]
        shift = median(known) if known else 0
        changed = any(abs(difference - shift) > self._tolerance // 2 for difference in known)
        if changed:  # what is open was filled by the old ones
            self._close_up_to(len(self._open) - 1, now, sets)
            self._delivered.clear()
        self._offsets.update((camera, offset + shift) for camera, offset in offsets.items())
        self._offset_state, self._offset_reason = LEARNED, ""
        return changed


class InOrder:
    """Hands sets to a callback in the order of their emission, one at a time, from whichever thread is there first.

    Two threads may return from Synchroniser.add() in the other order than that in which they held its lock: each
    passes what it got to put(). No lock is held during the callback, and a thread that finds another one busy with it
    leaves its sets there and returns at once. While a callback is busy at most `max_pending` sets wait; beyond that
    the oldest is dropped and counted in `superseded`. What the callback raises goes to `on_error`, and the next set is
    handed over.
    """

    def __init__(
        self,
        callback: Callable[[CameraSet], None],
        on_error: Callable[[Exception], None],
        max_pending: int = 4,
    ):
        self._callback = callback
        self._on_error = on_error
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._pending: dict[int, CameraSet] = {}
        self._next = 0
        self._busy = False
        self.superseded = 0

    def put(self, sets: Iterable[CameraSet]) -> None:
        """Every set that the synchroniser returns must come through here: a sequence number that never comes holds
        up the rest."""
        with self._lock:
            self._pending.update((item.sequence, item) for item in sets)
            if self._busy:
                while len(self._pending) > self._max_pending and self._pending.pop(self._next, None) is not None:
                    self._next += 1
                    self.superseded += 1
                return
            self._busy = True
        try:
            while True:
                with self._lock:
                    item = self._pending.pop(self._next, None)
                    if item is None:
                        self._busy = False
                        return
                    self._next += 1
                try:
                    self._callback(item)
                except Exception as error:
                    self._on_error(error)
        except BaseException:  # an interrupt: whoever comes next goes on
            with self._lock:
                self._busy = False
            raise
