"""One thread for slow work, which always takes the newest of what is offered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

STOP_TIMEOUT_S = 10.0


class Worker:
    """A thread that works on the newest item offered: one slot, in which a newer item takes an older one's place.

    Args:
        work: gets an item and an event, which is set once nobody wants the result any more.
        on_error: gets what ``work`` raises; the thread goes on.
    """

    def __init__(self, work: Callable[[Any, threading.Event], None], on_error: Callable[[Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: Any = None
        self._busy_since: float | None = None
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detector", daemon=True)
        self._thread.start()

    def offer(self, item: Any) -> bool:
        """Hand an item over. True if it displaced one that had not been begun."""
        with self._condition:
            displaced, self._slot = self._slot is not None, item
            self._condition.notify()
        return displaced

    @property
    def pending(self) -> int:
        """Items that wait or are being worked on: 0 to 2."""
        with self._condition:
            return (self._slot is not None) + (self._busy_since is not None)

    @property
    def busy_s(self) -> float:
        """For how long the present item has been worked on; 0 if none is."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Finish the present item, drop a waiting one, end the thread. True once it has ended. Repeatable."""
        self.stopping.set()
        with self._condition:
            self._slot = None
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._slot is not None or self.stopping.is_set())
                if self.stopping.is_set():
                    return
                item, self._slot = self._slot, None
                self._busy_since = time.monotonic()
            try:
                self._work(item, self.stopping)
            except Exception as error:
                self._on_error(error)
            item = None  # its images are not kept until the next one
            with self._condition:
                self._busy_since = None
