"""Exported files that are damaged, foreign or hostile are refused in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime.onnx_file import read_onnx

onnx = pytest.importorskip("onnx")


@pytest.fixture
def model(exported):
    return onnx.load(exported("nano").onnx)


def refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=text) as error:
        Detector.from_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_sound_file_is_read(exported) -> None:
    model = read_onnx(exported("nano").onnx)
    assert model.cameras == ("front", "left") and model.config == exported("nano").network.config
    assert len(model.weights_sha256) == 64


def test_cut_anywhere(exported, tmp_path: Path) -> None:
    content = exported("nano").onnx.read_bytes()
    for share in (0.0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.999):
        refused(tmp_path, content[: int(len(content) * share)], "damaged or of another kind|is an ONNX file, but not")
    for left in (1, 2, 3, 10, 50):
        refused(tmp_path, content[:-left], "damaged|lacks")


def test_other_kinds_of_files(exported, tmp_path: Path) -> None:
    refused(tmp_path, b"", "0 bytes")
    refused(tmp_path, b"import os\n" * 100, "damaged or of another kind")
    refused(tmp_path, b"\xff" * 1000, "damaged or of another kind")
    refused(tmp_path, exported("nano").checkpoint.read_bytes(), "damaged or of another kind")
    with pytest.raises(UserError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")


def test_an_onnx_file_of_somebody_else(model, tmp_path: Path) -> None:
    del model.metadata_props[:]
    refused(tmp_path, model.SerializeToString(), "is an ONNX file, but not a bevdistill-onnx .*None.*bevdistill export")


def test_data_outside_of_the_file(model, tmp_path: Path) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    refused(tmp_path, model.SerializeToString(), "keeps tensors in other files")


def test_operators_of_others_and_graphs_inside(model, tmp_path: Path) -> None:
    node = model.graph.node[3]
    node.domain = "com.evil"
    refused(tmp_path, model.SerializeToString(), "operators of 'com.evil'")
    node.domain = ""
    inner = node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    inner.g.name = "again"
    refused(tmp_path, model.SerializeToString(), "graphs or sparse tensors inside")
    del node.attribute[-1]
    model.functions.add(name="f")
    refused(tmp_path, model.SerializeToString(), "functions of its own")


def set_metadata(model, name: str, text: str) -> bytes:
    for entry in model.metadata_props:
        if entry.key == name:
            entry.value = text
    return model.SerializeToString()


def test_metadata_that_lie(model, tmp_path: Path) -> None:
    found = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(found["config"])
    refused(tmp_path, set_metadata(model, "version", "7"), "export version '7'")
    refused(tmp_path, set_metadata(model, "version", found["version"])[:-1], "damaged")
    refused(tmp_path, set_metadata(model, "config", "{"), "metadata is damaged")
    refused(tmp_path, set_metadata(model, "config", json.dumps({**config, "classes": 3})), "classes")
    larger = {**config, "image": {**config["image"], "height": 128}}
    refused(tmp_path, set_metadata(model, "config", json.dumps(larger)), "takes images of shape .*64, 96")
    without_rays = {**config, "lift": {**config["lift"], "ray_channels": 0}}
    refused(
        tmp_path, set_metadata(model, "config", json.dumps(without_rays)), "takes cells, images, looks, pixels, points"
    )


def test_a_graph_that_onnx_runtime_refuses(model, tmp_path: Path) -> None:
    model.graph.node[3].op_type = "NoSuchOperator"
    refused(tmp_path, model.SerializeToString(), "ONNX Runtime cannot load it")
