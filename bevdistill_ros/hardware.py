"""What machine a figure was measured on."""

from __future__ import annotations

import math
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
    """Cores that this process may use, by its affinity and its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Seconds of CPU time a second that the process's cgroups (version 2) allow it; None where nothing is limited or known.

    Args:
        membership: the kernel's file that says which cgroup the process is in.
        mount: where cgroups are mounted.
    """
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None  # not Linux, or cgroups of version 1
    group = mount / line[len("0::") :].strip("/")
    quotas = []
    while True:
        try:
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            pass  # "max", or a group without that file, as the root
        if group == mount:
            return min(quotas, default=None)
        group = group.parent
