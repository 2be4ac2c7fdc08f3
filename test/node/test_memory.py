"""What the allocator keeps: little, after threads have come and gone."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")

PROGRAM = """
import ctypes, re, sys, threading
from bevdistill_ros.node.memory import give_back, keep_few_arenas
keep_few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
together = threading.Barrier(6)
def work():
    pieces = [libc.malloc(100_000) for _ in range(100)]  # 10 MB in pieces that come from an arena
    for piece in pieces:
        libc.memset(piece, 1, 100_000)
    together.wait(60)
    for piece in pieces:
        libc.free(piece)
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
before = resident()
threads = [threading.Thread(target=work) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
give_back()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
print("grown by", resident() - before)
"""


def run(**environment: str) -> tuple[int, int]:
    """Arenas, and growth in MB, of a process in which six threads used 10 MB each."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", PROGRAM]
    said = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=True, timeout=120
    )
    return said.stdout.count("<heap nr="), int(said.stdout.split()[-1])


def test_threads_share_two_arenas_and_what_they_free_goes_back() -> None:
    assert hasattr(ctypes.CDLL(None), "malloc_trim")
    arenas, grown = run()
    assert arenas == 2 and grown < 30


def test_who_chooses_arenas_is_not_overruled() -> None:
    assert run(MALLOC_ARENA_MAX="4")[0] == 4
