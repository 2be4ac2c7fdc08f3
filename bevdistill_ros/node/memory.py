"""What stays in memory, and what it costs: of the C library's allocator, and of Python's garbage collector.

glibc gives threads arenas, eight a core, and each keeps what a network needed at its peak; of most, the last free piece never
goes back to the system. Every activation has a new thread, which may be given any of them. So without the two functions below the
process grew for a hundred times round the lifecycle, with `nano` from 443 to 513 MB, without a byte more being in use. Where the
C library is another one nothing happens.

Python's collector goes through everything that there is, now and then: with PyTorch loaded that takes a tenth of a second, in which
no image is received and no set is finished. What is there once the network is loaded stays anyway, so it is left out from then on.
"""

from __future__ import annotations

import ctypes
import gc
import os

_M_ARENA_MAX = -8  # of glibc's malloc.h
_ARENAS = 2
"""One for the executor's thread and one for those that work beside it."""


def keep_few_arenas() -> None:
    """For the start of a program, before there are threads. Who sets MALLOC_ARENA_MAX or GLIBC_TUNABLES is not overruled."""
    if "MALLOC_ARENA_MAX" not in os.environ and "arena_max" not in os.environ.get("GLIBC_TUNABLES", ""):
        _call("mallopt", _M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return to the system what has been freed."""
    _call("malloc_trim", 0)


def leave_out_of_collection() -> None:
    """Have the garbage collector pass over all that there is at present, in the whole process."""
    gc.collect()
    gc.freeze()
    gc.collect()  # it goes by the size of the last collection when it chooses the time of the next one


def let_collect() -> None:
    """Undo ``leave_out_of_collection``: for what was in use and is no more."""
    gc.unfreeze()


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        getattr(library, name)(*arguments)
