"""The verb `export`: a file that is checked before anybody gets it, and holds all that is needed to use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bevdistill_ros import cli
from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network
from bevdistill_ros.models.deformable_conv import find_operator
from bevdistill_ros.paths import share_directory
from bevdistill_ros.runtime import onnx_export
from bevdistill_ros.runtime.graph import Graph
from bevdistill_ros.training.config import load_config

onnx = pytest.importorskip("onnx")


def test_the_verb_writes_a_checked_file(exported, tmp_path: Path, capsys, monkeypatch) -> None:
    path, output, report = tmp_path / "mine.safetensors", tmp_path / "out" / "small.onnx", tmp_path / "report.json"
    shutil.copy(exported("nano").checkpoint, path)
    content = exported("nano").onnx.read_bytes()
    monkeypatch.setattr(onnx_export, "export_onnx", lambda *_: content)  # of the same weights: no need to make it again
    assert cli.main(["export", str(path), "--output", str(output), "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "6 cameras: heatmap differ by up to" in text and "1 camera:" in text and "tolerance 0.001" in text
    values = json.loads(report.read_text())
    assert [check["cameras"] for check in values["checks"]] == [6, 1]
    for check in values["checks"]:
        assert 0 < check["codes"]["greatest_difference"] < 1e-3 < check["codes"]["greatest_value"]
    assert Detector.from_checkpoint(output).cameras == ("front", "left")
    assert values["bytes"] == output.stat().st_size
    model = onnx.load(output)
    onnx.checker.check_model(model)
    assert str(Path(onnx_export.__file__).parent.parent) not in str(model)  # where the source lies is nobody's business
    assert {value.name: value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} == {
        "images": "cameras", "points": "points", "pixels": "points", "cells": "points", "looks": "cameras",
    }  # fmt: skip


def test_a_model_that_differs_is_not_written(exported, tmp_path: Path, capsys, monkeypatch) -> None:
    path = tmp_path / "mine.safetensors"
    shutil.copy(exported("nano").checkpoint, path)
    monkeypatch.setattr(onnx_export, "TOLERANCE", 1e-12)
    content = exported("nano").onnx.read_bytes()
    monkeypatch.setattr(onnx_export, "export_onnx", lambda *_: content)  # no need to make it again
    assert cli.main(["export", str(path)]) == 1
    assert "differs from PyTorch by more than the tolerance" in capsys.readouterr().err
    assert not path.with_suffix(".onnx").exists()


def test_a_check_notices_other_weights(exported, student) -> None:
    network = student("nano")
    content = exported("nano").onnx.read_bytes()
    assert all(check.holds for check in onnx_export.check_export(content, network.config, network))
    other = build_network(network.config).eval()
    assert not any(check.holds for check in onnx_export.check_export(content, network.config, other))


def test_the_form_for_tensorrt_has_no_scatter_nd(student) -> None:
    pytest.importorskip("onnxscript")
    network = student("nano")
    card = Checkpoint(network.config, {}, (), {}).card
    content = onnx_export.export_onnx(card, network.config, network, "", for_tensorrt=True)
    operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert "ScatterElements" in operators and "ScatterND" not in operators
    assert all(check.holds for check in onnx_export.check_export(content, network.config, network))
    with pytest.raises(UserError, match="only models that lift have a form for TensorRT"):
        Graph(student("bevformer_nano"), by_elements=True)


def test_what_is_no_student_is_refused(tmp_path: Path, capsys) -> None:
    config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), (), {}))
    assert cli.main(["export", str(path)]) == 1
    assert "needs LiDAR" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(path), "--output", str(tmp_path / "model.pt")])
    assert ended.value.code == 2 and "ends in .onnx" in capsys.readouterr().err


@pytest.mark.skipif(find_operator() is None, reason="torchvision is not installed")
def test_deformable_convolutions_are_refused(tmp_path: Path, capsys) -> None:
    config = load_config(
        share_directory() / "config" / "models" / "nano.yaml",
        ["model.backbone.width=8", "model.backbone.deformable_stages=1"],
    ).model
    path = tmp_path / "deformable.safetensors"
    save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), (), {}))
    assert cli.main(["export", str(path)]) == 1
    assert "deformable convolutions have no operator" in capsys.readouterr().err
