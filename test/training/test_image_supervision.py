"""What LiDAR teaches the image features: targets drawn by hand, the same under augmentation, and losses in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bevdistill_ros.config import LiftConfig
from bevdistill_ros.geometry import Boxes, make_transform, rotation_z
from bevdistill_ros.models.outputs import ImageFeatures
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.augmentation import augment_geometry, draw_augmentation
from bevdistill_ros.training.config import AugmentationConfig, ImageSupervisionConfig, load_config
from bevdistill_ros.training.data.nuscenes import Sample
from bevdistill_ros.training.image_supervision import ImageTargets, classes_of_points, image_losses, image_targets

CLASSES = ("car", "pedestrian")
LIFT = LiftConfig(stride=8, bins=10, depth_min=1.0, depth_max=21.0)
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]])
SIZE = (4, 8)


def boxes(*rows: tuple) -> Boxes:
    """(x, y, z, length, width, height, yaw, label) each."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    return Boxes(
        table[:, :3], table[:, 3:6], table[:, 6], np.zeros((len(table), 2)), np.ones(len(table)), table[:, 7], CLASSES
    )


def targets_of(points: list, found: Boxes, mask: tuple = (True,), ego_T_cam: np.ndarray | None = None) -> ImageTargets:
    pose = make_transform(FORWARD) if ego_T_cam is None else ego_T_cam
    count = len(mask)
    return image_targets(
        np.array(points, np.float32).reshape(-1, 3), found, np.tile(K, (count, 1, 1)), np.tile(pose, (count, 1, 1)), np.array(mask),
        LIFT, SIZE,
    )  # fmt: skip


def test_the_nearest_point_of_a_pixel_tells_depth_and_class() -> None:
    car = boxes((8.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0, 0))
    # At y = -0.05, z = -0.05 all of them are seen just right of and below the centre (31.5, 15.5): feature pixel row 2, column 4.
    behind, on_car, before = ([x, -0.05, -0.05] for x in (15.0, 6.2, 3.0))
    for cloud, depth, found in (
        ([behind], 15.0, 0),
        ([on_car, behind], 6.2, 1),
        ([behind, on_car], 6.2, 1),
        ([before, on_car, behind], 3.0, 0),
    ):
        targets = targets_of(cloud, car)
        assert targets.bins[0, 2, 4] == int((depth - 1) / 2) and targets.classes[0, 2, 4] == found
        assert (targets.bins >= 0).sum() == 1


def test_only_what_a_camera_sees_within_its_depths_counts() -> None:
    outside = [[-5.0, 0, 0], [0.5, 0, 0], [5.0, 10.0, 0], [5.0, 0, 10.0], [30.0, 0, 0]]
    targets = targets_of(outside, boxes())
    assert (targets.bins == -1).all() and (targets.classes == 0).all()
    assert (targets_of([[5.0, 0.1, 0.1]], boxes(), mask=(True, False)).bins >= 0).sum(axis=(1, 2)).tolist() == [1, 0]


def test_points_belong_to_a_turned_box_but_not_those_of_the_ground_below_it() -> None:
    found = boxes((10.0, 5.0, 1.0, 4.0, 2.0, 2.0, math.radians(30), 1), (-10.0, 0.0, 1.0, 4.0, 2.0, 2.0, 0.0, 0))
    along = np.array([math.cos(math.radians(30)), math.sin(math.radians(30)), 0.0])
    aside = np.array([-along[1], along[0], 0.0])
    center = np.array([10.0, 5.0, 1.0])
    points = [center, center + 1.9 * along, center + 2.2 * along, center + 0.9 * aside, center + 1.2 * aside]
    points += [center + [0, 0, 0.95], center - [0, 0, 0.95], center - [0, 0, 0.85], np.array([-10.0, 0.0, 1.0])]
    assert classes_of_points(np.array(points, np.float32), found).tolist() == [2, 2, 0, 2, 0, 2, 0, 2, 1]
    assert classes_of_points(np.array(points, np.float32), boxes()).tolist() == [0] * 9


