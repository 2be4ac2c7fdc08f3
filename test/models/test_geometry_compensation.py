"""Geometry compensation: what it computes at initialisation, and that it can move features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.models.geometry_compensation import GeometryCompensation

CHANNELS, ROWS, COLUMNS, HEADS, POINTS = 16, 5, 7, 4, 3


def bilinear(image: np.ndarray, row: float, column: float) -> np.ndarray:
    """``image`` (rows, columns, C) at a place where whole numbers are the cells' centres; zero outside."""
    r, c = math.floor(row), math.floor(column)
    total = np.zeros(image.shape[2])
    for i, j in ((r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)):
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
            total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[i, j]
    return total


def test_at_initialisation_nothing_is_moved() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, ROWS, COLUMNS)
    assert torch.equal(GeometryCompensation(CHANNELS, ROWS, COLUMNS, HEADS, POINTS)(x), x)


def test_with_a_last_layer_it_adds_the_mean_over_a_ring_about_each_cell() -> None:
    """Whatever the positions: attention is uniform and the ring the same for all queries until they have learnt."""
    torch.manual_seed(0)
    module = GeometryCompensation(CHANNELS, ROWS, COLUMNS, HEADS, POINTS)
    torch.nn.init.xavier_uniform_(module.attention.output.weight)
    x = torch.randn(2, CHANNELS, ROWS, COLUMNS)
    with torch.no_grad():
        found = module(x).double().numpy()
    weights = {name: value.double().numpy() for name, value in module.attention.state_dict().items()}
    wanted = x.double().numpy().copy()
    for sample in range(2):
        cells = x[sample].permute(1, 2, 0).double().numpy()
        value = cells @ weights["value.weight"].T + weights["value.bias"]
        for row in range(ROWS):
            for column in range(COLUMNS):
                gathered = []
                for head in range(HEADS):
                    angle = 2 * math.pi * head / HEADS
                    step = np.array([math.cos(angle), math.sin(angle)]) / max(
                        abs(math.cos(angle)), abs(math.sin(angle))
                    )
                    own = value[..., head * 4 : (head + 1) * 4]
                    places = [(row + i * step[1], column + i * step[0]) for i in range(1, POINTS + 1)]
                    gathered.append(np.mean([bilinear(own, *place) for place in places], axis=0))
                moved = np.concatenate(gathered) @ weights["output.weight"].T + weights["output.bias"]
                wanted[sample, :, row, column] += moved
    assert np.abs(wanted - x.numpy()).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_queries_know_where_they_are_and_all_of_it_learns() -> None:
    torch.manual_seed(0)
    module = GeometryCompensation(CHANNELS, ROWS, COLUMNS, HEADS, POINTS)
    positions = module.positions().view(ROWS, COLUMNS, CHANNELS)
    assert torch.equal(positions[2, 3], torch.cat([module.column[3], module.row[2]]))
    assert len(positions.flatten(0, 1).unique(dim=0)) == ROWS * COLUMNS
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    x = torch.randn(2, CHANNELS, ROWS, COLUMNS)
    for _ in range(3):  # first its last layer, then weights and offsets by the queries, and so the positions
        optimizer.zero_grad()
        ((module(x) - x.roll(1, 3)) ** 2).mean().backward()
        optimizer.step()
    assert {name for name, p in module.named_parameters() if not p.grad.abs().sum() > 0} == set()


def test_a_feature_is_moved_to_the_next_column() -> None:
    """One that looks one cell to the left and takes over what is there, less what it has, shifts the whole map."""
    module = GeometryCompensation(2, ROWS, COLUMNS, 2, 1)
    with torch.no_grad():
        for parameter in module.attention.parameters():
            parameter.zero_()
        module.attention.offsets.bias.copy_(torch.tensor([-1.0, 0.0, 0.0, 0.0]))  # (x, y) of each head
        module.attention.value.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        module.attention.output.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        x = torch.randn(1, 2, ROWS, COLUMNS)
        moved = module(x)
    torch.testing.assert_close(moved[0, 0, :, 1:], x[0, 0, :, :-1])
    torch.testing.assert_close(moved[0, 0, :, 0], torch.zeros(ROWS))  # nothing comes from outside
    assert torch.equal(moved[0, 1], x[0, 1])


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="channels 9 must be even"):
        GeometryCompensation(9, ROWS, COLUMNS, 3, 1)
