"""Backbones of timm, where it is installed, and a clear word where not."""

from __future__ import annotations

import sys

import pytest
import torch

from bevdistill_ros.config import BackboneConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.image_backbone import ImageNeck, make_backbone
from bevdistill_ros.training.start_weights import start_from

SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(("name", "channels"), [(SWIN, (192, 384, 768)), ("resnet10t", (128, 256, 512))])
def test_features_are_those_of_the_strides(name: str, channels: tuple[int, ...]) -> None:
    pytest.importorskip("timm")
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
def test_weights_of_timm_load_by_name(name: str, tmp_path) -> None:
    """All of the backbone, from a file of the whole classifier as timm saves it."""
    timm = pytest.importorskip("timm")
    size = {"img_size": (64, 96)} if name == SWIN else {}
    whole = timm.create_model(name, pretrained=False, **size)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = torch.nn.ModuleDict({"backbone": make_backbone(BackboneConfig(timm=name), (64, 96))})
    report = start_from(network, tmp_path / "weights.pth")
    assert "starts 100.0% of the model's weights" in report
    given = whole.state_dict()
    first = next(iter(given))
    assert any(torch.equal(value, given[first]) for value in network.state_dict().values())


def test_a_model_that_does_not_fit_is_named() -> None:
    pytest.importorskip("timm")
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
