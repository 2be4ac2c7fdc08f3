"""Folding of batch normalisation: the same values, and only where it is certain what follows what."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bevdistill_ros.models.norm import FrozenStatistics, Norm, use_norm
from bevdistill_ros.models.resnet import ResNet
from bevdistill_ros.runtime.fold import fold_normalisation


def spread(network: nn.Module) -> nn.Module:
    """Every normalisation differs from doing nothing."""
    with torch.no_grad():
        for module in network.modules():
            if hasattr(module, "running_var"):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return network.eval()


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("norm", [Norm.BATCH, Norm.FROZEN])
def test_a_folded_backbone_gives_the_same(depth: int, norm: Norm) -> None:
    torch.manual_seed(0)
    network = ResNet(depth, 8)
    use_norm(network, norm)
    spread(network)
    folded = copy.deepcopy(network)
    fold_normalisation(folded)
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenStatistics) for m in folded.modules())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(folded(x), network(x), strict=True):
            assert expected.abs().max() > 0.1
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["nano", "simulated_nano", "bevformer_nano"])
def test_nothing_is_left_to_normalise_in_a_student_but_layers(student, name: str) -> None:
    folded = copy.deepcopy(student(name))
    fold_normalisation(folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in student(name).modules())  # the original is as it was


def test_what_is_not_a_pair_stays() -> None:
    class Shared(nn.Module):
        """Its forward is not in the order of its parts."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv1(self.bn1(x))

    class Other(nn.Conv2d):
        """A convolution of another kind, as deformable ones are."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) ** 2

    torch.manual_seed(0)
    network = spread(
        nn.Sequential(Shared(), Other(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    )
    x = torch.randn(1, 3, 8, 8)
    expected = network(x)
    fold_normalisation(network)
    assert torch.equal(network(x), expected)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 3
