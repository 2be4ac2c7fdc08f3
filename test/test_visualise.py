"""Drawing: things appear where geometry says, on the right side, and nothing behind the camera or beyond the lens."""

from __future__ import annotations

import numpy as np
import pytest

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.geometry import Boxes, Camera, make_transform, rotation_z
from bevdistill_ros.visualise import (
    NEAR,
    bev_pixels,
    color_of,
    draw_bev,
    draw_boxes,
    mosaic,
    project_segments,
    rows_by_azimuth,
)

# x right, y down, z forward, for a camera that looks along the base frame's x
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[400.0, 0.0, 319.5], [0.0, 400.0, 239.5], [0.0, 0.0, 1.0]])
CAMERA = Camera(K, 640, 480)
FISHEYE = Camera(K, 640, 480, "equidistant", np.array([0.02, -0.01, 0.0, 0.0]))
FORWARD = make_transform(OPTICAL)


def pose(yaw_deg: float) -> np.ndarray:
    return make_transform(rotation_z(np.radians(yaw_deg)) @ OPTICAL, (0.0, 0.0, 1.5))


def boxes(*centers, size=(4.0, 2.0, 1.5), yaw=0.0, velocity=(np.nan, np.nan), score=0.9, label=0) -> Boxes:
    n = len(centers)
    return Boxes(centers, [size] * n, [yaw] * n, [velocity] * n, [score] * n, [label] * n, CLASS_NAMES)


def black(camera: Camera = CAMERA) -> np.ndarray:
    return np.zeros((camera.height, camera.width, 3), np.uint8)


