"""`detector` as users run it: a process with a real network, a rig in another, this one listens; and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from vision_msgs.msg import Detection3DArray

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus
from bevdistill_ros.node.spinning import SpinningNode
from bevdistill_ros.paths import share_directory
from bevdistill_ros.runtime.processor import calculates_in_bfloat16
from bevdistill_ros.stamps import stamp_ns
from bevdistill_ros.training.config import load_config

DEADLINE = 90.0
CAMERAS = ["cam_a", "cam_b", "cam_c", "cam_d", "cam_e", "cam_f"]
SHIPPED = str(share_directory() / "config" / "detector.yaml")
DETECTOR = "import sys; from bevdistill_ros.cli import main; sys.exit(main(['detector', *sys.argv[1:]]))"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small network with random weights, trained on six cameras as far as its file knows."""
    torch.manual_seed(0)
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["model.backbone.width=8"]).model
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint(config, LSS(config).state_dict(), tuple(CAMERAS), {}))
    return path


class Detector:
    """The program in a process; its output is kept."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DETECTOR, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        self.lines: list[str] = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()

    def wait_for_line(self, text: str) -> None:
        with self.changed:
            found = self.changed.wait_for(lambda: any(text in line for line in self.lines), DEADLINE)
        assert found, f"'{text}' not in the output:\n" + "\n".join(self.lines)

    def end(self) -> tuple[int, str]:
        """Exit status and whole output, once it has ended by itself."""
        status = self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        return status, "\n".join(self.lines)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        self.process.stdout.close()


@pytest.fixture
def start_detector(ros_domain):
    started = []

    def start(*arguments: str) -> Detector:
        started.append(Detector(*arguments))
        return started[-1]

    yield start
    for detector in started:
        detector.kill()


class Listener(SpinningNode):
    """A node of this process that keeps what comes."""

    def subscribe(self, node) -> None:
        """Tests do, by `listen`."""

    def listen(self, kind: type, topic: str) -> list:
        kept: list = []

        def keep(message) -> None:
            with self.changed:
                kept.append(message)
                self.changed.notify_all()

        self.node.create_subscription(kind, topic, keep, 50)
        self.executor.wake()
        return kept

    def expect(self, condition, what: str, detector: Detector) -> None:
        """Wait until ``condition()`` holds."""
        seen = self.wait(condition, DEADLINE, lambda: None)
        assert seen, "\n".join([f"{what} not seen; the node said:", *detector.lines])

    def set_parameter(self, node: str, name: str, value) -> str:
        """Over the node's service; the reason of a refusal, or an empty text."""
        client = self.node.create_client(SetParameters, f"{node}/set_parameters")
        assert client.wait_for_service(DEADLINE)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:  # DDS may lose an answer that is given before the two ends have fully met
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            self.executor.wake()
            if done.wait(5.0):
                (result,) = future.result().results
                return "" if result.successful else result.reason
        raise AssertionError(f"{node} does not answer")


@pytest.fixture
def listener(ros_domain):
    with Listener("listener") as listener:
        yield listener


def test_six_cameras_to_boxes_between_processes(start_detector, start_rig, listener, checkpoint, rig_module) -> None:
    """Cameras as the checkpoint names them, offsets learnt, in a namespace; then thresholds, a lost camera, and two interrupts."""
    detections = listener.listen(Detection3DArray, "/rig/bevdistill_detector/detections")
    objects = listener.listen(DetectedObjectArray, "/rig/bevdistill_detector/objects")
    status = listener.listen(DetectorStatus, "/rig/bevdistill_detector/status")
    parameters = [
        "-p",
        f"model:={checkpoint}",
        "-p",
        "score_threshold:=0",
        "-p",
        "torch_threads:=1",
        "-p",
        "max_detections:=7",
    ]
    detector = start_detector("--ros-args", "-r", "__ns:=/rig", *parameters)
    rig = start_rig(CAMERAS, "--namespace", "/rig")

    def whole_set() -> tuple | None:
        """The newest set of all cameras, from all three topics; each is heard from a moment of its own on."""
        for found in reversed(objects):
            others = [next((m for m in kept if m.header == found.header), None) for kept in (detections, status)]
            if not found.partial and None not in others and others[1].motion_compensated:
                return found, *others
        return None

    listener.expect(whole_set, "a set of all cameras", detector)
    array, same, told = whole_set()
    stamps = [stamp_ns(stamp) for stamp in array.stamps]
    assert list(array.cameras) == CAMERAS and array.header.frame_id == "base_link" and len(array.objects) == 7
    assert stamp_ns(array.header.stamp) == stamps[0]
    assert (stamps[0] - rig_module.START) % rig_module.PERIOD == 0
    assert [s - stamps[0] for s in stamps] == [i * rig_module.OFFSET for i in range(6)]
    assert [d.results[0].hypothesis.score for d in same.detections] == [o.score for o in array.objects]
    assert told.published and {"preprocess", "network", "total"} <= {stage.name for stage in told.stages}

    name = "/rig/bevdistill_detector"
    assert "from 0 to 1" in listener.set_parameter(name, "score_threshold", 3)
    assert listener.set_parameter(name, "score_threshold", 3.0) != ""
    assert listener.set_parameter(name, "score_threshold", 1) == ""
    count = len(detections)
    listener.expect(lambda: any(not d.detections for d in detections[count:]), "an empty array", detector)

    rig.tell("mute cam_d")
    listener.expect(lambda: objects[-1].partial, "a partial set", detector)
    assert list(objects[-1].used) == [True, True, True, False, True, True]

    detector.process.send_signal(signal.SIGINT)
    detector.process.send_signal(signal.SIGINT)
    code, output = detector.end()
    assert code == 0 and "Traceback" not in output, output


