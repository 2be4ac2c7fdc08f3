"""Checkpoint files that lie, each refused in one line that names the file, before anything of the size they claim is made."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bevdistill_ros import detector
from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import read_yaml
from bevdistill_ros.models import build_network
from bevdistill_ros.models.planned import planned_state
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import to_dict
from bevdistill_ros.training.config import load_config

MODELS = share_directory() / "config" / "models"


def with_length(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def metadata(**changed: str) -> dict[str, str]:
    given = {
        "format": "bevdistill-checkpoint",
        "version": "1",
        "config": json.dumps(read_yaml(MODELS / "nano.yaml")["model"]),
        "cameras": '["CAM_FRONT"]',
        "training": "{}",
    }
    return {**given, **changed}


def with_header(change: Callable[[dict[str, Any]], Any], body: bytes = bytes(24)) -> bytes:
    """A file of one tensor of 2x3 numbers, its header changed."""
    header: dict[str, Any] = {
        "__metadata__": metadata(),
        "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    }
    change(header)
    return with_length(json.dumps(header).encode(), body)


def with_config(place: str, value: Any) -> bytes:
    """A file whose configuration has another value at a place such as 'grid.cell'."""
    config = read_yaml(MODELS / "nano.yaml")["model"]
    *parents, last = place.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return safetensors.torch.save({"weight": torch.zeros(2, 3)}, metadata(config=json.dumps(config)))


def refused(path: Path, content: bytes) -> str:
    """The one line with which a file is refused."""
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 700
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_the_unchanged_file_is_taken(path: Path) -> None:
    path.write_bytes(with_header(lambda header: None))
    assert torch.equal(load_checkpoint(path).state["weight"], torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "header of 0 bytes"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes in a file of 8"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header of 1099511627776 bytes"),
        (with_length(b"{" * 3), "cannot be read as a checkpoint"),
        (with_length(b"[" * 100_000), "nested too deeply"),
        (with_length(b'{"a":' * 100_000), "nested too deeply"),
        (with_length(b"\xff\xfe{}"), "utf-8"),
        (with_length(b"[]"), "header is no object"),
        (with_length(b'{"a": {}, "a": {}}'), "has a name twice"),
        (with_length(b'{"__metadata__": {"format": 1}}'), "no object of texts"),
        (with_header(lambda h: h["weight"].update(shape=[1 << 40, 1 << 40])), "shape [1099511627776, 1099511627776]"),
        (with_header(lambda h: h["weight"].update(shape=[-2, -3])), r"has shape [-2, -3]"),
        (with_header(lambda h: h["weight"].update(shape=[True, 6])), "has shape [True, 6]"),
        (with_header(lambda h: h["weight"].update(shape=[1] * 99)), "has shape [1, 1"),
        (with_header(lambda h: h["weight"].update(shape=[3, 3])), "is said to be at [0, 24]"),
        (with_header(lambda h: h["weight"].update(dtype="F8_E4M3")), "dtype 'F8_E4M3', not one of"),
        (with_header(lambda h: h["weight"].update(more=1)), "has not exactly dtype"),
        (with_header(lambda h: h["weight"].update(data_offsets=[8, 32])), "one behind the other, at byte 0"),
        (with_header(lambda h: h.update(other=h["weight"])), "one behind the other, at byte 24"),
        (with_header(lambda h: None, bytes(23)), "24 bytes, but the file has 23"),
        (with_header(lambda h: None, bytes(99)), "24 bytes, but the file has 99"),
        (with_header(lambda h: None, b"\x00\x00\xc0\x7f" * 6), "'weight' holds values that are not finite"),
        (with_header(lambda h: h["__metadata__"].pop("config")), "metadata lacks 'config'"),
        (with_header(lambda h: h["__metadata__"].update(version="2")), "version '2'; this release reads version 1"),
        (with_header(lambda h: h["__metadata__"].update(config="{")), "metadata is damaged"),
        (with_header(lambda h: h["__metadata__"].update(config="[" * 100_000)), "nested too deeply"),
        (with_header(lambda h: h["__metadata__"].update(config='{"name": ' + "9" * 5000 + "}")), "metadata is damaged"),
        (with_header(lambda h: h["__metadata__"].update(config='{"name": "a", "name": "b"}')), "has a name twice"),
        (with_header(lambda h: h["__metadata__"].update(cameras='{"a": 1}')), "cameras is {'a': 1}, not a list"),
        (with_header(lambda h: h["__metadata__"].update(cameras='["a", 3]')), "cameras has 3, which is no name"),
        (with_header(lambda h: h["__metadata__"].update(cameras='["\\ud800"]')), "which is no name"),
        (with_header(lambda h: h["__metadata__"].update(cameras=json.dumps(["a"] * 10_000))), "at most 64 names"),
        (with_header(lambda h: h["__metadata__"].update(training="[1]")), "training is [1], not an object"),
    ],
)  # fmt: skip
def test_headers(path: Path, content: bytes, says: str) -> None:
    assert says in refused(path, content)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("grid.x_max", 1e9, "grid of"),
        ("grid.cell", 1e-5, "grid of 10240000x10240000 cells is beyond"),
        (
            "grid.cell",
            5e-324,
            "must be a whole number of cells of 5e-324 m",
        ),  # found by benchmark/fuzz.py: infinitely many
        ("grid.x_max", 1e300, "must be a whole number of cells"),
        ("grid.cell", 10**400, "config.grid.cell: expected float"),
        ("image.height", 32 << 20, "pixels are beyond"),
        ("image.width", 10**30, "pixels are beyond"),
        ("backbone.width", 1 << 20, "width 1048576 is beyond"),
        ("backbone.timm", "hf-hub:someone/something", "is no name of a model"),
        ("backbone.timm", "local-dir:/etc", "is no name of a model"),
        ("lift.bins", 1 << 30, "bins 1073741824 is beyond"),
        ("lift.channels", 1 << 30, "is beyond"),
        ("lift.neck_channels", 1 << 30, "is beyond"),
        ("lift.ray_channels", 1 << 30, "is beyond"),
        ("lift.depth_max", "inf", "expected a finite number"),
        ("bev.halvings", 1 << 20, "halvings 1048576 is beyond"),
        ("bev.halvings", -1, "halvings not negative"),
        ("bev.blocks", 1 << 30, "blocks 1073741824 is beyond"),
        ("bev.channels", 4096, "doubled"),
        ("head.channels", 1 << 30, "is beyond"),
        ("head.max_boxes", 1 << 40, "is beyond"),
        ("head.groups", [[]], "none of them empty"),
        ("head.suppression.car.kernel", (1 << 30) + 1, "is beyond"),
        ("classes", [f"class_{i}" for i in range(5000)], "1 to 1000 names"),
        ("classes", [], "1 to 1000 names"),
        ("classes", ["car", "car"], "'car' is there twice"),
        ("classes", ["\ud800"], "is no name of at most 64 printable characters"),
        ("name", "a\nb", "is no name"),
        ("name", "x" * 100_000, "is no name"),
        ("bev", [[1] * 100_000] * 10, "expected a mapping"),
    ],
)
def test_configurations(path: Path, place: str, value: Any, says: str) -> None:
    content = with_config(place, value)
    tracemalloc.start()
    assert says in refused(path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lss_query_nano", "queries.queries"), ("lss_query_nano", "queries.layers"), ("lss_query_nano", "queries.feedforward"),
        ("bevformer_nano", "bevformer.layers"), ("bevformer_nano", "bevformer.bev_points"),
        ("simulated_nano", "fused_channels"), ("simulated_nano", "compensation.bev_points"),
        ("teacher_nano", "second.channels_out"), ("teacher_nano", "second.layers"), ("teacher_nano", "pillars.channels"),
        ("teacher_fusion_nano", "fused_channels"),
    ],
)  # fmt: skip
def test_configurations_of_other_models(path: Path, name: str, place: str) -> None:
    config = read_yaml(MODELS / f"{name}.yaml")["model"]
    *parents, last = place.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    old = node.get(last, 1)
    node[last] = [1 << 30 for _ in old] if isinstance(old, list) else 1 << 30
    content = safetensors.torch.save({"weight": torch.zeros(2, 3)}, metadata(config=json.dumps(config)))
    assert "is beyond" in refused(path, content)


def test_pillars_without_number_are_refused(path: Path) -> None:
    config = read_yaml(MODELS / "teacher_nano.yaml")["model"]
    config["pillars"]["cell"] = 5e-324
    content = safetensors.torch.save({"weight": torch.zeros(2, 3)}, metadata(config=json.dumps(config)))
    assert "one of them must be grid.cell" in refused(path, content)


def test_a_network_that_the_file_does_not_hold_is_never_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within all bounds a configuration may still ask for more than a machine has: the file would have to hold it."""
    path.write_bytes(with_config("lift.neck_channels", 4096))

    def make(_: Any) -> None:
        raise AssertionError("made")

    monkeypatch.setattr(detector, "build_network", make)
    with pytest.raises(UserError, match=r"model\.safetensors: weights do not fit its configuration: .* is missing"):
        Detector.from_checkpoint(path)


@pytest.mark.parametrize("name", ["nano", "bevformer_nano", "lss_query_nano", "simulated_nano", "teacher_fusion_nano"])
def test_the_plan_of_a_network_is_its_state(name: str) -> None:
    config = load_config(MODELS / f"{name}.yaml").model
    planned, made = planned_state(config), build_network(config).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in planned.items()} == {n: (t.shape, t.dtype) for n, t in made.items()}
    weights = [tensor for tensor in planned.values() if tensor.numel() > 10_000]
    assert weights and all(tensor.is_meta for tensor in weights)


def test_weights_of_another_kind_are_refused(path: Path) -> None:
    config = load_config(MODELS / "nano.yaml", ["model.backbone.width=8"]).model
    state = {name: tensor.contiguous() for name, tensor in build_network(config).state_dict().items()}
    state["backbone.conv1.weight"] = state["backbone.conv1.weight"].long()
    path.write_bytes(safetensors.torch.save(state, metadata(config=json.dumps(to_dict(config)))))
    with pytest.raises(UserError, match=r"'backbone.conv1.weight' is torch.int64, expected torch.float32"):
        Detector.from_checkpoint(path)