def extent(image: np.ndarray, background=(0, 0, 0)) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what differs from the background."""
    rows, columns = np.nonzero((image != np.array(background)).any(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_box_ahead_is_drawn_at_its_projection():
    image = draw_boxes(black(), boxes((12.0, 0.0, 0.0)), CAMERA, FORWARD, labels=False)
    # The near face is 10 m away, 2 m wide and 1.5 m high: 80 by 60 pixels about the principal point.
    assert extent(image) == pytest.approx((279.5, 209.5, 359.5, 269.5), abs=2)


@pytest.mark.parametrize(("y", "left_half"), [(2.5, True), (-2.5, False)])
def test_left_is_left(y, left_half):
    left, _, right, _ = extent(draw_boxes(black(), boxes((12.0, y, 0.0)), CAMERA, FORWARD))
    assert (right < 319.5) if left_half else (left > 319.5)


def test_heights_are_up():
    _, _, _, bottom = extent(draw_boxes(black(), boxes((12.0, 0.0, 2.5)), CAMERA, FORWARD, truth=True))
    assert bottom < 239.5


@pytest.mark.parametrize("camera", [CAMERA, FISHEYE], ids=["pinhole", "fisheye"])
@pytest.mark.parametrize("truth", [False, True])
def test_nothing_of_what_lies_behind_or_beside_the_view(camera, truth):
    behind = boxes((-12.0, 0.0, 0.0), (-3.0, 1.0, 0.5), (1.0, 60.0, 0.0))
    assert not draw_boxes(black(camera), behind, camera, FORWARD, truth=truth).any()


def test_no_boxes_leave_the_image():
    assert not draw_boxes(black(), Boxes.empty(CLASS_NAMES), CAMERA, FORWARD).any()


@pytest.mark.parametrize("camera", [CAMERA, FISHEYE], ids=["pinhole", "fisheye"])
@pytest.mark.parametrize("yaw", np.linspace(0.0, 3.0, 7))
def test_a_box_that_reaches_behind_the_camera_is_cut(camera, yaw):
    """A bus on the left, at most yaws from ahead of the camera to behind it: drawn, and only on the left."""
    bus = boxes((3.5, 5.0, 0.0), size=(8.0, 2.5, 3.0), yaw=yaw)
    image = draw_boxes(black(camera), bus, camera, FORWARD, labels=False)
    _, _, right, _ = extent(image)
    assert right < 319.5


def test_inside_a_box_and_absurd_sizes_are_survived():
    for size in ((4.0, 2.0, 1.5), (1e4, 1e4, 1e4), (1e-6, 1e-6, 1e-6)):
        for center in ((0.0, 0.0, 0.0), (0.11, 0.0, 0.0), (1e5, 3.0, 0.0)):
            draw_boxes(black(), boxes(center, size=size), CAMERA, FORWARD)
            draw_bev(boxes(center, size=size, velocity=(1e9, 0.0)), boxes(center, size=size))


def test_boxes_that_are_not_finite_are_left_out():
    broken = boxes((np.nan, 0.0, 0.0), (12.0, np.inf, 0.0))
    assert not draw_boxes(black(), broken, CAMERA, FORWARD).any()
    assert (draw_bev(broken, broken) == draw_bev(None)).all()


def test_segments_are_cut_at_the_near_plane_in_space():
    # From 10 m ahead to 10 m behind, 2 m to the right: the cut is at depth NEAR on that line.
    (line,) = project_segments([[2.0, 0.0, 10.0]], [[2.0, 0.0, -10.0]], CAMERA)
    np.testing.assert_allclose(line, [[319.5 + 80.0, 239.5], [319.5 + 400.0 * 2.0 / NEAR, 239.5]], rtol=1e-9)
    (turned,) = project_segments([[2.0, 0.0, -10.0]], [[2.0, 0.0, 10.0]], CAMERA)
    np.testing.assert_allclose(turned, line[::-1], rtol=1e-9)
    assert np.isnan(project_segments([[2.0, 0.0, -1.0]], [[2.0, 0.0, -10.0]], CAMERA)).all()


def test_edges_bend_with_the_lens():
    """Every vertex of a subdivided edge lies on the line in space, and the edge is no straight line in the image."""
    start, end = np.array([-3.0, -2.0, 4.0]), np.array([3.0, -2.0, 4.0])
    (line,) = project_segments(start[None], end[None], FISHEYE)
    rays = FISHEYE.rays(line)
    on_line = rays * (4.0 / rays[:, 2:])
    np.testing.assert_allclose(on_line[:, 1], -2.0, atol=1e-5)
    assert np.ptp(line[:, 1]) > 10


def test_the_front_face_is_the_filled_one():
    """Faces 10 m and 14 m away, 80 x 60 and 57 x 43 pixels: whichever is the front is tinted."""

    def tinted(yaw: float, u: int, v: int) -> bool:
        image = draw_boxes(black(), boxes((12.0, 0.0, 0.0), yaw=yaw), CAMERA, FORWARD, labels=False)
        return bool(np.abs(image[v, u] - np.array(color_of("car")) * 0.3).max() < 2)

    in_both, in_the_near_one = (325, 245), (354, 249)
    assert tinted(np.pi, *in_both) and tinted(np.pi, *in_the_near_one)  # oncoming
    assert tinted(0.0, *in_both) and not tinted(0.0, *in_the_near_one)  # driving away


def test_drawing_needs_the_cameras_own_size():
    with pytest.raises(ValueError, match="image is 320x240, its calibration 640x480"):
        draw_boxes(np.zeros((240, 320, 3), np.uint8), boxes((12.0, 0.0, 0.0)), CAMERA, FORWARD)


def test_colors_are_stable_and_distinct():
    assert len({color_of(name) for name in CLASS_NAMES}) == len(CLASS_NAMES)
    assert color_of("forklift") == color_of("forklift") != color_of("pallet")
    assert max(color_of("forklift")) > 200


# ----------------------------------------------------------------------------------------------------------- from above

RANGE = (-50.0, 50.0, -50.0, 50.0)


@pytest.mark.parametrize(
    ("xy", "where"),
    [((20.0, 0.0), (200, 120)), ((-20.0, 0.0), (200, 280)), ((0.0, 20.0), (120, 200)), ((0.0, -20.0), (280, 200))],
    ids=["ahead is above", "behind is below", "left is left", "right is right"],
)
def test_directions_seen_from_above(xy, where):
    empty = draw_bev(None, None, RANGE, 400)
    changed = np.nonzero((draw_bev(boxes((*xy, 0.0)), None, RANGE, 400) != empty).any(axis=2))
    middle = (changed[1].min() + changed[1].max()) / 2, (changed[0].min() + changed[0].max()) / 2
    assert middle == pytest.approx(where, abs=4)
    assert bev_pixels(np.array(xy), RANGE, 400) == pytest.approx(np.array(where) - 0.5)


def test_velocity_and_heading_show_from_above():
    def changed(**options) -> tuple[int, int, int, int]:
        picture = draw_bev(boxes((0.0, 20.0, 0.0), **options), None, RANGE, 400)
        return extent(
            (picture != draw_bev(None, None, RANGE, 400)).any(axis=2, keepdims=True).repeat(3, axis=2), (False,) * 3
        )

    still, moving = changed(), changed(velocity=(0.0, -10.0))  # 10 m/s to the right: 40 pixels
    assert moving[2] == pytest.approx(120 + 40, abs=3) and still[2] < 130
    assert moving[0] == still[0]
    ahead, back = changed(yaw=0.0), changed(yaw=np.pi)  # the tick sticks out of the front: above, or below
    assert ahead[1] < back[1] and ahead[3] < back[3]


def test_truth_is_white_and_predictions_are_coloured():
    empty = draw_bev(None, None, RANGE, 400)

    def colourfulness(picture: np.ndarray) -> int:
        drawn = picture[(picture != empty).any(axis=2)].astype(int)
        assert drawn.max() > 150
        return int(np.ptp(drawn, axis=1).max())

    assert colourfulness(draw_bev(None, boxes((20.0, 10.0, 0.0)), RANGE, 400)) < 20
    assert colourfulness(draw_bev(boxes((20.0, 10.0, 0.0)), None, RANGE, 400)) > 100


def test_a_range_that_is_not_square_or_centred():
    picture = draw_bev(boxes((30.0, 5.0, 0.0)), None, (0.0, 60.0, -20.0, 20.0), 600)
    assert picture.shape == (600, 400, 3)
    np.testing.assert_allclose(bev_pixels(np.array([60.0, 20.0]), (0.0, 60.0, -20.0, 20.0), 600), [-0.5, -0.5])


# --------------------------------------------------------------------------------------------------------------- mosaic


def test_cameras_are_placed_by_where_they_look_not_by_name():
    yaws = {"e": 0.0, "d": -110.0, "a": 110.0, "f": 55.0, "b": 179.0, "c": -55.0}
    assert rows_by_azimuth({name: pose(yaw) for name, yaw in yaws.items()}) == (["f", "e", "c"], ["a", "b", "d"])
    colors = {name: (40 * i + 15, 0, 255 - 40 * i) for i, name in enumerate(yaws)}
    images = {name: np.full((90, 160, 3), color, np.uint8) for name, color in colors.items()}
    picture = mosaic(images, {name: pose(yaw) for name, yaw in yaws.items()}, cell_width=160, gap=4)
    assert picture.shape == (184, 488, 3)
    for row, names in enumerate(("fec", "abd")):
        for column, name in enumerate(names):
            assert tuple(picture[row * 94 + 60, column * 164 + 80]) == colors[name]


@pytest.mark.parametrize("yaws", [[0.0], [180.0], [0.0, 90.0, -90.0, 180.0], list(range(-170, 180, 40))])
def test_any_number_of_cameras(yaws):
    names = [f"camera{i}" for i in range(len(yaws))]
    images = {name: np.full((48, 64 + 8 * i, 3), 200, np.uint8) for i, name in enumerate(names)}
    poses = {name: pose(yaw) for name, yaw in zip(names, yaws)}
    picture = mosaic(images, poses, draw_bev(None, size_px=100), cell_width=100)
    ahead, behind = rows_by_azimuth(poses)
    assert sorted(ahead + behind) == names
    cells = max(len(ahead), len(behind))
    assert picture.shape[1] > cells * 100 and picture.dtype == np.uint8


def test_a_camera_without_image_keeps_its_place():
    poses = {"left": pose(50.0), "right": pose(-50.0)}
    picture = mosaic({"left": None, "right": np.full((90, 160, 3), 255, np.uint8)}, poses, cell_width=160)
    assert picture.shape == (90, 324, 3)
    assert tuple(picture[60, 80]) == (70, 70, 70) and tuple(picture[60, 250]) == (255, 255, 255)
