"""Operations and bytes against what can be told by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bevdistill_ros.bench.parts import PARTS, run_in_parts
from bevdistill_ros.bench.peaks import Peaks
from bevdistill_ros.bench.work import Work, network_work, picture_work, pool_work, work_of
from bevdistill_ros.config import ImageConfig
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.config import load_config


def test_a_convolution():
    layer = nn.Conv2d(3, 8, (3, 5), stride=2, bias=False)
    x = torch.randn(2, 3, 21, 37)
    rows, columns = (21 - 3) // 2 + 1, (37 - 5) // 2 + 1
    found = work_of(lambda: layer(x))
    assert found.flops == 2 * 2 * 8 * rows * columns * 3 * 3 * 5
    assert found.bytes == 4 * (x.numel() + layer.weight.numel() + 2 * 8 * rows * columns)


def test_a_linear_layer_and_what_follows_it():
    layers = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    x = torch.randn(5, 6)
    found = work_of(lambda: layers(x))
    assert found.flops == 2 * 5 * 6 * 4
    assert found.bytes == 4 * (5 * 6 + 6 * 4 + 4 + 5 * 4)  # the activation is taken as part of the product


def test_pictures(small_sets):
    rig_set, preprocessor = small_sets[0], Preprocessor(ImageConfig(110, 200))
    work = picture_work(rig_set, preprocessor)
    half, full = 6 * 3 * 200 * 113, 6 * 3 * 200 * 110  # decoded at half of 400x225
    assert work["upload"] == Work(0, full)
    assert work["warp"] == Work(0, half + full + 6 * 6 * 200 * 110)  # six bytes say where a pixel comes from
    raw = replace(rig_set, pictures=(np.zeros((225, 400, 3), np.uint8),) * 6)
    assert picture_work(raw, preprocessor)["warp"].bytes - work["warp"].bytes == 6 * 3 * 400 * 225 - half


def test_parts_of_a_network_add_up_to_it(tiny_network, pipeline, small_sets):
    network = tiny_network
    images, calibration = pipeline.network_inputs(small_sets[0])
    parts = network_work(network, images, calibration)
    assert tuple(parts) == PARTS
    whole = work_of(lambda: network.run(images, calibration)) + pool_work(network.lift, calibration.plan)
    assert sum(parts.values(), Work()) == whole
    assert all(part.flops > 0 and part.bytes > 0 for part in parts.values())


def test_pooling(tiny_network, pipeline, small_sets):
    _, calibration = pipeline.network_inputs(small_sets[0])
    points = len(calibration.plan.points)
    pixels = int(calibration.plan.pixels.max()) + 1
    assert 0 < points < 6 * 4 * 8 * 16 and 0 < pixels <= 6 * 4 * 8
    found = pool_work(tiny_network.lift, calibration.plan)
    assert found.flops == 2 * points * 8  # channels
    # Context and depth of the pixels, the grid, and eight bytes that say where each point lies.
    assert found.bytes == 4 * (pixels * (8 + 16) + 32 * 32 * 8) + 8 * points


@pytest.mark.parametrize("name", ["nano", "bevformer_nano", "simulated_nano"])
def test_every_student_has_parts(name):
    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml").model
    network = build_network(config).eval()
    told = []
    K = torch.tensor([[200.0, 0, 128], [0, 200, 48], [0, 0, 1]]).expand(1, 2, 3, 3)
    pose = torch.tensor([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1.0]]).expand(1, 2, 4, 4)
    images = torch.zeros(1, 2, config.image.height, config.image.width, 3, dtype=torch.uint8)
    mask = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        calibration = network.calibrate(K, pose, mask, images.shape[2:4])
        run_in_parts(network, lambda: network.run(images, calibration), lambda: told.append("begin"), told.append)
        # BEVFormer's encoder is its lift.
        assert told == ["begin", *(part for part in PARTS if name != "bevformer_nano" or part != "bev_encoder")]
        network.run(images, calibration)
    assert len(told) <= 1 + len(PARTS)  # nobody listens any more
    work = network_work(network, images, calibration)
    assert all(work[part].flops > 0 for part in work)


def test_the_floor_is_what_takes_longer():
    peaks = Peaks(matmul=1e9, convolution=2e9, memory=1e8, cache=4e8)
    assert peaks.floor_ms(2e6, 1) == pytest.approx(1.0)
    assert peaks.floor_ms(1, 4e6) == pytest.approx(10.0)
