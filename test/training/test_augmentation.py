"""Augmentation keeps pixels, calibration and boxes consistent: a world point stays on its pixel."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from bevdistill_ros.geometry import Boxes, Camera, make_transform, rotation_z, transform_points
from bevdistill_ros.training.augmentation import (
    PixelChange,
    augment,
    augment_geometry,
    change_pixels,
    colour_matrices,
    draw_augmentation,
    drop_cameras,
    grid_squares,
    light_table,
    mirror,
    scale_world,
)
from bevdistill_ros.training.config import AugmentationConfig
from bevdistill_ros.training.data.nuscenes import Sample

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[200.0, 0.0, 127.5], [0.0, 200.0, 47.5], [0.0, 0.0, 1.0]])


def scene() -> Sample:
    """Two cameras, ahead and behind; each sees one box whose centre is a white blob on its picture."""
    poses = np.stack([make_transform(rotation_z(yaw) @ FORWARD, (0.5, 0.2, 1.5)) for yaw in (0.0, np.pi)])
    boxes = Boxes(
        centers=[[12, 2, 1.2], [-9, -1, 1.0]],
        sizes=[[4, 2, 1.5], [3, 1, 1]],
        yaws=[0.4, -2.0],
        velocities=[[3, 1], [np.nan, np.nan]],
        scores=[1, 1],
        labels=[0, 0],
        class_names=("car",),
    )
    sample = Sample(
        "token", np.zeros((2, 96, 256, 3), np.uint8), np.stack([K, K]), poses, np.ones(2, bool), boxes, np.eye(4), 0, 0
    )
    for image, pixel in zip(sample.images, pixels_of_centers(sample), strict=True):
        cv2.circle(image, tuple(int(v) for v in np.round(pixel * 16)), 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return replace(sample, points=np.concatenate([points_of(box) for box in (boxes[[0]], boxes[[1]])]))


LOCAL = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
"""Places within a box, in its lengths, widths and heights; the first is its centre."""
LOCAL[0] = 0.0


def points_of(box: Boxes) -> np.ndarray:
    """LiDAR points (50, 5) at these places of one box."""
    xyz = transform_points(make_transform(rotation_z(box.yaws[0]), box.centers[0]), LOCAL * box.sizes[0])
    return np.concatenate([xyz, np.tile([[9.0, 0.1]], (50, 1))], axis=1).astype(np.float32)


def places_in(box: Boxes, points: np.ndarray) -> np.ndarray:
    """The inverse: (n, 3) places of points in one box."""
    return (
        transform_points(np.linalg.inv(make_transform(rotation_z(box.yaws[0]), box.centers[0])), points[:, :3])
        / box.sizes[0]
    )


def pixels_of_centers(sample: Sample) -> list[np.ndarray]:
    """Camera i images the centre of box i; by K and the pose alone, which may scale or have a skew."""
    pixels = []
    for K_i, T, center in zip(sample.K, sample.ego_T_cam, sample.boxes.centers, strict=True):
        u, v, w = K_i @ transform_points(np.linalg.inv(T), center)
        assert w > 0
        pixels.append(np.array([u / w, v / w]))
    return pixels


def assert_consistent(sample: Sample) -> None:
    """Pixels, calibration, points and boxes tell of one world."""
    for i in (0, 1):
        own = sample.points[50 * i : 50 * i + 50]
        places = places_in(sample.boxes[[i]], own)
        # A point keeps its place in its box, on the other side if the world is mirrored; what else it holds does not change.
        assert np.allclose(np.abs(places), np.abs(LOCAL), atol=1e-4)
        assert np.allclose(places[:, ::2], LOCAL[:, ::2], atol=1e-4)
        assert (own[:, 3] == 9.0).all() and np.allclose(own[:, 4], 0.1)
        # The camera that sees the box sees the point at its centre where the picture shows it (below).
        assert np.allclose(own[0, :3], sample.boxes.centers[i], atol=1e-4)
    for image, pixel in zip(sample.images, pixels_of_centers(sample), strict=True):
        columns, rows = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
        weight = np.maximum(image[..., 0].astype(float) - image[..., 0].min(), 0)
        weight = np.where(weight > 0.5 * weight.max(), weight, 0)
        assert (
            np.abs([(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()] - pixel).max() < 0.35
        )


@pytest.mark.parametrize("seed", range(4))
def test_doubtful_boxes_move_like_the_others(seed: int) -> None:
    sample = scene()
    rng = np.random.default_rng(seed)
    config = AugmentationConfig(rig_yaw_deg=((-180.0, 180.0),), bev_scale=(0.9, 1.1), flip=0.5)
    drawn = draw_augmentation(config, sample.mask, (256, 96), rng)
    changed = augment_geometry(replace(sample, doubtful=sample.boxes), drawn, 256)
    for name in ("centers", "sizes", "yaws", "velocities"):
        moved = getattr(changed.doubtful, name)
        np.testing.assert_array_equal(moved, getattr(changed.boxes, name))
        assert not np.array_equal(moved, getattr(sample.boxes, name), equal_nan=True)


def test_the_scene_itself_is_consistent() -> None:
    assert_consistent(scene())


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(rig_yaw_deg=((-180.0, 180.0),)),
        AugmentationConfig(image_scale=(0.8, 1.2)),
        AugmentationConfig(image_rotation_deg=(-20.0, 20.0)),
        AugmentationConfig(image_shift=(-0.1, 0.1)),
        AugmentationConfig(flip=1.0),
        AugmentationConfig(bev_scale=(0.8, 1.2)),
        AugmentationConfig(brightness=(-20, 20), contrast=(0.8, 1.2)),
        AugmentationConfig(camera_brightness=(-20, 20), camera_contrast=(0.8, 1.2)),
        AugmentationConfig(((-180.0, 180.0),), (0.9, 1.1), 0.5, (0.9, 1.1), (-5, 5), (-0.05, 0.05)),
    ],
)
def test_world_points_stay_on_their_pixels(config: AugmentationConfig) -> None:
    for seed in range(5):
        changed = augment(scene(), config, np.random.default_rng(seed))
        assert_consistent(changed)
    assert any(
        not np.array_equal(getattr(changed, name), getattr(scene(), name)) for name in ("images", "K", "ego_T_cam")
    )  # it did do something


def test_a_mirrored_rig_is_a_proper_rig() -> None:
    mirrored = mirror(scene(), 256)
    assert np.allclose(np.linalg.det(mirrored.ego_T_cam[:, :3, :3]), 1)
    for K_i in mirrored.K:
        Camera(K_i, 256, 96)  # positive focal lengths
    assert np.allclose(mirrored.boxes.centers[0], [12, -2, 1.2]) and mirrored.boxes.yaws[0] == pytest.approx(-0.4)
    assert np.allclose(mirrored.boxes.velocities[0], [3, -1])
    # Corner by corner: the mirror image of every corner is a corner.
    reflected = scene().boxes.corners() * (1, -1, 1)
    distance = np.linalg.norm(mirrored.boxes.corners()[:, :, None] - reflected[:, None], axis=-1).min(axis=2)
    assert np.allclose(distance, 0)
    twice = mirror(mirrored, 256)
    assert np.allclose(twice.ego_T_cam, scene().ego_T_cam) and np.allclose(twice.K, scene().K)


def test_scaling_scales_boxes_whole() -> None:
    scaled = scale_world(scene(), 1.1).boxes
    assert np.allclose(scaled.corners(), scene().boxes.corners() * 1.1) and np.allclose(
        scaled.velocities[0], [3.3, 1.1]
    )


def test_yaw_intervals_are_kept_and_covered() -> None:
    config = AugmentationConfig(rig_yaw_deg=((-180.0, -150.0), (10.0, 100.0)))
    sample = replace(scene(), ego_T_cam=np.tile(np.eye(4), (2, 1, 1)))
    yaws = []
    for seed in range(300):
        T = augment(sample, config, np.random.default_rng(seed)).ego_T_cam[0]
        yaws.append(np.degrees(np.arctan2(T[1, 0], T[0, 0])))
    yaws = np.array(yaws)
    assert (((yaws >= -180) & (yaws <= -150)) | ((yaws >= 10) & (yaws <= 100))).all()
    assert 0.15 < (yaws < 0).mean() < 0.35  # by length: 30 of 120 degrees


def test_one_to_three_cameras_go_each_number_and_each_camera_as_often() -> None:
    config = AugmentationConfig(camera_drop=0.2, camera_drop_most=3)
    rng = np.random.default_rng(0)
    masks = np.array([draw_augmentation(config, np.ones(6, bool), (64, 32), rng).mask for _ in range(6000)])
    shares = np.bincount((~masks).sum(axis=1), minlength=7) / len(masks)
    np.testing.assert_allclose(shares, [0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0, 0, 0], atol=0.015)
    np.testing.assert_allclose((~masks).mean(axis=0), 0.2 * 2 / 6, atol=0.015)  # two of six on average
    always = AugmentationConfig(camera_drop=1.0, camera_drop_most=1)
    assert all(draw_augmentation(always, np.ones(6, bool), (64, 32), rng).mask.sum() == 5 for _ in range(20))


def test_one_camera_always_stays() -> None:
    rng = np.random.default_rng(0)
    three = np.array([True, False, True, True])
    kept = [drop_cameras(three, most=3, rng=rng) for _ in range(60)]
    assert {int(mask.sum()) for mask in kept} == {1, 2} and not any(mask[1] for mask in kept)
    assert three.tolist() == [True, False, True, True]  # the input is left alone
    for few in ([False, True], [True], [False, False]):
        assert drop_cameras(np.array(few), most=3, rng=rng).tolist() == few


def test_dropped_cameras_are_masked_and_black() -> None:
    config = AugmentationConfig(camera_drop=0.5, brightness=(50, 50))
    masks = set()
    for seed in range(20):
        changed = augment(scene(), config, np.random.default_rng(seed))
        masks.add(tuple(changed.mask.tolist()))
        assert all(image.any() == there for image, there in zip(changed.images, changed.mask))
    assert masks == {(True, True), (True, False), (False, True)}


def test_same_seed_same_sample() -> None:
    config = AugmentationConfig(
        ((-180.0, 180.0),), (0.9, 1.1), 0.5, (0.9, 1.1), (-5, 5), (-0.05, 0.05), (-9, 9), (0.9, 1.1), camera_drop=0.3
    )
    a, b = (augment(scene(), config, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a.images, b.images) and np.array_equal(a.ego_T_cam, b.ego_T_cam)


def no_change(**changes) -> PixelChange:
    still = PixelChange(
        np.tile(np.eye(3), (2, 1, 1)), np.array(False), np.zeros((0, 3, 3)), np.ones(2), np.zeros(2), np.ones(2, bool),
        np.array(False), np.zeros(3, int),
    )  # fmt: skip
    return still._replace(**{name: np.asarray(value) for name, value in changes.items()})


def test_pixel_changes_by_hand() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    original = images.copy()
    assert np.array_equal(change_pixels(images, no_change()), images)
    shift = np.array([[1.0, 0, 10], [0, 1, -5], [0, 0, 1]])
    moved = change_pixels(images, no_change(matrices=[shift, np.eye(3)]))
    assert np.array_equal(moved[0, :-5, 10:], images[0, 5:, :-10]) and np.array_equal(moved[1], images[1])
    assert not moved[0, -5:].any() and not moved[0, :, :10].any()
    assert np.array_equal(change_pixels(images, no_change(flip=True)), images[:, :, ::-1])
    lit = change_pixels(images, no_change(contrast=[2.0, 1.0], brightness=[0.0, 30.0]))
    assert np.array_equal(lit[1], np.minimum(images[1].astype(int) + 30, 255))
    assert lit[0, 0, 0, 0] == np.clip((float(images[0, 0, 0, 0]) - 127.5) * 2 + 127.5, 0, 255).round()
    dark = change_pixels(images, no_change(visible=[True, False], brightness=[9.0, 9.0]))
    assert dark[0].any() and not dark[1].any()
    assert np.array_equal(images, original)  # what a cache hands out is not written to
    # The flip comes after the shift.
    both = change_pixels(images, no_change(matrices=[shift, np.eye(3)], flip=True))
    assert np.array_equal(both, moved[:, :, ::-1])


def test_grey_is_luma_of_the_whole_set() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    grey = change_pixels(images, no_change(grey=True))
    luma = images @ np.array([0.114, 0.587, 0.299])
    assert np.abs(grey - luma[..., None]).max() <= 1.0 and (np.ptp(grey, axis=-1) == 0).all()


def test_sets_turn_grey_with_the_probability_asked_for() -> None:
    def drawn(probability: float) -> np.ndarray:
        config = AugmentationConfig(grayscale=probability)
        draws = (draw_augmentation(config, np.ones(6, bool), (8, 8), np.random.default_rng(s)) for s in range(400))
        return np.array([bool(draw.pixels.grey) for draw in draws])

    assert not drawn(0.0).any() and drawn(1.0).all() and 0.2 < drawn(0.3).mean() < 0.4


def test_grid_mask_by_hand() -> None:
    """Period 4 from column 1 and row 2: of every four, two are kept and two covered in either direction."""
    squares = grid_squares((9, 7), np.array([4, 1, 2]))
    assert squares.any(axis=0).nonzero()[0].tolist() == [0, 3, 4, 7, 8]
    assert squares.any(axis=1).nonzero()[0].tolist() == [0, 1, 4, 5]
    assert squares.sum() == 5 * 4
    assert grid_squares((10, 10), np.array([5, 0, 0])).sum() == 4 * 4  # an odd period keeps the larger part
    assert grid_squares((120, 120), np.array([12, 7, 3])).mean() == 0.25


def test_grid_mask_is_the_same_on_all_images_that_are_there() -> None:
    images = np.random.default_rng(0).integers(130, 256, (3, 20, 30, 3), dtype=np.uint8)
    covered = change_pixels(
        images,
        PixelChange(
            np.tile(np.eye(3), (3, 1, 1)), np.array(False), np.zeros((0, 3, 3)), np.ones(3), np.zeros(3),
            np.array([True, False, True]), np.array(True), np.array([6, 1, 2]),
        ),
    )  # fmt: skip
    squares = grid_squares((30, 20), np.array([6, 1, 2]))
    assert squares.any() and not covered[1].any()
    for i in (0, 2):
        assert (covered[i][squares] == (104, 116, 124)).all()
        assert np.array_equal(covered[i][~squares], images[i, :, ::-1][~squares])  # the flip does not move the grid


def test_grids_are_drawn_as_often_as_asked_and_fit_the_image() -> None:
    def drawn(probability: float) -> np.ndarray:
        config = AugmentationConfig(grid_mask=probability)
        draws = (draw_augmentation(config, np.ones(2, bool), (40, 16), np.random.default_rng(s)) for s in range(400))
        return np.array([draw.pixels.grid for draw in draws])

    assert not drawn(0.0).any()
    periods, shifts = drawn(1.0)[:, 0], drawn(1.0)[:, 1:]
    assert set(periods) == set(range(2, 16)) and (shifts < periods[:, None]).all() and (shifts.max(axis=0) > 10).all()
    assert 0.63 < (drawn(0.7)[:, 0] > 0).mean() < 0.77


def test_cameras_get_their_own_light_on_top_of_the_sets() -> None:
    config = AugmentationConfig(
        brightness=(40, 40), contrast=(2, 2), camera_brightness=(-5, 5), camera_contrast=(0.5, 1)
    )
    pixels = draw_augmentation(config, np.ones(6, bool), (8, 8), np.random.default_rng(0)).pixels
    assert len(set(pixels.contrast)) == len(set(pixels.brightness)) == 6
    assert (np.abs(pixels.brightness - 40) <= 5).all() and ((pixels.contrast >= 1) & (pixels.contrast <= 2)).all()
    alike = draw_augmentation(
        AugmentationConfig(brightness=(-9, 9)), np.ones(6, bool), (8, 8), np.random.default_rng(0)
    )
    assert len(set(alike.pixels.brightness)) == 1
    assert light_table(1.0, 300.0).tolist() == [255] * 256 and light_table(0.0, 0.0)[[0, 255]].tolist() == [128, 128]


PRIMARIES = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
"""BGR."""


def recoloured(images: np.ndarray, saturation: float = 1.0, hue_deg: float = 0.0, **changes) -> np.ndarray:
    colours = colour_matrices(np.full(2, saturation), np.full(2, np.deg2rad(hue_deg)))
    return change_pixels(images, no_change(colours=colours, **changes))


def test_hue_turns_red_to_green_to_blue() -> None:
    red, green, blue = (np.full((2, 4, 5, 3), PRIMARIES[name], np.uint8) for name in ("red", "green", "blue"))
    for before, after in ((red, green), (green, blue), (blue, red)):
        assert np.array_equal(recoloured(before, hue_deg=120), after)
        assert np.array_equal(recoloured(after, hue_deg=-120), before)
    # On the way from red to green there is yellow; half of the brightness keeps the colours within what pixels can hold.
    yellow = recoloured(red // 2, hue_deg=60)[0, 0, 0]
    assert yellow[1] == yellow[2] == 85 and yellow[0] == 0  # 127 * (2/3, 2/3, -1/3)


def test_saturation_is_the_distance_from_grey() -> None:
    images = np.full((2, 4, 5, 3), (80, 120, 160), np.uint8)
    grey = 0.114 * 80 + 0.587 * 120 + 0.299 * 160
    for factor in (0.0, 0.5, 1.0, 1.5, 3.0):
        expected = np.clip(grey + factor * (np.array([80, 120, 160]) - grey), 0, 255)
        assert np.abs(recoloured(images, factor) - expected).max() <= 1.0
    assert np.ptp(recoloured(images, 0.0), axis=-1).max() == 0


def test_colours_leave_greys_alone_and_nothing_is_no_change_at_all() -> None:
    greys = np.repeat(np.random.default_rng(0).integers(0, 256, (2, 20, 30, 1), dtype=np.uint8), 3, axis=-1)
    assert np.abs(recoloured(greys, 2.5, 77.0).astype(int) - greys).max() <= 1
    colours = np.random.default_rng(1).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    assert np.array_equal(colour_matrices(np.ones(2), np.zeros(2)), np.tile(np.eye(3), (2, 1, 1)))
    assert np.array_equal(recoloured(colours), colours)
    lost = change_pixels(colours, no_change(grey=True, contrast=[1.5, 0.5]))
    assert np.array_equal(recoloured(colours, 2.0, 90.0, grey=True, contrast=[1.5, 0.5]), lost)


def test_colours_and_light_are_one_pass_over_the_pixels() -> None:
    """Saturating once at its end: a colour beyond what pixels can hold comes back where the contrast is small."""
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    matrix = colour_matrices(np.array([1.5]), np.array([0.6]))[0]
    light = {"contrast": [0.5, 1.3], "brightness": [20.0, -30.0]}
    found = recoloured(images, 1.5, np.rad2deg(0.6), **light)
    for i in (0, 1):
        expected = (images[i] @ matrix.T - 127.5) * light["contrast"][i] + 127.5 + light["brightness"][i]
        assert np.abs(found[i] - np.clip(expected, 0, 255)).max() <= 1.0


def test_sets_and_cameras_get_their_colours() -> None:
    def drawn(**limits) -> np.ndarray:
        config = AugmentationConfig(**limits)
        return draw_augmentation(config, np.ones(6, bool), (8, 8), np.random.default_rng(0)).pixels.colours

    def turned(saturation: float, hue_deg: float) -> np.ndarray:
        return colour_matrices(np.full(6, saturation), np.full(6, np.deg2rad(hue_deg)))

    assert drawn(grayscale=1.0, contrast=(0.5, 1.5)).shape == (0, 3, 3)
    np.testing.assert_allclose(
        drawn(saturation=(2, 2), camera_saturation=(0.5, 0.5), hue_deg=(9, 9)), turned(1, 9), atol=1e-12
    )
    np.testing.assert_allclose(drawn(hue_deg=(50, 50), camera_hue_deg=(-30, -30)), turned(1, 20), atol=1e-12)
    for name, limits in (("saturation", (0.5, 1.5)), ("hue_deg", (-36, 36))):
        assert len(np.unique(drawn(**{name: limits}), axis=0)) == 1
        assert len(np.unique(drawn(**{f"camera_{name}": limits}), axis=0)) == 6


def test_a_seed_gives_what_it_always_gave() -> None:
    """Draws as they were before there were colours to draw, and no number more: numpy's streams do not change lightly."""
    config = AugmentationConfig(
        ((-30.0, -10.0), (10.0, 50.0)), (0.9, 1.1), 0.5, (0.9, 1.1), (-5, 5), (-0.05, 0.05), (-9, 9), (0.9, 1.1), (-5, 5),
        (0.8, 1.2), 0.5, 0.9, 3, 0.7,
    )  # fmt: skip
    rng = np.random.default_rng(7)
    drawn = draw_augmentation(config, np.ones(6, bool), (64, 48), rng)
    pixels = drawn.pixels
    assert drawn.mask.tolist() == [True, True, False, False, False, True]
    assert pixels.flip and not pixels.grey and pixels.grid.tolist() == [35, 17, 21] and len(pixels.colours) == 0
    matrix = [[0.907133, -0.002357, 2.764425], [0.002357, 0.907133, 4.110526], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(pixels.matrices[5], matrix, atol=1e-6)
    found = [drawn.yaw, drawn.scale, pixels.contrast[5], pixels.brightness[5], rng.random()]
    np.testing.assert_allclose(found, [-0.456437758, 0.949502984, 0.930482391, -3.830926311, 0.361264059], atol=1e-8)


def test_a_draw_of_old_settings_is_not_moved_by_new_ones() -> None:
    """New kinds of draws come after the old ones, so that what was trained with a seed can be trained again."""
    old = AugmentationConfig(rig_yaw_deg=((-9.0, 9.0),), image_scale=(0.9, 1.1), flip=0.5, contrast=(0.8, 1.2))
    new = replace(old, grayscale=0.5, camera_brightness=(-9, 9), grid_mask=0.7)
    for seed in range(5):
        a, b = (draw_augmentation(c, np.ones(6, bool), (8, 8), np.random.default_rng(seed)) for c in (old, new))
        assert np.array_equal(a.pixels.matrices, b.pixels.matrices) and a.yaw == b.yaw
        assert a.pixels.flip == b.pixels.flip and np.array_equal(a.pixels.contrast, b.pixels.contrast)
        newest = replace(new, saturation=(0.5, 1.5), camera_hue_deg=(-36, 36))
        c = draw_augmentation(newest, np.ones(6, bool), (8, 8), np.random.default_rng(seed)).pixels
        assert len(c.colours) == 6
        for name in (name for name in PixelChange._fields if name != "colours"):
            assert np.array_equal(getattr(b.pixels, name), getattr(c, name))
