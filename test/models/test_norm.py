"""Normalisation by configuration: what replaces batch normalisation, and that checkpoints keep fitting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bevdistill_ros.config import Norm
from bevdistill_ros.models import build_network
from bevdistill_ros.models.norm import FrozenStatistics, use_norm
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config


@pytest.mark.parametrize("name", ["nano", "teacher_nano"])
@pytest.mark.parametrize(("norm", "kind"), [(Norm.GROUP, nn.GroupNorm), (Norm.FROZEN, FrozenStatistics)])
def test_no_batch_normalisation_remains_and_names_stay(name: str, norm: Norm, kind: type) -> None:
    model = load_config(share_directory() / "config" / "models" / f"{name}.yaml").model
    plain, other = build_network(model), build_network(replace(model, norm=norm))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in other.modules())
    replaced = sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert sum(isinstance(m, kind) for m in other.modules()) == replaced > 5
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    if norm is Norm.FROZEN:
        other.load_state_dict(plain.state_dict())


def test_frozen_statistics_are_batch_normalisation_in_use_whatever_the_mode() -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(nn.BatchNorm2d(6))
    reference(3 + 2 * torch.randn(8, 6, 4, 4))  # statistics of some data
    frozen = nn.Sequential(nn.BatchNorm2d(6))
    use_norm(frozen, Norm.FROZEN)
    frozen.load_state_dict(reference.state_dict())
    x = torch.randn(1, 6, 4, 4)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    found = frozen.train()(x)
    torch.testing.assert_close(found, reference.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    found.sum().backward()
    assert frozen[0].weight.grad.abs().sum() > 0


def test_groups_are_of_one_sample() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(12))
    use_norm(layers, Norm.GROUP)
    assert layers[0].num_groups == 3  # 12 channels in groups of 4, the largest divisor of 8 that fits
    torch.manual_seed(0)
    x = torch.randn(4, 12, 3, 3)
    torch.testing.assert_close(layers(x)[1:2], layers(x[1:2]))
