"""`doctor` over DDS: a rig in another process with a fault a camera, and what is said of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.doctor import command
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

DEADLINE = 120.0  # only how long a failure takes: a machine with much to do is slow to start and to join processes
DOCTOR = "import sys; from bevdistill_ros.cli import main; sys.exit(main(['doctor', *sys.argv[1:]]))"
RIG = Path(__file__).with_name("faulty_rig.py")
EXPECTED = {
    ("topic", "absent"), ("body_frame", "body"), ("stamps", "unstamped"),
    ("camera_info", "uncalibrated"), ("size", "small"), ("topic", "raw"), ("tf", "adrift"), ("topic", "double"),
}  # fmt: skip


@pytest.fixture(scope="module")
def faulty_rig(ros_domain):
    process = subprocess.Popen([sys.executable, str(RIG)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    yield
    process.stdin.close()
    try:
        process.wait(DEADLINE)
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small network with random weights."""
    torch.manual_seed(0)
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["model.backbone.width=8"]).model
    path = tmp_path_factory.mktemp("checkpoint") / "own.safetensors"
    save_checkpoint(path, Checkpoint(config, LSS(config).state_dict(), ("GOOD", "FINE"), {"data": "my_bags"}))
    return path


def errors(document: dict) -> set[tuple[str, str]]:
    return {(f["check"], f["subject"]) for f in document["findings"] if f["severity"] == "error"}


def examine(folder: Path, expected: set[tuple[str, str]], *arguments: str) -> tuple[int, dict]:
    """Run doctor until it finds these errors: how soon DDS joins processes depends on the machine."""
    file, deadline = folder / "doctor.json", time.monotonic() + DEADLINE
    while True:
        status = command.main(["--seconds", "2.5", "--json", str(file), *arguments])
        document = json.loads(file.read_text())
        if errors(document) == expected:
            return status, document
        assert time.monotonic() < deadline, [f for f in document["findings"] if f["severity"] == "error"]


def test_every_fault_is_found_and_nothing_else(faulty_rig, checkpoint, tmp_path, capsys) -> None:
    names = ["good", "absent", "body", "unstamped", "uncalibrated", "small", "raw", "adrift", "double"]
    picture = tmp_path / "rig.png"
    parameters = tmp_path / "detector.yaml"
    parameters.write_text(
        f"bevdistill_detector:\n  ros__parameters:\n    model: {checkpoint}\n    device: cpu\n    tolerance: 3\n"
    )
    arguments = ["--params-file", str(parameters), "--cameras", *names, "--picture", str(picture)]
    status, document = examine(tmp_path, EXPECTED, *arguments)
    assert status == 1 and document["ok"] is False
    found = {(f["check"], f["subject"]): f for f in document["findings"]}
    assert "static_transform_publisher --frame-id body_eye" in found["body_frame", "body"]["advice"]
    assert found["topic", "raw"]["advice"].startswith("set image_transport: raw")
    assert "2 publishers (/faulty_rig, /faulty_rig)" in found["topic", "double"]["what"]
    assert found["parameters", "rig"]["what"] == "there is no parameter 'tolerance'"
    assert "trained on my_bags" in found["model", "model"]["what"]
    cameras = {camera["name"]: camera for camera in document["cameras"]}
    assert cameras["good"]["size"] == [320, 192] and cameras["good"]["frame"] == "good_eye"
    assert cameras["good"]["base_T_camera"][2][3] == 1.0 and cameras["absent"]["images"] == 0
    image = cv2.imread(str(picture))
    assert image is not None and image.shape[1] > 5 * 640  # nine look ahead, or are put there
    assert "error" in capsys.readouterr().out.splitlines()[-1]


def test_a_rig_with_nothing_wrong_is_fine(faulty_rig, checkpoint, tmp_path, capsys) -> None:
    """With the checkpoint's own cameras, through ROS arguments alone."""
    status, document = examine(tmp_path, set(), "--ros-args", "-p", f"model:={checkpoint}", "-p", "device:=cpu")
    assert status == 0 and document["ok"] is True
    assert [camera["name"] for camera in document["cameras"]] == ["good", "fine"]


def test_qos_and_remaps(faulty_rig, checkpoint, tmp_path) -> None:
    remap = "/eye/image_raw/compressed:=/good/image_raw/compressed"
    arguments = [
        "--cameras",
        "eye",
        "--fixed-frame",
        "",
        "--ros-args",
        "-r",
        remap,
        "-r",
        "eye/camera_info:=good/camera_info",
    ]
    arguments += ["-p", "reliability:=reliable", "-p", f"model:={checkpoint}"]
    status, document = examine(tmp_path, {("qos", "eye")}, *arguments)
    assert status == 1 and document["cameras"][0]["image_topic"] == "/good/image_raw/compressed"


def test_without_a_model_the_rest_is_still_told(faulty_rig, tmp_path) -> None:
    _, document = examine(tmp_path, {("model", "model")}, "--cameras", "good", "--model", "/nowhere/model.safetensors")
    assert document["cameras"][0]["images"] > 0
    status, document = examine(tmp_path, {("model", "model")}, "--model", "/nowhere/model.safetensors")
    assert status == 1 and document["cameras"] == []


@pytest.mark.parametrize(
    "arguments", [["--seconds", "0"], ["--picture", "rig.txt"], ["--json", "/nowhere/at/all.json"], ["--nonsense"]]
)
def test_usage(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2 and "usage:" in capsys.readouterr().err


def test_mistakes_are_one_line(ros_domain, tmp_path) -> None:
    with pytest.raises(UserError, match="ROS arguments: "):
        command.main(["--params-file", "/nowhere.yaml"])
    with pytest.raises(UserError, match="parameter 'device' is 'toaster'"):
        command.main(["--device", "toaster"])
    with pytest.raises(UserError, match="/nowhere.yaml"):
        command.main(["--cameras", "a", "--calibration-file", "/nowhere.yaml"])


def test_an_interrupt_ends_it_at_once(faulty_rig) -> None:
    command = [
        sys.executable,
        "-c",
        DOCTOR,
        "--seconds",
        "600",
        "--cameras",
        "good",
        "--model",
        "/nowhere/x.safetensors",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "listening" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 1 and not out and "Traceback" not in err, err


def test_help_shows_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR, "--help"], capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "examples:" in done.stdout and "Exit status" in done.stdout
