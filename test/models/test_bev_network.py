"""Which heads a network has, what each gives and when."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from bevdistill_ros.config import CenterHeadConfig, LidarModelConfig, QueryHeadConfig, SuppressionConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.center_head import decode
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.models.query_head import decode_queries
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

CLASSES = ("car", "barrier")
HEAD = CenterHeadConfig(groups=(CLASSES,), suppression=dict.fromkeys(CLASSES, SuppressionConfig()), channels=16)
QUERIES = QueryHeadConfig(queries=8, channels=16, layers=2, heads=4, feedforward=16, auxiliary_channels=20)
TEACHER: LidarModelConfig = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model


class Heads(BevNetwork):
    """Nothing but heads, over 16 channels."""

    inputs = ("bev",)
    dense = ()

    def __init__(self, head: CenterHeadConfig | None, queries: QueryHeadConfig | None) -> None:
        grid = BevGrid(-16.0, 16.0, -12.8, 12.8, 1.6)
        super().__init__(replace(TEACHER, classes=CLASSES, grid=grid, head=head, queries=queries), 16)
        self._add_heads()

    def forward(self, bev: torch.Tensor) -> Outputs:
        return self.detect(bev)


@pytest.fixture
def bev() -> torch.Tensor:
    return torch.randn(2, 16, 16, 20, generator=torch.Generator().manual_seed(0))


def test_a_network_has_the_heads_of_its_configuration(bev: torch.Tensor) -> None:
    torch.manual_seed(0)
    center, queries, both = (Heads(*heads).eval()(bev) for heads in ((HEAD, None), (None, QUERIES), (HEAD, QUERIES)))
    assert center.center is not None and center.queries is None
    assert queries.center is None and queries.queries is not None
    assert both.center is not None and both.queries is not None
    with pytest.raises(ValueError, match="field 'head' is missing, or 'queries' in its place"):
        Heads(None, None)


def test_boxes_come_from_the_centre_head_where_there_is_one(bev: torch.Tensor) -> None:
    torch.manual_seed(0)
    for heads in ((HEAD, None), (None, QUERIES), (HEAD, QUERIES)):
        network = Heads(*heads).eval()
        outputs = network(bev)
        if heads[0] is not None:
            expected = decode(outputs.center, network.config.grid, CLASSES, HEAD, 0.01)
        else:
            expected = decode_queries(outputs.queries, CLASSES, QUERIES, 0.01)
        for found, wanted in zip(network.decode(outputs, 0.01), expected, strict=True):
            assert len(found) and (found.centers == wanted.centers).all() and (found.scores == wanted.scores).all()


def test_the_heatmap_beside_the_queries_is_for_training(bev: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = Heads(None, QUERIES)
    heatmap = network.train()(bev).auxiliary
    assert heatmap.shape == (2, 2, 16, 20)
    assert 0.07 < heatmap.sigmoid().mean() < 0.13
    assert network.eval()(bev).auxiliary is None
    assert Heads(HEAD, None).train()(bev).auxiliary is None
    without = Heads(None, replace(QUERIES, auxiliary_channels=0)).train()
    assert without(bev).auxiliary is None and not [n for n, _ in without.named_parameters() if "auxiliary" in n]


def test_heatmap_features_are_those_that_the_heatmap_is_made_of(bev: torch.Tensor) -> None:
    torch.manual_seed(0)
    center, queries, both = (Heads(*heads).eval() for heads in ((HEAD, None), (None, QUERIES), (HEAD, QUERIES)))
    for network in (center, both):
        features = network.heatmap_features(bev)
        assert torch.equal(network.head.heatmap(features), network(bev).center.heatmap)
    features = queries.heatmap_features(bev)
    assert features.shape == (2, 20, 16, 20)
    assert torch.equal(queries.auxiliary.heatmap(features), queries.auxiliary(bev))
    with pytest.raises(
        UserError, match="'teacher_nano' has no heatmaps: give it a head, or queries.auxiliary_channels"
    ):
        Heads(None, replace(QUERIES, auxiliary_channels=0)).heatmap_features(bev)


def test_weights_load_by_name_whatever_was_trained(bev: torch.Tensor) -> None:
    network = Heads(None, QUERIES)
    network.train()(bev)
    again = Heads(None, QUERIES)
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    assert torch.equal(network.eval()(bev).queries.codes, again.eval()(bev).queries.codes)
