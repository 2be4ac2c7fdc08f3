"""The comparison is fair: both ways see the same part of the picture, and find the same boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bevdistill_ros.bench import straightforward
from bevdistill_ros.bench.box_messages import many_boxes, message_makers
from bevdistill_ros.bench.compare import NORMALISED, OURS, STRAIGHTFORWARD, compare, pool_ways, preprocess_ways
from bevdistill_ros.bench.straightforward import StraightforwardDetector
from bevdistill_ros.config import ImageConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Camera
from bevdistill_ros.models import build_network
from bevdistill_ros.models.pixels import PIXEL_STD
from bevdistill_ros.paths import share_directory
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.config import load_config


@pytest.mark.parametrize("target", [(32, 64), (64, 176), (96, 256)])  # height, width
def test_pixels_agree_where_pictures_are_smooth(pipeline, smooth_set, target):
    ways = preprocess_ways(pipeline, [smooth_set], ImageConfig(*target))
    ours, normalised, straight = (ways[name]() for name in (OURS, NORMALISED, STRAIGHTFORWARD))
    assert ours.shape == (6, *target, 3) and ours.dtype == np.uint8
    assert straight.shape == normalised.shape == (6, 3, *target) and straight.dtype == np.float32
    # A grey level is 1 / 57; the resized picture has a whole number of rows, ours not: half a pixel of a gradient.
    difference = np.abs(normalised.numpy() - straight)
    assert difference.mean() < 1.5 / min(PIXEL_STD) and difference.max() < 10 / min(PIXEL_STD)
    assert straight.std() > 0.3
    np.testing.assert_allclose(straightforward.normalise(ours[0]), normalised[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "D"),
    [("plumb_bob", [-0.4, 0.15, 0.001, -0.001, 0.0]), ("equidistant", [-0.1, 0.01, 0.0, 0.0])],
)
def test_lenses_are_straightened_alike(smooth_set, model, D):
    K = smooth_set.cameras[0].K
    camera = Camera(K, 400, 225, model, np.array(D))
    config = ImageConfig(96, 256)
    image = straightforward.bridge(smooth_set.pictures[0])
    ours, _ = Preprocessor(config)(image, camera)
    straight = straightforward.resize(image, camera, config)
    plain = straightforward.resize(image, Camera(K, 400, 225), config)
    ours = ours.astype(float)
    assert np.abs(ours - straight).mean() < 1.0
    assert np.abs(ours - plain).mean() > 3.0


def test_boxes_agree(tiny_detector, tiny_network, pipeline, smooth_set):
    straight = StraightforwardDetector(tiny_network, tiny_detector.device)
    images, *calibration = pipeline.tensors(smooth_set)
    straight.calibrate(*calibration, images.shape[2:4])
    ours = tiny_detector(*pipeline.preprocess(smooth_set), smooth_set.ego_T_cam)
    theirs = straight(smooth_set, 0.0)
    assert len(ours) > 10 and abs(len(ours) - len(theirs)) <= 0.1 * len(ours)
    # Of the boxes that are best for one, nearly all are found by the other at the same place.
    distance = np.linalg.norm(ours.centers[:20, None, :2] - theirs.centers[None, :, :2], axis=-1)
    same_class = ours.labels[:20, None] == theirs.labels[None]
    nearest = np.where(same_class, distance, np.inf).min(axis=1)
    assert (nearest < 0.5).mean() >= 0.9
    assert abs(ours.scores[:20].mean() - theirs.scores[:20].mean()) < 0.01


def test_the_network_alone_is_the_same(tiny_detector, tiny_network, pipeline, small_sets, monkeypatch):
    """On the very same pixels the straightforward path gives the same boxes, but for rounding."""
    monkeypatch.setattr(straightforward, "resize", lambda image, camera, config: Preprocessor(config)(image, camera)[0])
    raw = straightforward.bridge(small_sets[0].pictures[0])
    rig_set = type(small_sets[0])(small_sets[0].names, (raw,) * 6, small_sets[0].cameras, small_sets[0].ego_T_cam)
    straight = StraightforwardDetector(tiny_network, tiny_detector.device)
    images, *calibration = pipeline.tensors(rig_set)
    straight.calibrate(*calibration, images.shape[2:4])
    ours = tiny_detector(*pipeline.preprocess(rig_set), rig_set.ego_T_cam)
    theirs = straight(rig_set, 0.0)
    assert len(ours) == len(theirs) > 10
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)


def test_pooling_agrees_with_its_gradients(pipeline, small_sets):
    images, *calibration = pipeline.tensors(small_sets[0])
    network = pipeline.network
    plan = network.calibrate(*calibration, images.shape[2:4]).plan
    pixels = 6 * (32 // 8) * (64 // 8)
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(pixels, 8, generator=generator)
    depth = torch.randn(pixels, 16, generator=generator).softmax(1)
    ways = pool_ways(context, depth, plan)
    assert len(plan.points) > 100
    torch.testing.assert_close(ways["pool_forward"][OURS](), ways["pool_forward"][STRAIGHTFORWARD]())
    for ours, theirs in zip(ways["pool_backward"][OURS](), ways["pool_backward"][STRAIGHTFORWARD]()):
        torch.testing.assert_close(ours, theirs)


def test_the_comparison_has_every_ratio(pipeline, small_sets):
    told = []
    figures = compare(pipeline, small_sets, turns=1, seed=0, opencv_threads=1, told=told.append)
    names = {"preprocess_704x256", "preprocess_256x96", "pipeline", "pool_forward", "pool_backward"}
    names |= set() if message_makers() is None else {"messages_300"}
    assert set(figures["median_ms"]) == names
    normalised = {"preprocess_704x256_normalised", "preprocess_256x96_normalised"}
    assert set(figures["ratios"]) == names | normalised and len(told) == len(names)
    for name in names:
        medians = figures["median_ms"][name]
        assert figures["ratios"][name] == pytest.approx(medians[STRAIGHTFORWARD] / medians[OURS], rel=0.02, abs=0.01)


def test_messages_agree():
    if (makers := message_makers()) is None:
        pytest.skip("there is no ROS 2 here")
    from rclpy.serialization import deserialize_message
    from vision_msgs.msg import Detection3DArray

    ours, theirs = (make(many_boxes(("car", "truck", "bus"))) for make in makers)
    found, expected = (deserialize_message(made[0], Detection3DArray) for made in (ours, theirs))
    assert found == expected and len(found.detections) == 300
    assert len(ours) == len(theirs) == 2


def test_other_networks_are_not_compared():
    config = load_config(share_directory() / "config" / "models" / "bevformer_nano.yaml").model
    with pytest.raises(UserError, match="--compare: 'bevformer_nano' does not lift and splat"):
        StraightforwardDetector(build_network(config), torch.device("cpu"))
    with pytest.raises(UserError, match="--compare: an exported model"):
        StraightforwardDetector(None, torch.device("cpu"))
