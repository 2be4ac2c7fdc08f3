"""Image backbones of other projects start a training by name, and what is no such file is told in one line."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import BackboneConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network, deformable_conv
from bevdistill_ros.models.resnet import ResNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.start_weights import start_from

WIDTH = 16


def small_model(deformable: int = 0):
    model = load_config(share_directory() / "config" / "models" / "bevformer_nano.yaml").model
    return replace(model, backbone=BackboneConfig(18, WIDTH, deformable_stages=deformable))


def make_network(deformable: int = 0) -> nn.Module:
    torch.manual_seed(0)
    return build_network(small_model(deformable))


def resnet_state(deformable: int = 0) -> dict[str, Tensor]:
    """As torchvision's ResNet-18 of that width, statistics included."""
    torch.manual_seed(1)
    backbone = ResNet(18, WIDTH, deformable=deformable)
    state = {name: torch.randn_like(t) if t.is_floating_point() else t + 7 for name, t in backbone.state_dict().items()}
    return {**state, "fc.weight": torch.randn(1000, 8 * WIDTH), "fc.bias": torch.randn(1000)}


def assert_started(network: nn.Module, state: dict[str, Tensor], report: str) -> None:
    own = network.backbone.state_dict()
    assert own.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[name], state[name]) for name in own)
    share = sum(p.numel() for p in network.backbone.parameters()) / sum(p.numel() for p in network.parameters())
    assert f"starts {share:.1%} of the model's weights ({len(own)} of {len(network.state_dict())} tensors)" in report


def test_a_resnet_of_torchvision(tmp_path) -> None:
    network, state = make_network(), resnet_state()
    untouched = network.encoder.queries.clone()
    torch.save(state, tmp_path / "resnet18.pth")
    report = start_from(network, [tmp_path / "resnet18.pth"])
    assert_started(network, state, report)
    assert "there, but not in this model: fc.weight, fc.bias" in report
    assert "not started: encoder." in report or "not started: neck." in report
    assert torch.equal(network.encoder.queries, untouched)


def test_a_resnet_as_safetensors_of_half_precision(tmp_path) -> None:
    network, state = make_network(), resnet_state()
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    safetensors.torch.save_file(half, tmp_path / "model.safetensors", {"format": "pt"})
    report = start_from(network, [tmp_path / "model.safetensors"])
    assert_started(network, {name: t.float() if t.is_floating_point() else t for name, t in half.items()}, report)


@pytest.mark.parametrize("prefix", ["backbone.", "img_backbone.", "module.img_backbone."])
@pytest.mark.parametrize("elder", [False, True])
def test_a_detector_of_mmdetection_with_deformable_convolutions(
    tmp_path, monkeypatch, prefix: str, elder: bool
) -> None:
    """Both of its names of the offsets' convolutions; what is not the backbone is left out and told."""
    monkeypatch.setattr(deformable_conv, "find_operator", lambda: torch.nn.functional.conv2d)
    network, state = make_network(2), resnet_state(2)
    named = {prefix + name: t for name, t in state.items() if not name.startswith("fc.")}
    if elder:
        named = {name.replace(".conv2.conv_offset.", ".conv2_offset."): t for name, t in named.items()}
    assert sum("offset" in name for name in named) == 2 * 4
    named["neck.lateral_convs.0.conv.weight"] = torch.randn(4, 4, 1, 1)
    torch.save({"meta": {"epoch": 12, "CLASSES": ("car",)}, "state_dict": named}, tmp_path / "fcos3d.pth")
    report = start_from(network, [tmp_path / "fcos3d.pth"])
    assert_started(network, state, report)
    assert "there, but not in this model: neck.lateral_convs.0.conv.weight" in report


def test_deformable_weights_in_a_plain_model_are_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(deformable_conv, "find_operator", lambda: torch.nn.functional.conv2d)
    torch.save(resnet_state(1), tmp_path / "dcn.pt")
    assert "there, but not in this model: layer4.0.conv2.conv_offset.weight" in start_from(
        make_network(), [tmp_path / "dcn.pt"]
    )


