"""The benchmark `loss_gradients`: shares and cosines of losses whose gradients are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def program(load_benchmark):
    return load_benchmark("loss_gradients")


def test_shares_and_cosines_are_of_detections_gradient(program) -> None:
    """Detection is the sum of its own losses; of another loss only what reaches the backbone counts."""
    backbone, head = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    module = SimpleNamespace(network=SimpleNamespace(backbone=backbone))
    along = {
        "heatmap": [1.0, 0.0],
        "box": [2.0, 4.0],
        "alike": [1.5, 2.0],
        "aside": [-8.0, 6.0],
        "elsewhere": [0.0, 0.0],
    }
    losses = {name: backbone(torch.tensor(way))[0] for name, way in along.items()}
    losses["elsewhere"] = head(torch.ones(2))[0]
    found = program.compare({name: program.gradient_of(loss, module) for name, loss in losses.items()})
    assert found["alike"] == pytest.approx((0.5, 1.0))
    assert found["aside"] == pytest.approx((2.0, 0.0), abs=1e-6)
    assert found["heatmap"] == pytest.approx((0.2, 0.6))
    assert found["elsewhere"] == (0.0, 0.0)
