"""ResNet's names and shapes, and its deformable convolutions with and without torchvision."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.config import BackboneConfig, Norm
from bevdistill_ros.detector import load_network
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network, deformable_conv
from bevdistill_ros.models.deformable_conv import DeformableConv, buildable, find_operator
from bevdistill_ros.models.image_backbone import make_backbone
from bevdistill_ros.models.norm import FrozenStatistics, use_norm
from bevdistill_ros.models.resnet import ResNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config


def by_definition(
    x: Tensor, offset: Tensor, weight: Tensor, bias: None, stride: tuple[int, int], padding: tuple[int, int], mask: Tensor
) -> Tensor:  # fmt: skip
    """torchvision's ``deform_conv2d`` for 3x3 kernels of stride 1, by its definition: tap by tap, offsets as (y, x) pixels."""
    height, width = x.shape[-2:]
    assert tuple(stride) == tuple(padding) == (1, 1)
    y, u = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing="ij")
    last = torch.tensor([width - 1, height - 1])
    total = torch.zeros(())
    for tap in range(9):
        rows = y + tap // 3 - 1 + offset[:, 2 * tap]
        columns = u + tap % 3 - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack([columns, rows], dim=-1) * 2 / last - 1
        read = F.grid_sample(x, grid, align_corners=True) * mask[:, tap, None]
        total = total + torch.einsum("bchw,oc->bohw", read, weight[:, :, tap // 3, tap % 3])
    return total


@pytest.fixture
def no_torchvision(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)


@pytest.fixture
def stand_in(monkeypatch) -> None:
    monkeypatch.setattr(deformable_conv, "find_operator", lambda: by_definition)


def make_conv() -> DeformableConv:
    torch.manual_seed(0)
    return DeformableConv(4, 6, 1)


def test_names_and_shapes_are_torchvisions() -> None:
    names = {n: tuple(p.shape) for n, p in ResNet(50).named_parameters()}
    assert names["conv1.weight"] == (64, 3, 7, 7) and names["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert names["layer4.2.conv3.weight"] == (2048, 512, 1, 1) and names["layer3.5.bn2.bias"] == (256,)
    # torchvision's count less the classifier's
    assert sum(p.numel() for p in ResNet(50).parameters()) == 25_557_032 - 2_049_000
    assert sum(p.numel() for p in ResNet(18).parameters()) == 11_689_512 - 513_000


def test_a_fresh_deformable_convolution_is_half_a_plain_one(stand_in) -> None:
    conv, x = make_conv(), torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, padding=1) / 2)


def test_it_reads_where_its_offsets_say_with_the_weights_they_say(stand_in) -> None:
    """One row down and two columns to the left, all taps but the middle one with a weight of nearly 0."""
    conv, x = make_conv(), torch.randn(1, 4, 7, 9)
    with torch.no_grad():
        conv.conv_offset.bias[0:18:2], conv.conv_offset.bias[1:18:2] = 1.0, -2.0
        conv.conv_offset.bias[18:] = -40.0
        conv.conv_offset.bias[18 + 4] = 40.0
        found = conv(x)[0, :, 1:-1, 2:]
    expected = torch.einsum("chw,oc->ohw", x[0, :, 2:, :-2], conv.weight[:, :, 1, 1])
    torch.testing.assert_close(found, expected)


def test_the_last_stages_are_deformable_and_learn_where_to_look(stand_in) -> None:
    for depth, blocks in ((18, (2, 2)), (50, (6, 3))):
        plain = ResNet(depth, 16)
        network = ResNet(depth, 16, deformable=2)
        extra = {n: p for n, p in network.named_parameters() if n not in dict(plain.named_parameters())}
        assert len(extra) == 2 * sum(blocks) and all(".conv2.conv_offset." in n for n in extra)
        assert {n.partition(".")[0] for n in extra} == {"layer3", "layer4"}
        expected = sum(n * (c * 27 * 9 + 27) for n, c in zip(blocks, (64, 128)))
        assert sum(p.numel() for p in extra.values()) == expected
    network = ResNet(18, 16, stages=3, deformable=1)
    sum(f.square().sum() for f in network(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad.abs().sum() > 0 for n, p in network.named_parameters() if "layer3" in n)


def test_the_operator_is_torchvisions() -> None:
    operator = find_operator()
    if operator is None:
        pytest.skip("torchvision cannot be imported")
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 4, 7, 9, generator=generator), torch.randn(6, 4, 3, 3, generator=generator)
    offset = torch.randn(2, 18, 7, 9, generator=generator).clamp(-0.9, 0.9)
    mask = torch.rand(2, 9, 7, 9, generator=generator)
    arguments = (x, offset, weight, None, (1, 1), (1, 1))
    torch.testing.assert_close(operator(*arguments, mask=mask), by_definition(*arguments, mask=mask))
    conv = make_conv()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x.bfloat16()).dtype == torch.float32
    network = ResNet(50, 16, deformable=2)
    assert [f.shape[1:] for f in network(torch.randn(1, 3, 64, 96))] == [(128, 8, 12), (256, 4, 6), (512, 2, 3)]


def deformable_nano():
    model = load_config(share_directory() / "config" / "models" / "nano.yaml").model
    return replace(model, backbone=BackboneConfig(18, 32, deformable_stages=1))


def test_without_torchvision_a_model_that_has_them_is_refused(no_torchvision) -> None:
    assert find_operator() is None
    with pytest.raises(UserError, match="backbone.deformable_stages: .* need torchvision") as error:
        build_network(deformable_nano())
    assert "\n" not in str(error.value)
    # Even if its weights would fit: plain convolutions are not what was trained.
    plain = replace(deformable_nano(), backbone=BackboneConfig(18, 32))
    checkpoint = Checkpoint(deformable_nano(), build_network(plain).state_dict(), (), {})
    with pytest.raises(UserError, match="torchvision"):
        load_network(checkpoint, torch.device("cpu"), "model.safetensors")


def test_without_torchvision_a_new_model_has_plain_ones_and_its_configuration_says_so(no_torchvision) -> None:
    config = deformable_nano()
    new = buildable(config)
    assert new == replace(config, backbone=BackboneConfig(18, 32))
    build_network(new)
    for name in ("nano", "teacher_nano"):
        other = load_config(share_directory() / "config" / "models" / f"{name}.yaml").model
        assert buildable(other) is other


def test_with_torchvision_a_new_model_is_as_configured(stand_in) -> None:
    config = deformable_nano()
    assert buildable(config) is config


@pytest.mark.parametrize("stages", [-1, 4])
def test_no_more_deformable_stages_than_there_are(stages: int) -> None:
    with pytest.raises(ValueError, match="deformable_stages"):
        BackboneConfig(18, 32, stages=3, deformable_stages=stages)


def test_frozen_stages_keep_weights_and_statistics() -> None:
    torch.manual_seed(0)
    network = ResNet(18, 16, frozen=2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"layer3", "layer4"}


@pytest.mark.parametrize("norm", [None, Norm.FROZEN, Norm.GROUP])
def test_the_models_norm_leaves_a_frozen_stem_frozen_and_the_backbones_own_norm_alone(norm: Norm | None) -> None:
    backbone = make_backbone(BackboneConfig(18, 16, frozen_stages=1, norm=norm), (64, 96))
    use_norm(backbone, Norm.GROUP if norm is None else Norm.FROZEN)
    kinds = {type(module) for name, module in backbone.named_modules() if name.rpartition(".")[2].startswith("bn")}
    assert kinds == {FrozenStatistics if norm is Norm.FROZEN else torch.nn.GroupNorm}
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
