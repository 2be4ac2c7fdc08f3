"""BEVFormer's encoder: its map's axes, the place for history, and points about the heights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.config import BevFormerConfig
from bevdistill_ros.geometry import BevGrid, make_transform, rotation_z
from bevdistill_ros.models.bevformer_encoder import BevFormerEncoder, SpatialCrossAttention
from bevdistill_ros.models.cell_views import CellViews

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
GRID = BevGrid(-16.0, 16.0, -8.0, 8.0, 4.0)
SIZE = (32, 64)


def config(**changes) -> BevFormerConfig:
    fields = {
        "channels": 16, "layers": 1, "heads": 2, "levels": 2, "heights": 2, "points": 4, "bev_points": 2, "feedforward": 16,
        "dropout": 0.0, "z_min": -1.0, "z_max": 3.0,
    }  # fmt: skip
    return BevFormerConfig(**{**fields, **changes})


def inputs(batch: int = 1) -> dict:
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]])
    poses = torch.from_numpy(
        np.stack([make_transform(rotation_z(i * math.pi / 2) @ FORWARD, (0, 0, 1.5)) for i in range(4)])
    )
    return {
        "features": [torch.randn(batch, 4, 16, SIZE[0] // s, SIZE[1] // s, generator=generator) for s in (8, 16)],
        "K": K.expand(batch, 4, 3, 3),
        "ego_T_cam": poses.float().expand(batch, 4, 4, 4),
        "mask": torch.ones(batch, 4, dtype=torch.bool),
        "size": SIZE,
    }


def encoder(**changes) -> BevFormerEncoder:
    torch.manual_seed(0)
    made = BevFormerEncoder(config(**changes), GRID).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith(("offsets.weight", "weights.weight")):
                weight.normal_(0, 0.3)
    return made


def test_a_camera_ahead_changes_the_cells_ahead_alone() -> None:
    """x is the column and y the row, also of the references of self-attention."""
    made = encoder(bev_points=1)
    with torch.no_grad():
        made.layers[0].bev.offsets.weight.zero_()
        made.layers[0].bev.offsets.bias.zero_()
        given = inputs()
        plain = made(**given)
        assert plain.shape == (1, 16, 4, 8)
        given["features"] = [level.clone() for level in given["features"]]
        given["features"][0][:, 0] += 1.0  # the camera that looks along +x
        ahead = (made(**given) - plain).abs().amax(dim=1)[0]
        given["features"][0][:, 1] += 1.0  # and the one that looks along +y
        left = (made(**given) - plain).abs().amax(dim=1)[0]
    assert ahead[1:3, 5:].min() > 1e-3 and ahead[:, :4].max() == 0
    assert left[3, 4] > 1e-3 and left[0, :4].max() == 0


def test_self_attention_reads_the_map_at_the_cell_itself() -> None:
    """Without offsets, of equal weights and identities: every cell reads its own query."""
    attention = encoder(heads=1).layers[0].bev
    made = encoder()
    with torch.no_grad():
        for linear in (attention.value, attention.output):
            linear.weight.copy_(torch.eye(16))
        attention.offsets.weight.zero_()
        attention.offsets.bias.zero_()
        queries = made.queries[None]
        found = attention(queries, made.centers[None, :, None], queries, [made.shape])
    torch.testing.assert_close(found, queries)


def test_an_earlier_map_that_is_this_one_changes_nothing_and_another_does() -> None:
    made = encoder()
    same = made.queries.detach().T.reshape(1, 16, 4, 8)
    with torch.no_grad():
        plain = made(**inputs())
        torch.testing.assert_close(made(**inputs(), previous=[same]), plain)
        assert not torch.allclose(made(**inputs(), previous=[same.flip(3)]), plain, atol=1e-2)
        assert not torch.allclose(made(**inputs(), previous=[same, torch.zeros_like(same)]), plain, atol=1e-2)


def test_every_height_is_read() -> None:
    """Of two heights, each with a place of its own in the image, both contribute half."""
    attention = SpatialCrossAttention(config(heads=1, levels=1))
    with torch.no_grad():
        attention.attention.offsets.bias.zero_()
        for linear in (attention.attention.value, attention.attention.output):
            linear.weight.copy_(torch.eye(16))
    value = torch.zeros(1, 4, 16)  # an image of 2 x 2 features
    value[0, 0, 0], value[0, 3, 1] = 1.0, 1.0

    def read(places: list[list[float]]) -> Tensor:
        views = CellViews(
            torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), torch.tensor([[places]])
        )  # fmt: skip
        return attention(torch.zeros(1, 1, 16), value, [(2, 2)], views)[0, 0, :2].detach()

    assert read([[0.25, 0.25], [0.75, 0.75]]).tolist() == pytest.approx([0.5, 0.5])
    assert read([[0.25, 0.25], [0.25, 0.25]]).tolist() == pytest.approx([1.0, 0.0])
    assert read([[-10.0, -10.0], [0.75, 0.75]]).tolist() == pytest.approx([0.0, 0.5])


def test_dropout_is_for_training_alone() -> None:
    made = encoder(dropout=0.5)
    with torch.no_grad():
        first, second = (made.train()(**inputs()) for _ in range(2))
        assert not torch.allclose(first, second)
        first, second = (made.eval()(**inputs()) for _ in range(2))
        assert torch.equal(first, second)
        # Of everything that is added to a query it drops all: no attention is left, and nothing of the layers between.
        bare = made.queries
        for norm in made.layers[0].norms:
            bare = norm(bare)
        made.layers[0].dropout.p = 1.0
        torch.testing.assert_close(made.train()(**inputs())[0].flatten(1).T, bare)