@pytest.mark.parametrize("delay", [0.0, 0.1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_on_repeated_signals(start_detector, checkpoint, number, delay) -> None:
    """The second signal arrives before, during or after the clean-up."""
    detector = start_detector(
        "--ros-args", "-p", f"model:={checkpoint}", "-p", "warm_up:=false", "-p", "fixed_frame:=''"
    )
    detector.wait_for_line("boxes in base_link")
    for _ in range(3):
        if detector.process.poll() is None:
            detector.process.send_signal(number)
        time.sleep(delay)
    code, output = detector.end()
    assert code == 0 and "Traceback" not in output and "failed" not in output, output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-p", "model:=''"], "error: parameter 'model' is empty"),
        (["-p", "model:=nobody_ships_this"], "error: model 'nobody_ships_this': no shipped weights of this name"),
        (["-p", "model:=/nowhere/model.safetensors"], "error: /nowhere/model.safetensors"),
        (["--params-file", SHIPPED, "-p", "model:=/nowhere/model.safetensors"], "error: /nowhere/model.safetensors"),
        (["-p", "model:=x", "-p", "score_threshold:=high"], "error: parameter 'score_threshold' must be a number"),
        (["-p", "model:=x", "-p", "cameras:=front"], "error: parameter 'cameras' must be a list"),
        (["--params-file", "/nowhere.yaml"], "error: ROS arguments: "),
        (["-p", "model"], "error: ROS arguments: "),
    ],
)
def test_mistakes_end_it_with_one_line(start_detector, arguments, text) -> None:
    code, output = start_detector("--ros-args", *arguments).end()
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1 and errors[0].startswith(text) and "Traceback" not in output, output


def test_without_autostart_it_waits_unconfigured(start_detector, listener) -> None:
    detector = start_detector("--ros-args", "-p", "autostart:=false")
    assert listener.set_parameter("/bevdistill_detector", "model", "later.safetensors") == ""
    detector.process.send_signal(signal.SIGTERM)
    assert detector.end()[0] == 0


def test_usage(start_detector) -> None:
    code, output = start_detector("--help").end()
    assert code == 0 and "example:" in output
    assert start_detector("--nonsense").end()[0] == 2


def test_what_was_exported_beside_the_checkpoint_runs(
    start_detector, start_rig, listener, checkpoint, tmp_path
) -> None:
    """By ONNX Runtime, by itself where the processor has no bfloat16; the log and the diagnostics say so."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    path = tmp_path / "model.safetensors"
    shutil.copy(checkpoint, path)
    assert main(["export", str(path)]) == 0
    detections = listener.listen(Detection3DArray, "/bevdistill_detector/detections")
    diagnostics = listener.listen(DiagnosticArray, "/diagnostics")
    backend = "onnxruntime" if calculates_in_bfloat16() else "auto"
    detector = start_detector(
        "--ros-args", "-p", f"model:={path}", "-p", f"backend:={backend}", "-p", "score_threshold:=0"
    )
    detector.wait_for_line("backend onnxruntime, CPUExecutionProvider")
    start_rig(CAMERAS)
    listener.expect(lambda: any(d.detections for d in detections), "boxes", detector)

    def told() -> bool:
        values = [value for array in diagnostics for status in array.status for value in status.values]
        return any((v.key, v.value) == ("backend", "onnxruntime, CPUExecutionProvider") for v in values)

    listener.expect(told, "the backend on /diagnostics", detector)
