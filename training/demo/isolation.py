"""A ROS domain for the demo alone, on this machine only: it hears no robot, and no robot hears it."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.environment import environment

DOMAINS = range(60, 100)
"""Of those whose ports no system hands out to others; people mostly choose small numbers."""


@contextmanager
def private_domain(log_folder: Path) -> Iterator[int]:
    """Take a free domain for this process and those that it starts meanwhile; ROS logs go to ``log_folder``."""
    with _free_domain() as number:
        change = {
            "ROS_DOMAIN_ID": str(number),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(log_folder),
        }
        if os.environ.get("ROS_DISTRO") == "humble":
            change["ROS_LOCALHOST_ONLY"] = "1"  # the older name of it
        with environment(change):
            yield number


@contextmanager
def _free_domain() -> Iterator[int]:
    """A number that neither the environment names nor another demo on this machine uses."""
    numbers = [number for number in DOMAINS if os.environ.get("ROS_DOMAIN_ID") != str(number)]
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        path = Path(tempfile.gettempdir()) / f"bevdistill_demo_domain_{number}.{os.getuid()}.lock"
        with open(path, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    raise UserError(
        f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other demos; wait for one to end"
    )
