"""Backbones of timm, where it is installed, and a clear word where not."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.config import BackboneConfig
from bevdistill_ros.detector import load_network
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.image_backbone import ImageNeck, make_backbone
from bevdistill_ros.models.modal_network import ModalNetwork
from bevdistill_ros.models.timm_backbone import TimmBackbone
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.start_weights import start_from

SWIN = "swin_tiny_patch4_window7_224"


class Bare(BevNetwork):
    """Nothing but a backbone."""

    def __init__(self, name: str) -> None:
        super().__init__(None, 1)
        self.backbone = make_backbone(BackboneConfig(timm=name), (64, 96))


@pytest.fixture
def timm() -> ModuleType:
    """The package, where it can be imported: not only must it be there, its torchvision must also be of this torch."""
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.mark.parametrize(("name", "channels"), [(SWIN, (192, 384, 768)), ("resnet10t", (128, 256, 512))])
def test_features_are_those_of_the_strides(name: str, channels: tuple[int, ...], timm) -> None:
    torch.manual_seed(0)
    backbone = make_backbone(BackboneConfig(timm=name), (64, 96)).eval()
    assert backbone.out_channels == channels
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 96))
        merged = ImageNeck(channels, 16, 24)(features)
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // stride, 96 // stride) for c, stride in zip(channels, (8, 16, 32), strict=True)
    ]
    assert merged.shape == (2, 24, 4, 6)


@pytest.mark.parametrize("name", [SWIN, "resnet10t", "convnext_atto"])
def test_weights_of_timm_load_by_name(name: str, timm, tmp_path) -> None:
    """All of the backbone, from a file of the whole classifier as timm saves it."""
    size = {"img_size": (64, 96)} if name == SWIN else {}
    whole = timm.create_model(name, pretrained=False, **size)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = Bare(name)
    report = start_from(network, [tmp_path / "weights.pth"])
    assert "starts 100.0% of the model's weights" in report
    given = whole.state_dict()
    first = next(iter(given))
    assert any(torch.equal(value, given[first]) for value in network.state_dict().values())


@pytest.mark.parametrize("who", ["teacher_fusion_nano", "simulated_nano"])
def test_networks_of_both_senses_run_learn_and_are_stored_with_one(who: str, timm, tmp_path) -> None:
    """A fusion teacher and the student that simulates one: all of the backbone has gradients, and the file alone makes it anew."""
    changes = [
        f"model.backbone={{timm: {SWIN}}}", "model.image={height: 64, width: 96}", "model.norm=group", "model.grid.cell=6.4",
        "model.lift={stride: 8, bins: 8, depth_max: 61.0, channels: 16, neck_channels: 16}", "model.head.channels=16",
        "model.bev={channels: 16, halvings: 1, blocks: 1}", "model.fused_channels=16",
    ]  # fmt: skip
    changes += {
        "teacher_fusion_nano": [
            "model.pillars={cell: 3.2, channels: [16]}",
            "model.second={strides: [2], layers: [1], channels: [16], channels_out: 16}",
        ],
        "simulated_nano": ["model.compensation={heads: 2, image_points: 2, bev_points: 2}"],
    }[who]
    model = load_config(share_directory() / "config" / "models" / f"{who}.yaml", changes).model
    torch.manual_seed(0)
    network = build_network(model)
    assert isinstance(network, ModalNetwork) and isinstance(network.backbone, TimmBackbone)
    pose = torch.tensor([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]])
    K = torch.tensor([[60.0, 0.0, 47.5], [0.0, 60.0, 31.5], [0.0, 0.0, 1.0]])
    batch = {
        "images": torch.randint(0, 256, (1, 2, 64, 96, 3), dtype=torch.uint8),
        "K": K.expand(1, 2, 3, 3),
        "ego_T_cam": pose.expand(1, 2, 4, 4),
        "mask": torch.ones(1, 2, dtype=torch.bool),
        "points": [torch.rand(200, 5) * 20],
    }
    inputs = [batch[name] for name in network.inputs]
    outputs = network.train()(*inputs)
    (outputs.center.heatmap.square().mean() + outputs.center.codes.square().mean()).backward()
    assert [n for n, p in network.backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    network.eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(model, network.state_dict(), ("CAM_FRONT",), {}))
    stored = load_checkpoint(path)
    assert stored.config == model
    torch.manual_seed(1)  # other fresh weights, which all have to go
    again = load_network(stored, torch.device("cpu"), "stored")
    with torch.no_grad():
        before, after = network(*inputs), again(*inputs)
        black = network(*(0 * batch["images"] if name == "images" else batch[name] for name in network.inputs))
    assert torch.equal(before.center.heatmap, after.center.heatmap) and torch.equal(
        before.modal.fused, after.modal.fused
    )
    assert not torch.equal(before.modal.camera, black.modal.camera)
    for spoilt in ({**stored.state, "backbone.network.more": torch.zeros(1)}, dict(list(stored.state.items())[1:])):
        with pytest.raises(UserError, match="weights do not fit its configuration"):
            load_network(Checkpoint(model, spoilt, (), {}), torch.device("cpu"), "stored")


def test_a_model_that_does_not_fit_is_named(timm) -> None:
    for name, problem in (("no_such_model", "Unknown model"), ("vit_tiny_patch16_224", "8 is not in list")):
        with pytest.raises(UserError, match=f"backbone.timm '{name}'.*{problem}"):
            make_backbone(BackboneConfig(timm=name), (64, 96))


def test_without_timm_it_is_said_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as if not installed
    with pytest.raises(UserError, match=f"backbone.timm '{SWIN}' needs the package timm.*pip install timm"):
        make_backbone(BackboneConfig(timm=SWIN), (64, 96))


def test_settings_of_the_resnet_do_not_go_with_it() -> None:
    with pytest.raises(ValueError, match="leave them out beside timm"):
        BackboneConfig(depth=50, timm=SWIN)
