"""Every convention of geometry.py, by a case computed by hand, a round trip, or a library that agrees."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from shapely.geometry import Polygon

from bevdistill_ros.geometry import (
    BOX_EDGES,
    BevGrid,
    Boxes,
    Camera,
    crop_matrix,
    ego_ref_T_cam,
    invert,
    make_transform,
    quaternion_from_rotation,
    reference_time,
    resize_matrix,
    rotated_iou_bev,
    rotation_from_quaternion,
    rotation_z,
    transform_points,
    wrap_angle,
    yaw_of,
)

# Optical axes of a camera that looks along the base frame's x: z forward, x right (-y), y down (-z).
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    return rotation_from_quaternion(rng.normal(size=4))


def boxes_of(rows: list, names: tuple[str, ...] = ("car",)) -> Boxes:
    """Rows of x, y, z, length, width, height, yaw, vx, vy."""
    table = np.array(rows, dtype=float)
    return Boxes(
        table[:, :3], table[:, 3:6], table[:, 6], table[:, 7:9], np.ones(len(table)), np.zeros(len(table)), names
    )


def test_transform_names_read_as_algebra() -> None:
    # The camera sits 1.5 m ahead, 1 m up; a point 10 m along its axis, 2 m to its right and 0.5 m below it.
    ego_T_cam = make_transform(FORWARD, (1.5, 0.0, 1.0))
    assert np.allclose(transform_points(ego_T_cam, [2.0, 0.5, 10.0]), [11.5, -2.0, 0.5])


def test_invert_is_the_inverse_in_any_batch() -> None:
    rng = np.random.default_rng(0)
    T = np.stack([make_transform(random_rotation(rng), rng.normal(size=3)) for _ in range(6)]).reshape(2, 3, 4, 4)
    assert np.allclose(invert(T) @ T, np.eye(4), atol=1e-12)


def test_yaw_is_counter_clockwise_from_x() -> None:
    assert np.allclose(rotation_z(math.pi / 2) @ [1, 0, 0], [0, 1, 0])
    assert yaw_of(rotation_z(0.3)) == pytest.approx(0.3)
    assert wrap_angle(math.pi) == pytest.approx(-math.pi)
    assert wrap_angle(-3.5) == pytest.approx(2 * math.pi - 3.5)


def test_quaternions_are_xyzw() -> None:
    half = math.sqrt(0.5)
    assert np.allclose(rotation_from_quaternion([0, 0, half, half]), rotation_z(math.pi / 2))
    assert np.allclose(quaternion_from_rotation(rotation_z(math.pi / 2)), [0, 0, half, half])


def test_quaternion_round_trip_covers_every_branch() -> None:
    rng = np.random.default_rng(1)
    near_axes = np.vstack([np.eye(4), np.eye(4)[:, ::-1]]) + rng.normal(scale=1e-4, size=(8, 4))
    for q in np.vstack([rng.normal(size=(100, 4)), near_axes]):
        R = rotation_from_quaternion(q)
        assert np.allclose(R @ R.T, np.eye(3), atol=1e-12) and np.linalg.det(R) == pytest.approx(1)
        assert np.allclose(rotation_from_quaternion(quaternion_from_rotation(R)), R, atol=1e-12)


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [np.nan, 0, 0, 1]])
def test_no_rotation_is_refused(quaternion: list) -> None:
    with pytest.raises(ValueError, match="no rotation"):
        rotation_from_quaternion(quaternion)


# ------------------------------------------------------------------------------------------------------------ reference time


def test_reference_time_is_the_reference_cameras_stamp() -> None:
    assert reference_time({"left": 5, "front": 9, "back": 1}, "front") == 9


def test_without_the_reference_camera_it_is_the_middle_stamp() -> None:
    assert reference_time({"a": 5, "b": 9, "c": 1}, "front") == 5
    assert reference_time({"a": 5, "b": 9, "c": 1, "d": 100}, "front") == 5  # the lower middle: a real image's
    with pytest.raises(ValueError, match="no reference time"):
        reference_time({}, "front")


def test_camera_pose_at_the_reference_time() -> None:
    # The ego drives 10 m/s along the map's x. An image taken 40 ms BEFORE t_ref was taken 0.4 m further back.
    mounting = make_transform(FORWARD, (1.5, 0.0, 1.0))
    at_ref, at_image = make_transform(None, (100.0, 0, 0)), make_transform(None, (99.6, 0, 0))
    assert np.allclose(ego_ref_T_cam(at_ref, at_image, mounting)[:3, 3], [1.1, 0.0, 1.0])
    # Same time: the mounting itself. Turning: the camera's axis turns with the ego.
    assert np.allclose(ego_ref_T_cam(at_ref, at_ref, mounting), mounting)
    turned = make_transform(rotation_z(0.1), (100.0, 0, 0))
    assert np.allclose(ego_ref_T_cam(turned, at_ref, mounting)[:3, 2], rotation_z(-0.1) @ [1, 0, 0])


def test_a_world_point_does_not_depend_on_the_reference_time() -> None:
    rng = np.random.default_rng(2)
    poses = [make_transform(random_rotation(rng), rng.normal(size=3)) for _ in range(3)]
    mounting, p_cam = make_transform(FORWARD, (1, 2, 3)), rng.normal(size=3)
    worlds = [transform_points(ref @ ego_ref_T_cam(ref, poses[0], mounting), p_cam) for ref in poses]
    assert np.allclose(worlds, worlds[0])


# ------------------------------------------------------------------------------------------------------------------- cameras

K = np.array([[500.0, 0.0, 320.0], [0.0, 510.0, 240.0], [0.0, 0.0, 1.0]])
LENSES = {
    "plumb_bob": [-0.30, 0.10, 0.001, -0.002, 0.01],
    "rational_polynomial": [0.5, 0.1, 0.001, -0.002, 0.01, 0.6, 0.1, 0.02],
    "equidistant": [0.05, -0.01, 0.003, -0.001],
}


def test_pinhole_by_hand() -> None:
    pixels, depth = Camera(K, 640, 480).project([2.0, -1.0, 10.0])
    assert np.allclose(pixels, [500 * 0.2 + 320, 510 * -0.1 + 240]) and depth == 10.0
    assert np.allclose(Camera(K, 640, 480).rays(pixels), [0.2, -0.1, 1.0])


@pytest.mark.parametrize("model", LENSES)
def test_lens_models_agree_with_opencv(model: str) -> None:
    points = np.random.default_rng(3).uniform([-2, -1.5, 2], [2, 1.5, 6], (200, 3))
    camera = Camera(K, 640, 480, model, LENSES[model])
    pixels, _ = camera.project(points)
    D, zero = np.array(LENSES[model]), np.zeros(3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    assert np.allclose(pixels, project(points[:, None], zero, zero, K, D)[0][:, 0], atol=1e-9)
    assert np.allclose(camera.rays(pixels), points / points[:, 2:], atol=1e-9)


def test_twelve_coefficients_without_thin_prism_are_the_rational_model() -> None:
    points = np.random.default_rng(4).uniform([-1, -1, 2], [1, 1, 4], (20, 3))
    eight, twelve = (
        Camera(K, 640, 480, "rational_polynomial", LENSES["rational_polynomial"] + [0.0] * n) for n in (0, 4)
    )
    assert np.allclose(eight.project(points)[0], twelve.project(points)[0])


def test_nothing_behind_the_camera_is_imaged() -> None:
    for model, D in LENSES.items():
        assert np.isnan(Camera(K, 640, 480, model, D).project([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0]])[0]).all()


def test_points_beyond_the_fold_are_not_imaged() -> None:
    # r (1 - 0.3 r^2) grows up to r = 1 / sqrt(0.9) and comes back to zero at r = 1.83: there the plain formula would put a point
    # that is 61 degrees off the axis into the middle of the image.
    camera = Camera(K, 640, 480, "plumb_bob", [-0.3, 0, 0, 0, 0])
    pixels, _ = camera.project([[1.0, 0, 1], [1.8, 0, 1]])
    assert pixels[0] == pytest.approx([500 * 0.7 + 320, 240]) and np.isnan(pixels[1]).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.zeros((3, 3)), 640, 480), "fx and fy must be positive"),
        ((K, 0, 480), "must be positive"),
        ((K, 640, 480, "thin_plate", []), "not one of"),
        ((K, 640, 480, "plumb_bob", [0.1, 0.2]), "takes"),
        ((K, 640, 480, "plumb_bob", [np.nan] * 5), "finite"),
        ((K, 640, 480, "rational_polynomial", [0.1] * 12), "thin prism"),
    ],
)
def test_impossible_calibrations_are_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Camera(*arguments)


def test_resize_and_crop_move_k_with_the_pixels() -> None:
    # Halving: the centre of the new pixel 0 is the edge between the old pixels 0 and 1, at 0.5.
    assert np.allclose(resize_matrix(0.5, 0.5) @ [0.5, 0.5, 1], [0, 0, 1])
    assert np.allclose(crop_matrix(10, 20) @ [10, 20, 1], [0, 0, 1])


def test_resize_matrix_is_what_opencv_does() -> None:
    # A linear ramp keeps its values where pixels go, so it shows the convention without interpolation error.
    ramp = np.tile(np.arange(64, dtype=np.float32), (8, 1))
    small = cv2.resize(ramp, (16, 8), interpolation=cv2.INTER_LINEAR)
    source = np.linalg.inv(resize_matrix(0.25, 1.0)) @ np.stack([np.arange(16), np.zeros(16), np.ones(16)])
    assert np.allclose(small[0, 1:-1], source[0, 1:-1])


# --------------------------------------------------------------------------------------------------------------------- boxes


def test_corners_by_hand() -> None:
    # 4 m long, 2 m wide, 1 m high, heading +y: length runs along y.
    corners = boxes_of([[10, 5, 1, 4, 2, 1, math.pi / 2, 0, 0]]).corners()[0]
    assert np.allclose(corners[0], [9, 7, 0.5])  # front left bottom: ahead is +y, left of it is -x
    assert np.allclose(corners[2], [11, 3, 0.5])  # rear right bottom
    assert np.allclose(corners[4], [9, 7, 1.5])
    lengths = sorted(round(float(np.linalg.norm(corners[a] - corners[b])), 9) for a, b in BOX_EDGES)
    assert lengths == [1.0] * 4 + [2.0] * 4 + [4.0] * 4


def test_boxes_in_another_frame() -> None:
    # The target frame stands at (10, 0), turned left by 90 degrees: the source's +x is its right, i.e. -y.
    target_T_source = invert(make_transform(rotation_z(math.pi / 2), (10, 0, 0)))
    boxes = boxes_of([[10, 3, 0, 4, 2, 1, math.pi / 2, 0, 5]]).transformed(target_T_source)
    assert np.allclose(boxes.centers, [[3, 0, 0]]) and np.allclose(boxes.velocities, [[5, 0]])
    assert boxes.yaws == pytest.approx([0.0])


def test_corners_move_with_the_frame() -> None:
    rng = np.random.default_rng(5)
    boxes = boxes_of(rng.uniform(0.5, 4, (10, 9)).tolist())
    T = make_transform(rotation_z(2.0), (5, -3, 1))
    assert np.allclose(boxes.transformed(T).corners(), transform_points(T, boxes.corners()))
    back = boxes.transformed(T).transformed(invert(T))
    assert np.allclose(back.centers, boxes.centers) and np.allclose(wrap_angle(back.yaws - boxes.yaws), 0)


def test_propagation_and_unknown_velocity() -> None:
    boxes = boxes_of([[0, 0, 0, 1, 1, 1, 0, 2, -1], [7, 7, 0, 1, 1, 1, 0, np.nan, np.nan]]).propagated(0.5)
    assert np.allclose(boxes.centers[:, :2], [[1, -0.5], [7, 7]])


def test_boxes_keep_names_and_shapes() -> None:
    boxes = Boxes(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)), np.ones(2), [1, 0], ("car", "bus"))
    assert boxes.names == ["bus", "car"] and boxes[boxes.labels == 0].names == ["car"] and len(boxes[1]) == 1
    assert len(Boxes.empty(("car",))) == 0 and Boxes.empty(("car",)).corners().shape == (0, 8, 3)
    with pytest.raises(ValueError, match="sizes has shape"):
        Boxes(np.zeros((2, 3)), np.ones((1, 3)), np.zeros(2), np.zeros((2, 2)), np.ones(2), [0, 0], ("car",))
    with pytest.raises(ValueError, match="indices"):
        Boxes(np.zeros((1, 3)), np.ones((1, 3)), np.zeros(1), np.zeros((1, 2)), np.ones(1), [3], ("car",))


def test_rotated_iou_by_hand() -> None:
    square = [0, 0, 0, 2, 2, 1, 0, 0, 0]
    assert rotated_iou_bev(boxes_of([square]), boxes_of([[1, 0, 9, 2, 2, 1, 0, 0, 0]]))[0, 0] == pytest.approx(1 / 3)
    # A square and itself turned by 45 degrees share a regular octagon of area 8 (sqrt 2 - 1).
    octagon = 8 * (math.sqrt(2) - 1)
    assert rotated_iou_bev(boxes_of([square]), boxes_of([[0, 0, 0, 2, 2, 1, math.pi / 4, 0, 0]]))[
        0, 0
    ] == pytest.approx(octagon / (8 - octagon))
    touching = boxes_of([[2, 0, 0, 2, 2, 1, 0, 0, 0]])
    assert rotated_iou_bev(boxes_of([square]), touching)[0, 0] == pytest.approx(0, abs=1e-9)


def test_rotated_iou_agrees_with_shapely_far_from_the_origin() -> None:
    rng = np.random.default_rng(6)

    def some(count: int) -> Boxes:
        rows = np.c_[rng.uniform(997, 1003, (count, 2)), np.zeros(count), rng.uniform(0.5, 4, (count, 3))]
        return boxes_of(np.c_[rows, rng.uniform(-7, 7, count), np.zeros((count, 2))].tolist())

    a, b = some(30), some(40)
    polygons = [[Polygon(corners[:4, :2]) for corners in boxes.corners()] for boxes in (a, b)]
    expected = [[p.intersection(q).area / p.union(q).area for q in polygons[1]] for p in polygons[0]]
    assert np.allclose(rotated_iou_bev(a, b), expected, atol=1e-9)
    assert np.allclose(np.diag(rotated_iou_bev(a, a)), 1)
    assert rotated_iou_bev(a, Boxes.empty(("car",))).shape == (30, 0)


# ------------------------------------------------------------------------------------------------------------------ BEV grid

GRID = BevGrid(x_min=-8.0, x_max=8.0, y_min=-4.0, y_max=4.0, cell=0.5)


def test_grid_rows_are_y_and_columns_are_x() -> None:
    assert (GRID.rows, GRID.columns) == (16, 32)
    centers = GRID.centers()
    assert centers.shape == (16, 32, 2)
    assert np.allclose(centers[0, 0], [-7.75, -3.75])  # cell (0, 0) is at (x_min, y_min); its point is its centre
    assert np.allclose(centers[0, 1] - centers[0, 0], [0.5, 0]) and np.allclose(centers[1, 0] - centers[0, 0], [0, 0.5])


def test_cells_and_back() -> None:
    xy = np.random.default_rng(7).uniform([-8, -4], [8, 4], (50, 2))
    assert np.allclose(GRID.to_meters(GRID.to_cells(xy)), xy)
    assert np.allclose(GRID.to_cells(np.array([-7.75, -3.75])), [0.5, 0.5])
    assert torch.allclose(GRID.to_cells(torch.tensor([3.0, 1.0])), torch.tensor([22.0, 10.0]))
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)  # whole numbers do not cut the origin to whole metres
    assert torch.allclose(grid.to_meters(torch.tensor([0, 1])), torch.tensor([-51.2, -50.4]))
    index = np.floor(GRID.to_cells(GRID.centers())).astype(int)
    assert (index[..., 0] == np.arange(32)).all() and (index[..., 1] == np.arange(16)[:, None]).all()


def test_upper_borders_are_outside() -> None:
    assert GRID.contains(np.array([[-8, -4], [7.99, 3.99], [8, 0], [0, 4], [-8.01, 0]])).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_grid_of_broken_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of cells"):
        BevGrid(-1.0, 1.0, -1.0, 1.0, 0.3)
