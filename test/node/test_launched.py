"""The launch file as `ros2 launch` runs it: its node comes up as a process, activates itself, and ends on SIGINT."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros")
pytest.importorskip("launch_testing")

DEADLINE = 300.0


def test_the_detector_launched_as_it_is_shipped(ros_domain, tmp_path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROS_LOG_DIR": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "launch_testing.launch_test",
        str(Path(__file__).with_name("launched_detector.py")),
    ]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=DEADLINE
    )
    assert run.returncode == 0 and "Ran 2 tests" in run.stdout, run.stdout[-6000:]
