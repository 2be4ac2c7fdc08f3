"""What MuJoCo needs to draw without a screen: chosen before it is imported, because it looks only then."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

from bevdistill_ros.errors import UserError
from bevdistill_ros.hardware import available_cores

BACKENDS = ("egl", "osmesa")
"""In order of preference: EGL draws on a GPU where there is one, and in software otherwise; OSMesa in software."""

PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"


def choose_backend() -> str:
    """Value for MUJOCO_GL: the user's, or that of the first backend that works here.

    Raises:
        UserError: MuJoCo is not installed, or nothing can draw.
    """
    if find_spec("mujoco") is None:
        raise UserError("the world needs MuJoCo, which is not installed: pip install mujoco")
    chosen = os.environ.get("MUJOCO_GL")
    for backend in (chosen,) if chosen else BACKENDS:
        # In a process of its own: a library that fails to initialise may take its process along.
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, check=False
        )
        if probe.returncode == 0:
            return backend
    if chosen:
        raise UserError(
            f"MUJOCO_GL={chosen}: MuJoCo cannot draw with it here; unset it, so that {' or '.join(BACKENDS)} is tried"
        )
    raise UserError(
        "MuJoCo cannot draw here: neither EGL nor OSMesa works; install one with "
        "apt-get install libegl1 libgl1-mesa-dri libopengl0, or apt-get install libosmesa6"
    )


def thread_limits(workers: int) -> dict[str, str]:
    """Environment variables that share this machine's cores among ``workers`` processes; the user's own are kept."""
    threads = str(max(1, available_cores() // workers))
    names = ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    return {name: os.environ.get(name, threads) for name in names}
