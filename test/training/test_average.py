"""The moving average of weights: its closed form, what is copied, and its life in a saved state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bevdistill_ros.training.average import WeightAverage


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(2))
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))

    def become(self, number: float) -> None:
        self.value.data.fill_(number)
        self.statistic.fill_(-number)
        self.count.fill_(int(number))


def follow(average: WeightAverage, network: Toy, numbers: list[float]) -> None:
    for number in numbers:
        network.become(number)
        average.on_train_batch_end(None, SimpleNamespace(network=network))


def closed_form(decay: float, numbers: list[float], start: float = 0.0) -> float:
    value = start
    for n, number in enumerate(numbers, start=1):
        d = min(decay, (1 + n) / (10 + n))
        value = d * value + (1 - d) * number
    return value


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_average_is_the_closed_form(decay: float) -> None:
    network, average = Toy(), WeightAverage(decay)
    average.on_train_start(None, SimpleNamespace(network=network))
    numbers = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    follow(average, network, numbers)
    found = average.weights(network)
    assert found["value"].tolist() == pytest.approx([closed_form(decay, numbers)] * 2, rel=1e-5)
    assert found["statistic"].item() == pytest.approx(-closed_form(decay, numbers), rel=1e-5)
    assert found["count"].item() == 9
    assert network.value.tolist() == [9.0, 9.0]  # the training's own weights are left alone


def test_without_decay_the_weights_are_the_networks_own() -> None:
    network, average = Toy(), WeightAverage(0.0)
    average.on_train_start(None, SimpleNamespace(network=network))
    follow(average, network, [3.0, 7.0])
    assert average.weights(network)["value"].tolist() == [7.0, 7.0]
    assert not average.state_dict()["average"]


def test_a_resumed_average_goes_on() -> None:
    network, whole, first, second = Toy(), WeightAverage(0.9), WeightAverage(0.9), WeightAverage(0.9)
    module = SimpleNamespace(network=network)
    whole.on_train_start(None, module)
    first.on_train_start(None, module)
    follow(whole, network, [1.0, 2.0, 3.0, 4.0])
    follow(first, network, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    second.on_train_start(None, module)
    follow(second, network, [3.0, 4.0])
    assert torch.equal(second.weights(network)["value"], whole.weights(network)["value"])
    # Turned on later, it starts from the weights as they are.
    late = WeightAverage(0.9)
    late.on_train_start(None, module)
    assert late.weights(network)["value"].tolist() == [4.0, 4.0]
