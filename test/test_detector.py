"""Detector: the one call that node, evaluation and benchmarks share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Camera, make_transform, rotation_z
from bevdistill_ros.models import build_network
from bevdistill_ros.models.lss import LSS
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Detector:
    torch.manual_seed(0)
    config = load_config(share_directory() / "config" / "models" / "nano.yaml", ["model.backbone.width=8"]).model
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint(config, LSS(config).state_dict(), ("front",), {}))
    return Detector.from_checkpoint(path, "cpu")


def inputs(detector: Detector, count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    camera = Camera(np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]]), 1600, 900)
    pictures = [detector.preprocess(rng.integers(0, 256, (900, 1600, 3), dtype=np.uint8), camera) for _ in range(count)]
    poses = [make_transform(rotation_z(2.1 * i) @ FORWARD, (0, 0, 1.5)) for i in range(count)]
    return np.stack([p for p, _ in pictures]), np.stack([K for _, K in pictures]), np.stack(poses)


def test_boxes_come_best_first_and_above_the_threshold(detector: Detector) -> None:
    boxes = detector(*inputs(detector))
    assert len(boxes) and (np.diff(boxes.scores) <= 0).all() and boxes.class_names == detector.class_names
    threshold = float(np.median(boxes.scores))
    assert len(detector(*inputs(detector), score_threshold=threshold)) == (boxes.scores >= threshold).sum()
    assert set(detector.stage_times) == {"upload", "calibrate", "network", "decode"}


def test_masked_cameras_are_absent_ones(detector: Detector) -> None:
    images, K, ego_T_cam = inputs(detector)
    expected = detector(images[:2], K[:2], ego_T_cam[:2])
    K[2] = np.nan
    found = detector(images, K, ego_T_cam, np.array([True, True, False]))
    assert np.array_equal(found.centers, expected.centers) and np.array_equal(found.scores, expected.scores)


def test_no_camera_gives_no_boxes(detector: Detector) -> None:
    assert len(detector(*inputs(detector), mask=np.zeros(3, bool))) == 0


def test_wrong_shapes_are_named(detector: Detector) -> None:
    images, K, ego_T_cam = inputs(detector)
    with pytest.raises(ValueError, match=r"expected images \(N, 96, 256, 3\) uint8"):
        detector(images[:, :, :100], K, ego_T_cam)
    with pytest.raises(ValueError, match="float32"):
        detector(images.astype(np.float32), K, ego_T_cam)
    with pytest.raises(ValueError, match="mask"):
        detector(images, K, ego_T_cam, np.ones(2, bool))


def test_an_impossible_device_is_one_clear_error(detector: Detector) -> None:
    with pytest.raises(UserError, match="device 'cuda:99' cannot be used|device 'nonsense'"):
        Detector(Checkpoint(detector.config, detector.network.state_dict(), (), {}), "cuda:99")


def test_a_lidar_model_is_refused_in_one_clear_line(tmp_path) -> None:
    config = load_config(share_directory() / "config" / "models" / "teacher_nano.yaml").model
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), ("CAM_FRONT",), {}))
    with pytest.raises(UserError, match=r"teacher\.safetensors: holds 'teacher_nano', which needs LiDAR") as error:
        Detector.from_checkpoint(path)
    assert "\n" not in str(error.value)
