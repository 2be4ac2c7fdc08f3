"""Batches: what a network asks for and nothing else, of one draw whoever looks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import ImageConfig, PointsConfig
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.models.pillar_net import PillarNet
from bevdistill_ros.paths import share_directory
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.config import AugmentationConfig, load_config
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.loader import AugmentedSamples, make_loader, to_device


@pytest.fixture(scope="module")
def config():
    config = load_config(
        share_directory() / "config" / "models" / "nano.yaml",
        ["training.batch_size=3", "training.steps=2", "training.image_supervision={}"],
    )
    strong = AugmentationConfig(
        ((-180.0, 180.0),), (0.9, 1.1), 0.5, (0.9, 1.1), (-5.0, 5.0), (-0.05, 0.05), camera_drop=0.3
    )
    return replace(config, training=replace(config.training, augmentation=strong))


def batches(root, config, inputs, images: bool, points: bool, workers: int = 0) -> list[dict]:
    nusc = open_nuscenes(root, "v1.0-mini")
    preprocessor = Preprocessor(ImageConfig(32, 64)) if images else None
    lidar = PointsConfig(0.6) if points else None
    samples = NuScenesSamples(nusc, choose_samples(nusc), config.model.classes, preprocessor, points=lidar)
    config = replace(config, training=replace(config.training, workers=workers))
    return list(make_loader(AugmentedSamples(samples, config), config, 0, inputs))


def test_a_batch_holds_what_the_network_asks_for(tiny_nuscenes, config) -> None:
    always = {"boxes", "doubtful", "tokens"}
    (seen, _) = batches(tiny_nuscenes, config, LSS.inputs, True, False)
    assert set(seen) == always | {"images", "K", "ego_T_cam", "mask"}
    (felt, _) = batches(tiny_nuscenes, config, PillarNet.inputs, False, True)
    assert set(felt) == always | {"points"}
    assert [p.dtype for p in felt["points"]] == [torch.float32] * 3 and all(p.shape[1] == 5 for p in felt["points"])
    moved = to_device(felt, torch.device("meta"))
    assert [p.device.type for p in moved["points"]] == ["meta"] * 3 and moved["boxes"] is not None


def test_teacher_and_student_see_one_augmented_world(tiny_nuscenes, config) -> None:
    """In one batch, and no other than each would see alone."""
    both = batches(tiny_nuscenes, config, (*LSS.inputs, *PillarNet.inputs), True, True)
    alone = [
        {**seen, "points": felt["points"], "felt_boxes": felt["boxes"]}
        for seen, felt in zip(
            batches(tiny_nuscenes, config, LSS.inputs, True, False),
            batches(tiny_nuscenes, config, PillarNet.inputs, False, True),
            strict=True,
        )
    ]
    for together, apart in zip(both, alone, strict=True):
        assert together["tokens"] == apart["tokens"]
        for name in LSS.inputs:
            assert torch.equal(together[name], apart[name])
        for i in range(3):
            assert torch.equal(together["points"][i], apart["points"][i])
            for boxes in (apart["boxes"][i], apart["felt_boxes"][i]):
                np.testing.assert_array_equal(together["boxes"][i].centers, boxes.centers)
    first = both[0]
    assert not torch.allclose(first["ego_T_cam"][0, 0], first["ego_T_cam"][1, 0], atol=1e-2)  # it did do something


def test_workers_load_points_too(tiny_nuscenes, config) -> None:
    here, there = (batches(tiny_nuscenes, config, PillarNet.inputs, False, True, workers) for workers in (0, 1))
    for a, b in zip(here, there, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["points"], b["points"], strict=True))


AFTER_OPENCV = """
import sys
import cv2
import numpy as np
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.loader import AugmentedSamples, make_loader

cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 0)  # by threads
fields = ["training.workers=1", "training.steps=2", "training.image_supervision={}"]
config = load_config(share_directory() / "config" / "models" / "nano.yaml", fields)
nusc = open_nuscenes(sys.argv[1], "v1.0-mini")
samples = open_samples(nusc, choose_samples(nusc), config.model)
loader = make_loader(AugmentedSamples(samples, config), config, 0, ("images",))
print(len(list(loader)))
"""


def test_workers_start_whatever_opencv_has_done_before(tiny_nuscenes) -> None:
    """Its threads do not survive a fork: a worker that touches them waits for ever."""
    run = subprocess.run(
        [sys.executable, "-c", AFTER_OPENCV, str(tiny_nuscenes)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0 and run.stdout.split()[-1] == "2", run.stderr
