"""Cameras that send the same picture again and again under new stamps: a driver that repeats its last buffer."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from typing import Any

_PIECES, _PIECE = 16, 4096  # bytes of a picture that are looked at: 0.05 ms
_REMEMBERED = 64  # images of a camera: more than wait anywhere


def fingerprint(data: Any) -> int:
    """A number that differs where two pictures do, but for chances in 2^32.

    Up to 64 KiB are gone through whole, of more 16 pieces, the first and the last bytes among them: a sensor's noise is
    everywhere, and in a JPEG a change in one place moves all that comes after it.
    """
    view = memoryview(data).cast("B")
    size = len(view)
    if size <= _PIECES * _PIECE:
        return zlib.crc32(view, size)
    number = size & 0xFFFFFFFF
    for i in range(_PIECES):
        start = (size - _PIECE) * i // (_PIECES - 1)
        number = zlib.crc32(view[start : start + _PIECE], number)
    return number


class Repeats:
    """How often in a row each image's picture has come from its camera.

    All images are seen as they arrive, whatever becomes of them: of those that reach the network alone, the one that is
    repeated may not have been one. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[int, int, int]] = {}  # stamp, fingerprint, how often in a row
        self._counts: dict[str, OrderedDict[int, int]] = {}  # by camera and stamp

    def see(self, camera: str, stamp_ns: int, data: Any) -> None:
        """Take a camera's next image. One that comes twice with its stamp is no repetition."""
        number = fingerprint(data)
        with self._lock:
            stamp, last, count = self._last.get(camera, (0, None, 0))
            if number != last:
                count = 1
            elif stamp != stamp_ns:
                count += 1
            self._last[camera] = stamp_ns, number, count
            counts = self._counts.setdefault(camera, OrderedDict())
            counts[stamp_ns] = count
            while len(counts) > _REMEMBERED:
                counts.popitem(last=False)

    def count(self, camera: str, stamp_ns: int) -> int:
        """How often in a row the picture of this image had come, 1 for a new one or one that was not seen."""
        with self._lock:
            return self._counts.get(camera, {}).get(stamp_ns, 1)
