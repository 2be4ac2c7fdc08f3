"""What is wrong, in plain words: the node's memory of troubles, for the log, ~/status and /diagnostics.

A trouble belongs to a camera (or to the node: camera "") and to one aspect of it, as "transform". It stays until it is
reported anew or cleared. Which troubles there are is decided where they are seen; here they are kept, ordered and put
into messages.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# Aspects of a camera's trouble, in the order in which they are told.
QOS, STAMP, FROZEN, IMAGE = "qos", "stamp", "frozen", "image"
CAMERA_INFO, TRANSFORM = "camera_info", "transform"
# Aspects of the node's.
MODEL, MOTION, NETWORK = "model", "motion", "network"
_ORDER = (MODEL, NETWORK, MOTION, QOS, STAMP, FROZEN, IMAGE, CAMERA_INFO, TRANSFORM)

STALE_AFTER_S = 1.0
"""A camera silent for longer is told of."""
_LOG_EVERY_S = 10.0


@dataclass
class _Camera:
    """What has been seen of one camera."""

    image_topic: str
    info_topic: str  # empty: its calibration is given
    images: int = 0
    infos: int = 0
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=20))


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong."""

    level: bytes
    text: str


class Health:
    """Troubles by camera and aspect, and which images arrive. Safe to use from several threads.

    Args:
        log: called with a trouble's text and level when it is new or was last told ten seconds ago.
        clock: monotonic seconds.
    """

    def __init__(self, log: Callable[[str, bytes], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._told: dict[tuple[str, str], float] = {}

    def watch(self, topics: Mapping[str, tuple[str, str]]) -> None:
        """Start anew with these cameras: name -> (image topic, CameraInfo topic or '')."""
        with self._lock:
            self._cameras = {name: _Camera(*pair) for name, pair in topics.items()}
            self._troubles = {key: value for key, value in self._troubles.items() if key[0] == ""}

    def image_seen(self, camera: str) -> None:
        """An image of this camera has come."""
        with self._lock:
            if camera in self._cameras:
                self._cameras[camera].images += 1
                self._cameras[camera].arrivals.append(self._clock())

    def info_seen(self, camera: str) -> None:
        """A CameraInfo of this camera has come."""
        with self._lock:
            if camera in self._cameras:
                self._cameras[camera].infos += 1

    def report(self, camera: str, aspect: str, text: str, level: bytes = ERROR, log: bool = True) -> None:
        """There is this trouble (in place of an earlier one of the same aspect). Without ``log`` it is only kept."""
        now = self._clock()
        with self._lock:
            self._troubles[(camera, aspect)] = Trouble(level, text)
            told = self._told.get((camera, aspect))
            if not log or (told is not None and now - told < _LOG_EVERY_S):
                return
            self._told[(camera, aspect)] = now
        self._log(f"{camera}: {text}" if camera else text, level)

    def clear(self, camera: str, aspect: str) -> None:
        """That trouble is over, if there was one."""
        with self._lock:
            self._troubles.pop((camera, aspect), None)

    def troubles(self, camera: str, publishers: Callable[[str], int] | None = None) -> list[Trouble]:
        """What is wrong with one camera ('' for the node), the most telling first.

        Args:
            camera: its name.
            publishers: number of publishers of a topic, to tell a silent driver from a wrong topic name.
        """
        with self._lock:
            known = [self._troubles[camera, aspect] for aspect in _ORDER if (camera, aspect) in self._troubles]
            seen = self._cameras.get(camera)
            if seen is None:
                return known
            silent = self._clock() - seen.arrivals[-1] if seen.arrivals else None
            images, infos = seen.images, seen.infos
        found = []
        if images == 0:
            found.append(
                Trouble(ERROR, f"no image has come on {seen.image_topic}{_publishers(seen.image_topic, publishers)}")
            )
        elif silent is not None and silent > STALE_AFTER_S:
            found.append(
                Trouble(
                    ERROR,
                    f"no image for {silent:.1f} s on {seen.image_topic}"
                    + _publishers(seen.image_topic, publishers, heard=True),
                )
            )
        if infos == 0 and seen.info_topic:
            found.append(
                Trouble(ERROR, f"no CameraInfo has come on {seen.info_topic}{_publishers(seen.info_topic, publishers)}")
            )
        return found + known

    def camera_values(self, camera: str) -> dict[str, str]:
        """What is known of one camera, for /diagnostics."""
        with self._lock:
            seen = self._cameras[camera]
            arrivals, now = list(seen.arrivals), self._clock()
        values = {"image topic": seen.image_topic, "images": str(seen.images)}
        if len(arrivals) > 1 and now - arrivals[-1] <= STALE_AFTER_S and arrivals[-1] > arrivals[0]:
            values["rate (Hz)"] = f"{(len(arrivals) - 1) / (arrivals[-1] - arrivals[0]):.2f}"
        if arrivals:
            values["last image (s ago)"] = f"{now - arrivals[-1]:.2f}"
        values["camera_info topic"] = seen.info_topic or "(calibration file)"
        return values

    @property
    def cameras(self) -> list[str]:
        """The cameras being watched."""
        with self._lock:
            return list(self._cameras)


def _publishers(topic: str, count: Callable[[str], int] | None, heard: bool = False) -> str:
    """Who publishes a topic, in words; ``heard``: something has come on it before."""
    if count is None:
        return ""
    number = count(topic)
    if number:
        return f" ({number} publisher{'s' * (number > 1)})"
    return " (its publisher has gone)" if heard else " (nobody publishes it: check the name and namespace)"


def status_message(
    name: str, hardware: str, troubles: Sequence[Trouble], well: str, values: Mapping[str, str]
) -> DiagnosticStatus:
    """diagnostic_msgs/DiagnosticStatus: the worst level, every trouble's text, or ``well`` if there is none."""
    level = max((trouble.level for trouble in troubles), default=DiagnosticStatus.OK)
    status = DiagnosticStatus(level=level, name=name, hardware_id=hardware)
    status.message = "; ".join(trouble.text for trouble in troubles) or well
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def diagnostic_array(stamp: object, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """diagnostic_msgs/DiagnosticArray at ``stamp`` (builtin_interfaces/Time)."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = stamp
    return array
