"""The command line as a whole: exit statuses, and what is told without the packages that take seconds to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bevdistill_ros import cli
from bevdistill_ros.arguments import split_ros_arguments

HEAVY = ("torch", "lightning", "nuscenes", "rclpy", "tf2_ros", "rosbags", "mujoco", "onnx", "onnxruntime")
WITHOUT = """
import sys
from bevdistill_ros.cli import main

verb, *heavy = sys.argv[1].split(",")
for name in heavy:
    sys.modules[name] = None  # as if it were not installed
try:
    status = main([verb, *sys.argv[2:]])
except SystemExit as error:
    status = error.code
sys.exit(status)
"""


def without_packages(verb: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A verb in a process of its own that has none of the heavy packages."""
    command = [sys.executable, "-c", WITHOUT, ",".join((verb, *HEAVY)), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_help_and_wrong_options_need_nothing_but_the_package(verb: str) -> None:
    told = without_packages(verb, "--help")
    assert told.returncode == 0 and f"usage: bevdistill {verb}" in told.stdout and "example" in told.stdout, told
    refused = without_packages(verb, "--there-is-no-such-option")
    assert refused.returncode == 2 and "usage:" in refused.stderr and "Traceback" not in refused.stderr, refused


@pytest.mark.parametrize(
    ("verb", "options", "says"),
    [
        ("train", ["--data", "d", "--output", "o", "--config", "Nano"], "--config Nano: is neither"),
        ("train", ["--data", "d", "--output", "o", "--set", "training.step=3"], "did you mean 'steps'?"),
        ("train", ["--data", "d", "--output", "o", "--rig", "r.yaml"], "--rig belongs to --bags"),
        ("train", ["--output", "o"], "name a dataset with --data"),
        ("train", ["--output", "o", "--resume", "--config", "nano"], "leave out --config"),
        ("train", ["--data", "d", "--output", "o", "--devices", "0"], "--devices: must be at least 1"),
        ("label", ["t", "--data", "d", "--output", "o", "--precision", "0.9"], "--precision belongs to --calibrate"),
        ("export", ["Nano"], "no shipped weights of this name"),
        ("evaluate", ["Nano", "--data", "d"], "no shipped weights of this name"),
        ("evaluate", ["nano", "--data", "d", "--ranges", "3,2"], "not a list of rising distances"),
        ("demo", ["--duration", "nan"], "duration nan s"),
        ("world", ["--drives", "1"], "nothing to write"),
        ("doctor", ["--picture", "rig.txt"], "must end in .png or .jpg"),
    ],
)
def test_a_wrong_command_line_is_status_2(verb: str, options: list[str], says: str, tmp_path) -> None:
    told = without_packages(verb, *options)
    assert told.returncode == 2 and says in told.stderr and "Traceback" not in told.stderr, told


def test_what_a_right_command_line_names_is_status_1(tmp_path, capsys) -> None:
    assert cli.main(["train", "--config", str(tmp_path / "none.yaml"), "--data", "d", "--output", str(tmp_path)]) == 1
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    assert cli.main(["train", "--data", "d", "--output", str(tmp_path), "--resume"]) == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_ros_arguments_are_told_apart() -> None:
    own = ["--seconds", "2", "--json", "f"]
    ros = ["--ros-args", "-p", "seconds:=3", "--help", "--"]
    assert split_ros_arguments([*own[:2], *ros, *own[2:]]) == (own, ros)
    assert split_ros_arguments(["--ros-args", "-r", "a:=b"]) == ([], ["--ros-args", "-r", "a:=b"])
    assert split_ros_arguments(["a", "--", "b"]) == (["a", "--", "b"], [])
    rclpy = pytest.importorskip("rclpy")
    for line in (
        "a --ros-args -p x:=1 -- b",
        "--ros-args -r c:=d",
        "a -- b",
        "a --ros-args -- --ros-args -p x:=1 -- b",
    ):
        assert split_ros_arguments(line.split())[0] == rclpy.utilities.remove_ros_args(["x", *line.split()])[1:]