@pytest.mark.parametrize("seed", range(4))
def test_an_augmented_sample_has_the_targets_of_its_pixels(seed: int) -> None:
    """Mirror, scale and yaw change the world together with the rig: every pixel keeps its point, its depth and its class."""
    rng = np.random.default_rng(seed)
    points = np.hstack([rng.uniform([3, -6, -1], [20, 6, 3], (600, 3)), np.zeros((600, 2))]).astype(np.float32)
    found = boxes((5.0, 1.0, 0.5, 3.0, 2.0, 3.0, 0.4, 0), (6.0, -3.0, 0.5, 3.0, 2.0, 3.0, 1.0, 1))
    sample = Sample(
        "", np.zeros((1, 0, 0, 3), np.uint8), K[None], make_transform(FORWARD, [0.3, 0.1, 1.5])[None], np.ones(1, bool), found,
        np.eye(4), 0, 0, points,
    )  # fmt: skip
    config = AugmentationConfig(rig_yaw_deg=((-180.0, 180.0),), bev_scale=(0.9, 1.1), flip=0.5)
    drawn = draw_augmentation(config, sample.mask, (64, 32), rng)
    changed = augment_geometry(sample, drawn, 64)
    before, after = (image_targets(s.points, s.boxes, s.K, s.ego_T_cam, s.mask, LIFT, SIZE) for s in (sample, changed))
    if drawn.pixels.flip:
        before = ImageTargets(*(part[:, :, ::-1] for part in before))
    assert (before.bins == after.bins).mean() > 0.95 and (
        before.bins >= 0
    ).mean() > 0.8  # the rest lies on an edge, or nearly
    assert (before.classes == after.classes).mean() > 0.9 and set(np.unique(before.classes)) == {0, 1, 2}


def test_pixels_of_doubtful_boxes_have_no_target() -> None:
    """Neither class nor depth is learnt there; what lies in a true box as well keeps its class."""
    points = np.array([[5.0, 0.1, 0.1], [7.0, -2.0, 0.1], [9.0, 3.0, 0.1]])
    there = boxes((5.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 1))
    doubtful = boxes((5.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0), (7.0, -2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0))
    poses = np.tile(make_transform(FORWARD), (1, 1, 1))
    sure, unsure = (
        image_targets(points, there, K[None], poses, np.ones(1, bool), LIFT, SIZE, doubt) for doubt in (None, doubtful)
    )
    assert np.array_equal(sure.bins, unsure.bins) and (sure.bins >= 0).sum() == 3
    assert sorted(sure.classes[sure.bins >= 0]) == [0, 0, 2] and sorted(unsure.classes[sure.bins >= 0]) == [-1, 0, 2]
    on, off = ImageTargets(*map(torch.from_numpy, unsure)).kinds()
    assert on.sum() == 1 and off.sum() == 1
    logits = torch.zeros(1, 1, 3, *SIZE, requires_grad=True)
    image = ImageFeatures(torch.zeros(1, 1, 10, *SIZE, requires_grad=True), torch.zeros(1, 1, 3, *SIZE))
    targets = ImageTargets(*(torch.from_numpy(part)[None] for part in unsure))
    sum(image_losses(image, logits, targets, ImageSupervisionConfig(depth=1.0, classes=1.0)).values()).backward()
    for learnt in (logits.grad, image.depth.grad):
        assert torch.equal(learnt.abs().sum(dim=2) > 0, (on | off)[None])


def test_losses_are_the_mean_of_objects_and_of_the_rest() -> None:
    rng = torch.Generator().manual_seed(0)
    image = ImageFeatures(torch.randn(1, 1, 10, *SIZE, generator=rng), torch.zeros(1, 1, 3, *SIZE))
    logits = torch.randn(1, 1, 3, *SIZE, generator=rng)
    bins, classes = torch.full((1, 1, *SIZE), -1), torch.zeros(1, 1, *SIZE, dtype=torch.long)
    for row, column, depth, label in ((0, 0, 3, 0), (1, 2, 5, 0), (2, 2, 7, 2)):
        bins[0, 0, row, column], classes[0, 0, row, column] = depth, label
    classes[0, 0, 3, 3] = 1  # no point: it does not count
    losses = image_losses(image, logits, ImageTargets(bins, classes), ImageSupervisionConfig(depth=2.0, classes=0.5))

    def entropy(values: torch.Tensor, row: int, column: int, wanted: int) -> float:
        return -float(values[0, 0, :, row, column].log_softmax(0)[wanted])

    rest = (entropy(image.depth, 0, 0, 3) + entropy(image.depth, 1, 2, 5)) / 2
    assert float(losses["depth"]) == pytest.approx(2.0 * (rest + entropy(image.depth, 2, 2, 7)) / 2, rel=1e-5)
    rest = (entropy(logits, 0, 0, 0) + entropy(logits, 1, 2, 0)) / 2
    assert float(losses["classes"]) == pytest.approx(0.5 * (rest + entropy(logits, 2, 2, 2)) / 2, rel=1e-5)


