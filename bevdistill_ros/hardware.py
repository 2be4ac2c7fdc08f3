"""What machine a figure was measured on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def hardware() -> str:
    """CPU model and cores usable, and the GPU where torch is in use and sees one."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    description = f"{model}, {available_cores()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        description += f", {torch.cuda.get_device_name()}"
    return description


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
