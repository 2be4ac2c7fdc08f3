"""The verb: what it writes, and what it says when something is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from bevdistill_ros import cli
from bevdistill_ros.bench import command, report
from bevdistill_ros.bench.rig_sets import synthetic_sets
from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def small_pictures(monkeypatch):
    """Made-up pictures are small ones."""
    monkeypatch.setattr(command, "synthetic_sets", lambda count, seed: synthetic_sets(count, (400, 225), seed))


@pytest.fixture(autouse=True)
def threads_as_before():
    import cv2

    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def run(*words: object) -> int:
    return cli.main(["bench", *map(str, words)])


def test_figures_in_process(tiny_checkpoint, tmp_path, capsys, small_pictures):
    path = tmp_path / "speed.json"
    assert run("--model", tiny_checkpoint, "--sets", 6, "--compare", "--json", path, "--device", "cpu") == 0
    figures = json.loads(path.read_text())
    assert figures["model"] == "tiny" and figures["device"] == "cpu" and figures["sets"] == 6
    assert figures["input"]["cameras"] == [f"cam_{i}" for i in range(6)]
    assert figures["input"]["picture_size"] == [400, 225]
    stages = figures["stages"]
    assert set(report.TITLES) - set(stages) <= {"messages"}
    for name, row in {**stages, "whole": figures["whole"]}.items():
        assert 0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"], name
    parts = ("backbone", "lift", "bev_encoder", "head")
    for name, row in stages.items():
        assert ("floor_ms" in row) == (name in ("warp", "upload", "network", *parts))
        if "floor_ms" in row:
            assert row["bytes"] > 0 and (row["flops"] > 0) == (name in ("network", *parts))
            assert row["floor_ratio"] == pytest.approx(row["median_ms"] / row["floor_ms"], rel=0.05, abs=0.01)
    assert stages["network"]["flops"] == sum(stages[name]["flops"] for name in parts)
    assert stages["network"]["floor_ms"] == pytest.approx(sum(stages[name]["floor_ms"] for name in parts), abs=1e-3)
    assert figures["floor_ratio"] == stages["network"]["floor_ratio"]
    assert all(value > 0 for value in figures["peaks"].values())
    assert figures["memory"]["resident_mb"] > 50
    assert set(figures["compare"]) == {"ratios", "median_ms"}
    assert "end_to_end" not in figures
    said = capsys.readouterr().out
    for title in report.TITLES.values():
        assert title.strip() in said or title == "messages"
    assert "times the straightforward path's speed" in said


def test_every_key_is_explained(tiny_checkpoint, tmp_path, small_pictures):
    path = tmp_path / "speed.json"
    assert run("--model", tiny_checkpoint, "--sets", 2, "--json", path, "--device", "cpu") == 0
    text = (REPOSITORY / "docs" / "speed.md").read_text()
    keys = set()

    def collect(value) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                keys.add(key)
                collect(inner)

    collect(json.loads(path.read_text()))
    assert len(keys) > 30
    assert not [key for key in keys if f"`{key}`" not in text]


def test_another_precision_is_that_of_floors_and_parts(tiny_checkpoint, tmp_path, capsys, small_pictures):
    paths = [tmp_path / f"{backend}.json" for backend in ("torch", "torch_bfloat16")]
    for path in paths:
        words = ["--model", tiny_checkpoint, "--backend", path.stem, "--sets", 1, "--json", path, "--device", "cpu"]
        assert run(*words) == 0
    full, half = (json.loads(path.read_text()) for path in paths)
    assert (full["precision"], half["precision"]) == ("float32", "bfloat16")
    assert full["backend"] == "torch" and half["backend"] == "torch_bfloat16"
    assert half["stages"]["backbone"]["flops"] == full["stages"]["backbone"]["flops"]
    # A convolution's inputs, weights and outputs all have half of the bytes.
    assert half["stages"]["backbone"]["bytes"] == full["stages"]["backbone"]["bytes"] / 2


def test_a_dataset(tiny_checkpoint, tiny_nuscenes, capsys):
    pytest.importorskip("nuscenes")
    assert run("--model", tiny_checkpoint, "--data", tiny_nuscenes, "--sets", 2, "--device", "cpu") == 0
    assert "6 cameras of 160x90" in capsys.readouterr().out


def failure(capsys, *words: object, status: int = 1) -> str:
    assert run(*words) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_bad_input_is_one_line(tiny_checkpoint, tmp_path, capsys):
    assert "no shipped weights" in failure(capsys, "--model", "nowhere", status=2)
    assert f"{tmp_path}: is no bag" in failure(capsys, "--model", tiny_checkpoint, "--bag", tmp_path, "--device", "cpu")
    assert "no nuScenes version" in failure(capsys, "--model", tiny_checkpoint, "--data", tmp_path, "--device", "cpu")
    assert "device 'gpu'" in failure(capsys, "--model", tiny_checkpoint, "--device", "gpu")


def test_what_a_cpu_is_not_meant_for_is_refused(tiny_checkpoint, capsys):
    on_cpu = ("--model", tiny_checkpoint, "--device", "cpu")
    assert "execution 'graph' is for CUDA, not for device 'cpu'" in failure(capsys, *on_cpu, "--execution", "graph")
    assert "'torch_float16' is for CUDA, not for device 'cpu'" in failure(capsys, *on_cpu, "--backend", "torch_float16")


def test_a_teacher_is_refused(tmp_path, capsys):
    config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), (), {}))
    assert "name the checkpoint of a student" in failure(capsys, "--model", path, "--device", "cpu")


def test_what_cannot_be_compared_is_told_at_once(tmp_path, capsys, monkeypatch):
    config = load_config(share_directory() / "config" / "models" / "bevformer_nano.yaml").model
    path = tmp_path / "bevformer.safetensors"
    save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), (), {}))
    monkeypatch.setattr(command, "read_sets", lambda *_: pytest.fail("the pictures were read first"))
    assert "does not lift and splat" in failure(capsys, "--model", path, "--compare", "--device", "cpu")


def test_without_ros_the_lack_of_it_is_told_at_once(tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.setattr(command, "read_sets", lambda *_: pytest.fail("the pictures were read first"))
    text = failure(capsys, "--model", tiny_checkpoint, "--end-to-end", "--device", "cpu")
    assert "--end-to-end needs ROS 2" in text


def test_a_picture_of_no_use_is_named(tiny_checkpoint, tiny_nuscenes, tmp_path, capsys):
    pytest.importorskip("nuscenes")
    root = tmp_path / "copy"
    shutil.copytree(tiny_nuscenes, root)
    for path in (root / "samples" / "CAM_BACK").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    text = failure(capsys, "--model", tiny_checkpoint, "--data", root, "--device", "cpu")
    assert "dataset copy: CAM_BACK: " in text and "decoded" in text


@pytest.mark.parametrize(
    "words",
    [
        ["--bag", "a", "--data", "b"],
        ["--rig", "rig.yaml"],
        ["--version", "v1.0-mini"],
        ["--sets", "0"],
        ["--rate", "0"],
        ["--publish", "--compare"],
        ["--publish", "--end-to-end"],
    ],
)
def test_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2


def test_missing_modules_are_named_with_the_option_that_needs_them(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'rosbags'", name="rosbags")

    monkeypatch.setattr(command, "bag_sets", missing)
    text = failure(capsys, "--model", tiny_checkpoint, "--bag", tmp_path, "--device", "cpu")
    assert "--bag needs the Python module 'rosbags'" in text and "leave --bag out" in text