def test_a_wider_backbone_is_told_by_its_shapes(tmp_path) -> None:
    torch.save(ResNet(18, 32).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match="none of its .* tensors fits this model by name and shape"):
        start_from(make_network(), [tmp_path / "wide.pth"])


def test_our_own_checkpoints_keep_their_names(tmp_path) -> None:
    torch.manual_seed(2)
    other = build_network(small_model())
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(small_model(), other.state_dict(), (), {}))
    network = make_network()
    assert "starts 100.0% of the model's weights" in start_from(network, [tmp_path / "model.safetensors"])
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in network.state_dict().items())


def saved(folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of a shipped model's random weights."""
    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml", SMALL.get(name, [])).model
    torch.manual_seed(len(name))
    state = {
        n: torch.randn_like(t) if t.is_floating_point() else t for n, t in build_network(config).state_dict().items()
    }
    save_checkpoint(folder / f"{name}.safetensors", Checkpoint(config, state, (), {}))
    return folder / f"{name}.safetensors", state


SMALL = {name: ["model.backbone.width=8"] for name in ("nano", "simulated_nano", "teacher_fusion_nano")}


def test_a_fusion_teacher_starts_from_a_camera_student_and_a_lidar_teacher(tmp_path) -> None:
    (student, seen), (teacher, of_points) = saved(tmp_path, "nano"), saved(tmp_path, "teacher_nano")
    network = build_network(
        load_config(share_directory() / "config" / "models" / "teacher_fusion_nano.yaml", SMALL["nano"]).model
    )
    report = start_from(network, [student, teacher])
    own = network.state_dict()
    for part, source in (
        ("backbone", seen),
        ("lift", seen),
        ("head", seen),
        ("pillars", of_points),
        ("second", of_points),
    ):
        names = [name for name in own if name.startswith(f"{part}.")]
        assert names and all(torch.equal(own[name], source[name]) for name in names), part
    assert report.count("safetensors: starts") == 2 and "not started: camera_bev." in report


def test_the_second_lift_starts_as_the_first_where_there_is_only_one(tmp_path) -> None:
    config = load_config(share_directory() / "config" / "models" / "simulated_nano.yaml", SMALL["nano"]).model
    network = build_network(config)
    (plain, seen), (whole, both) = saved(tmp_path, "nano"), saved(tmp_path, "simulated_nano")
    assert "copied: simulated_lift from lift" in start_from(network, [plain])
    for name, tensor in network.simulated_lift.state_dict().items():
        assert torch.equal(tensor, seen[f"lift.{name}"])
    assert "copied" not in start_from(network, [whole])
    assert all(torch.equal(tensor, both[name]) for name, tensor in network.state_dict().items())


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def bad_files(folder: Path) -> dict[str, str]:
    """Name of each bad file, and what is said of it."""
    torch.save({"state_dict": {"conv1.weight": torch.ones(1)}, "hook": Evil()}, folder / "evil.pth")
    (folder / "pickle.pth").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    torch.save(resnet_state(), folder / "whole.pth")
    (folder / "cut.pth").write_bytes((folder / "whole.pth").read_bytes()[:-3000])
    torch.save({"a": torch.ones(2)}, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "old_cut.pth").write_bytes((folder / "old.pth").read_bytes()[:-10])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pth").write_text("Not Found")
    torch.save([torch.ones(1)], folder / "list.pt")
    torch.save({1: torch.ones(1), "epoch": 3}, folder / "numbers.pt")
    (folder / "cut.safetensors").write_bytes(b"\x00" * 5)
    return {
        "evil.pth": "holds more than weights, or is damaged",
        "pickle.pth": "",
        "cut.pth": "cannot be read",
        "old_cut.pth": "cannot be read",
        "empty.pt": "",
        "text.pth": "",
        "list.pt": "holds no weights by name",
        "numbers.pt": "holds no weights by name",
        "cut.safetensors": "cannot be read as a checkpoint",
        "none.pth": "no such file",
        "none.safetensors": "no such checkpoint file",
    }


def test_what_is_no_file_of_weights_is_told_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = make_network()
    for name, said in bad_files(tmp_path).items():
        with pytest.raises(UserError) as error:
            start_from(network, [tmp_path / name])
        assert name in str(error.value) and said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()