def test_nothing_to_learn_from_gives_zero_and_a_weight_of_zero_no_loss() -> None:
    image = ImageFeatures(torch.randn(2, 1, 10, *SIZE, requires_grad=True), torch.zeros(2, 1, 3, *SIZE))
    nothing = ImageTargets(torch.full((2, 1, *SIZE), -1), torch.zeros(2, 1, *SIZE, dtype=torch.long))
    losses = image_losses(image, torch.randn(2, 1, 3, *SIZE), nothing, ImageSupervisionConfig(depth=1.0))
    assert set(losses) == {"depth"} and float(losses["depth"].detach()) == 0.0
    losses["depth"].backward()
    assert not image.depth.grad.any()


def test_of_several_lifts_the_loss_is_the_mean() -> None:
    """Each is given the same targets, camera by camera, with counts of a whole step as with the targets' own."""
    torch.manual_seed(0)
    first, second = (ImageFeatures(torch.randn(2, 3, 10, *SIZE), torch.zeros(2, 3, 4, *SIZE)) for _ in range(2))
    classes = torch.randint(0, 3, (2, 3, *SIZE))
    targets = ImageTargets(torch.randint(-1, 10, (2, 3, *SIZE)), classes)
    both = ImageFeatures(
        *(torch.cat(pair, 1) for pair in ((first.depth, second.depth), (first.context, second.context)))
    )
    logits = torch.randn(2, 3, 3, *SIZE), torch.randn(2, 3, 3, *SIZE)
    config = ImageSupervisionConfig(depth=2.0, classes=0.5)
    for counts in (None, torch.tensor([40.0, 300.0])):
        alone = [image_losses(*pair, targets, config, counts) for pair in zip((first, second), logits, strict=True)]
        together = image_losses(both, torch.cat(logits, 1), targets, config, counts)
        for name in ("depth", "classes"):
            torch.testing.assert_close(together[name], (alone[0][name] + alone[1][name]) / 2)
            assert abs(alone[0][name] - alone[1][name]) > 1e-3


def test_it_is_refused_for_a_model_without_cameras() -> None:
    from bevdistill_ros.errors import UserError

    path = share_directory() / "config" / "models" / "teacher_nano.yaml"
    with pytest.raises(UserError, match="image_supervision is for models with a lift"):
        load_config(path, ["training.image_supervision.depth=1"])
    with pytest.raises(UserError, match="alone_steps needs a weight"):
        load_config(path.with_name("keyframe.yaml"), ["training.image_supervision.alone_steps=10"])


def test_pixels_are_told_where_they_look() -> None:
    from bevdistill_ros.geometry import BevGrid
    from bevdistill_ros.models.lift import Lift

    lift = Lift(replace(LIFT, channels=4, neck_channels=8, ray_channels=16), BevGrid(-16.0, 16.0, -16.0, 16.0, 2.0))
    K_batch, mask = torch.from_numpy(K).float()[None, None], torch.ones(1, 1, dtype=torch.bool)
    pose = make_transform(FORWARD, [1.0, 0.5, 1.6])
    looks = lift.where_pixels_look(K_batch, torch.from_numpy(pose).float()[None, None], mask, SIZE)[0, 0]
    # Row 3 spans pixels 24 to 31, so its centre, 27.5, is 12 below the horizon: 0.3 m a metre of depth, the ground at 1.6 / 0.3.
    assert looks[0, 3] == pytest.approx(torch.full((8,), 2 * 0.3 / 1.6), rel=1e-5)
    assert looks[1, 3] == pytest.approx(torch.full((8,), 1.6 / 0.3 / 21.0), rel=1e-5)
    assert (looks[1, :2] == 1.0).all() and (looks[0, :2] < 0).all()  # above the horizon
    turned = make_transform(rotation_z(1.0)) @ pose
    again = lift.where_pixels_look(K_batch, torch.from_numpy(turned).float()[None, None], mask, SIZE)[0, 0]
    assert torch.allclose(looks, again, atol=1e-5)
    absent = lift.where_pixels_look(K_batch * 0, torch.zeros(1, 1, 4, 4), ~mask, SIZE)
    assert not absent.any()
