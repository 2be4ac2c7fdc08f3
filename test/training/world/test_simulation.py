"""Drives as MuJoCo draws them: pixels, LiDAR, truth, and what may change with the options and what may not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("mujoco")
import mujoco

from bevdistill_ros.geometry import Boxes, Camera, invert, make_transform, rotated_iou_bev, rotation_z, transform_points
from bevdistill_ros.training.world import lidar, rig, scene
from bevdistill_ros.training.world.drive import Image, Keyframe, Sweep
from bevdistill_ros.training.world.ground import Ground
from bevdistill_ros.training.world.layout import Layout, Path, Street, make_layout
from bevdistill_ros.training.world.objects import make_object
from bevdistill_ros.training.world.options import DriveOptions
from bevdistill_ros.training.world.palette import NaturalPalette
from bevdistill_ros.training.world.scenery import Scenery
from bevdistill_ros.training.world.simulation import Simulation
from bevdistill_ros.training.world.traffic import (
    ADULT,
    BUS,
    CAR,
    EGO_REAR,
    EGO_SIZE,
    Actor,
    Still,
    Traffic,
    make_traffic,
)
from bevdistill_ros.training.world.visibility import SurfacePoints, seen_points
from bevdistill_ros.training.world.weather import make_weather, paint_sky

pytestmark = pytest.mark.usefixtures("renderer")

SMALL = DriveOptions(duration_s=1.0, image_width=160)


def _drive(colours: str = "natural", sweeps: str = "none") -> tuple[Simulation, list]:
    simulation = Simulation("drive", (7, 3), DriveOptions(1.0, sweeps, 160, colours))
    return simulation, list(simulation.readings())


@pytest.fixture(scope="module")
def drive() -> tuple[Simulation, list]:
    """A drive of a second with everything between its keyframes."""
    return _drive(sweeps="all")


# ------------------------------------------------------------------ cameras


def test_rendered_pixels_agree_with_the_camera_model():
    """Balls at known places appear where Camera.project puts them, also with a principal point far off the middle."""
    camera = Camera(np.array([[400, 0, 330.0], [0, 410, 230.0], [0, 0, 1]]), 704, 396)
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    ego_T_cam = make_transform(rotation_z(0.3) @ optical, [1, 2, 1.5])
    rng = np.random.default_rng(0)
    pixels, depths = rng.uniform((30, 30), (670, 360), (12, 2)), rng.uniform(5, 30, 12)
    spec = mujoco.MjSpec()
    spec.stat.extent = 1
    spec.visual.map.znear, spec.visual.map.zfar = 0.2, 400
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 704, 396
    scene._camera(spec.worldbody.add_body(name="ego", mocap=True), "camera", camera, ego_T_cam)
    for ray, depth in zip(camera.rays(pixels), depths, strict=True):
        position = transform_points(ego_T_cam, ray * depth)
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=position, size=[0.012 * depth, 0, 0])
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 396, 704) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, "camera")
        geoms = renderer.render()[..., 0]
    for index, pixel in enumerate(pixels):
        row, column = np.nonzero(geoms == index)
        np.testing.assert_allclose([column.mean(), row.mean()], pixel, atol=0.3)


def test_readings_come_in_order_with_nuscenes_stagger(drive):
    simulation, readings = drive
    stamps = [reading.stamp for reading in readings]
    assert stamps == sorted(stamps)
    assert all(stamp % 1000 == 0 for stamp in stamps)  # nuScenes keeps microseconds
    keyframes = [r for r in readings if isinstance(r, Keyframe)]
    assert len(keyframes) == simulation.keyframes == 3
    assert np.diff([k.stamp for k in keyframes]).tolist() == [rig.PERIOD_NS] * 2
    for channel, (_, _, _, before_us) in rig.CAMERAS.items():
        images = [r for r in readings if isinstance(r, Image) and r.channel == channel]
        assert len(images) == 1 + 2 * rig.CAMERA_FRAMES
        assert [k.stamp - i.stamp for k, i in zip(keyframes, [i for i in images if i.keyframe], strict=True)] == [
            before_us * 1000
        ] * 3
        assert np.abs(np.diff([i.stamp for i in images]) - 83_333_333).max() < 2000
    sweeps = [r for r in readings if isinstance(r, Sweep)]
    assert len(sweeps) == 1 + 2 * rig.SWEEPS
    assert [s.stamp for s in sweeps if s.keyframe] == [k.stamp for k in keyframes]


def test_images_have_the_calibrated_size(drive):
    simulation, readings = drive
    for reading in readings:
        if isinstance(reading, Image):
            camera = simulation.cameras[reading.channel][0]
            pixels = cv2.imdecode(np.frombuffer(reading.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert pixels.shape == (camera.height, camera.width, 3) == (90, 160, 3)
            assert pixels.std() > 3  # not a blank picture


# ------------------------------------------------------------------ what depends on what


def _truth(readings: list) -> list[tuple]:
    return [
        (a.instance, a.category, *a.center, *a.size, a.yaw, *a.velocity, a.attribute, a.visibility, a.lidar_points)
        for reading in readings
        if isinstance(reading, Keyframe)
        for a in reading.annotations
    ]


def test_same_seed_same_drive():
    first, second = _drive()[1], _drive()[1]
    assert _truth(first) == _truth(second)
    for a, b in zip(first, second, strict=True):
        if isinstance(a, Sweep):
            np.testing.assert_array_equal(a.points, b.points)
        elif isinstance(a, Image):
            assert a.jpeg == b.jpeg


def test_another_seed_is_another_drive():
    a, b = Simulation("a", (7, 3), SMALL), Simulation("b", (7, 4), SMALL)
    assert [x.model.category for x in a.traffic.actors] != [x.model.category for x in b.traffic.actors]


def test_colours_change_colours_only():
    natural, shuffled, grey = (_drive(colours)[1] for colours in ("natural", "shuffled", "grey"))
    # Points in boxes come from a noisy LiDAR whose echoes depend on paint: all else is the same to the last bit.
    strip = [row[:-1] for row in _truth(natural)]
    assert strip == [row[:-1] for row in _truth(shuffled)] == [row[:-1] for row in _truth(grey)]
    assert _truth(natural) == _truth(grey)
    pictures = [
        [cv2.imdecode(np.frombuffer(r.jpeg, np.uint8), cv2.IMREAD_COLOR) for r in readings if isinstance(r, Image)]
        for readings in (natural, shuffled, grey)
    ]
    assert all(np.abs(p.astype(int) - p[..., :1]).max() <= 4 for p in pictures[2])  # JPEG's rounding
    assert max(np.abs(p.astype(int) - p[..., :1]).max() for p in pictures[0]) > 40
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(*pictures[:2], strict=True)]) > 1


# ------------------------------------------------------------------ truth


def test_nothing_overlaps_at_any_time():
    rng = np.random.default_rng(5)
    layout = make_layout(rng, 60)
    traffic = make_traffic(layout, 8.0, 6.0, rng, NaturalPalette(np.random.default_rng(0)))
    assert len(traffic.actors) > 60
    for t in np.arange(0, 6, 1.0):
        centers, sizes, yaws = [], [], []
        for actor in traffic.actors:
            position, yaw = actor.motion.at(t)
            centers.append([*position, 0.0]), sizes.append(actor.model.size), yaws.append(float(yaw))
        position, yaw = traffic.ego.at(t)
        ahead = EGO_SIZE[0] / 2 - EGO_REAR
        centers.append([position[0] + ahead * np.cos(yaw), position[1] + ahead * np.sin(yaw), 0.0])
        sizes.append([*EGO_SIZE, 1.5]), yaws.append(float(yaw))
        n = len(centers)
        boxes = Boxes(
            np.array(centers), np.array(sizes), np.array(yaws), np.zeros((n, 2)), np.ones(n), np.zeros(n), ("any",)
        )
        iou = rotated_iou_bev(boxes, boxes)
        np.fill_diagonal(iou, 0)
        assert iou.max() < 0.02  # checked four times a second, so that a corner may graze another in between


def test_velocity_is_the_derivative_of_the_position():
    rng = np.random.default_rng(6)
    traffic = make_traffic(make_layout(rng, 50), 9.0, 4.0, rng, NaturalPalette(np.random.default_rng(0)))
    moving = [a for a in traffic.actors if np.hypot(*a.motion.velocity(2.0)) > 1]
    assert len(moving) > 5
    for actor in moving:
        (p, _), (q, _) = actor.motion.at(1.9), actor.motion.at(2.1)
        np.testing.assert_allclose((q - p) / 0.2, actor.motion.velocity(2.0), atol=0.5)
        speed = np.hypot(*actor.motion.velocity(2.0))
        yaw = float(actor.motion.at(2.0)[1])
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        assert actor.motion.velocity(2.0) @ forward > 0.99 * speed  # nobody drives backwards or sideways


def _stage(*actors: Actor) -> tuple[scene.Scene, rig.Rig, np.ndarray]:
    """An empty square with the given objects, the ego at (50, 50) looking along x."""
    rng = np.random.default_rng(0)
    street = Street(Path(np.array([[0.0, 50], [100, 50]])), (), 0.0, 0.0, 4.0, 2.0, 0.0)
    layout = Layout(np.array([100.0, 100.0]), (street,), (), (), (), 0.0)
    ground = Ground(np.full((64, 64, 3), 120, np.uint8), np.zeros((1000, 1000), bool))
    weather = make_weather(rng)
    sensors = rig.make_rig(rng, 160, 90)
    traffic = Traffic(Still(np.array([50.0, 50.0]), 0.0), actors)
    sky = paint_sky(weather, rng, 16)
    stage = scene.Scene(layout, ground, Scenery((), (), ()), traffic, weather, sky, sensors)
    pose = make_transform(np.eye(3), (50, 50, 0))
    stage.set_time(0.0, pose)
    return stage, sensors, pose


def _actor(category: str, x: float, y: float, yaw: float = 0.0) -> Actor:
    model = make_object(category, np.random.default_rng(1), NaturalPalette(np.random.default_rng(1)))
    return Actor(model, Still(np.array([x, y]), yaw), True)


def test_visibility_counts_what_hides_an_object_and_not_the_object_itself():
    hidden, free = _actor(ADULT, 70, 50), _actor(CAR, 60, 44)
    stage, sensors, pose = _stage(hidden, free, _actor(BUS, 62, 50, np.pi / 2))
    surface = SurfacePoints(stage.traffic.actors, np.random.default_rng(0))
    camera, ego_T_cam = sensors.cameras["CAM_FRONT"]
    states = {i: (np.array(a.motion.at(0.0)[0]), float(a.motion.at(0.0)[1])) for i, a in enumerate((hidden, free))}
    seen = seen_points(stage, surface, states, camera, pose @ ego_T_cam)
    assert seen[0].mean() < 0.1  # behind the bus
    stage, sensors, pose = _stage(hidden, free)
    seen = seen_points(stage, surface, states, camera, pose @ ego_T_cam)
    assert seen[0].mean() == 1.0


# ------------------------------------------------------------------ LiDAR


def test_lidar_measures_a_flat_ground_in_closed_form():
    stage, sensors, pose = _stage()
    sweep, actors = lidar.scan(stage, lambda stamp: pose, sensors.ego_T_lidar, 0, True, np.random.default_rng(0))
    assert (actors == -1).all() and len(sweep.points) > 10_000
    ground = transform_points(pose @ sensors.ego_T_lidar, sweep.points[:, :3])
    distance = np.linalg.norm(sweep.points[:, :3], axis=1)
    assert np.abs(ground[:, 2]).max() < 6 * lidar.RANGE_NOISE
    error = ground[:, 2] / ((ground[:, 2] - (pose @ sensors.ego_T_lidar)[2, 3]) / distance)
    assert np.std(error) == pytest.approx(lidar.RANGE_NOISE, rel=0.1)
    elevation = np.arcsin(sweep.points[:, 2] / distance)
    np.testing.assert_allclose(elevation, lidar.ELEVATIONS[sweep.points[:, 4].astype(int)], atol=1e-5)
    assert sweep.times.min() == pytest.approx(-0.0475) and sweep.times.max() == 0.0


def test_deskewing_takes_out_the_motion_of_the_ego():
    """Driven at 20 m/s past a car, raw points are up to a metre off, by when they were measured; deskewed ones are not."""
    stage, sensors, _ = _stage(_actor(CAR, 50, 42))

    def pose(stamp: int) -> np.ndarray:
        return make_transform(rotation_z(0.4 * stamp * 1e-9), (50 + 20 * stamp * 1e-9, 50, 0))

    sweep, actors = lidar.scan(stage, pose, sensors.ego_T_lidar, 0, True, np.random.default_rng(0))
    on_car = actors == 0
    size = stage.traffic.actors[0].model.size
    still = transform_points(pose(0) @ sensors.ego_T_lidar, sweep.deskewed[on_car]) - (50, 42, size[2] / 2)
    raw = transform_points(pose(0) @ sensors.ego_T_lidar, sweep.points[on_car, :3]) - (50, 42, size[2] / 2)
    assert on_car.sum() > 100
    assert (np.abs(still) < size / 2 + 4 * lidar.RANGE_NOISE).all()
    times = sweep.times[on_car]
    np.testing.assert_allclose(np.linalg.norm(raw - still, axis=1), -20 * times, atol=0.25)  # and it turns, too
    assert -20 * times.min() > 0.4


def test_lidar_points_of_objects_lie_in_their_boxes(drive):
    simulation, readings = drive
    keyframe = next(r for r in readings if isinstance(r, Keyframe))
    sweep, actors = simulation.sweep(keyframe.stamp)
    points = transform_points(simulation.pose(keyframe.stamp) @ simulation.ego_T_lidar, sweep.deskewed)
    inside = []
    for annotation in keyframe.annotations:
        mine = points[actors == annotation.instance]
        local = (mine - annotation.center) @ rotation_z(annotation.yaw)
        inside.append((np.abs(local) <= annotation.size / 2 + 3 * lidar.RANGE_NOISE).all(1))
    assert np.concatenate(inside).mean() > 0.97  # the rest lies on what moved within the turn
    counts = {a.instance: a.lidar_points for a in keyframe.annotations}
    assert sum(counts.values()) > 300


def test_annotated_objects_that_cameras_see_are_in_their_pictures(drive):
    """What has visibility projects into at least one of the keyframe's pictures; what has none is hidden or out of them."""
    simulation, readings = drive
    keyframe = next(r for r in readings if isinstance(r, Keyframe))
    assert any(a.visibility > 0.9 for a in keyframe.annotations)
    for annotation in keyframe.annotations:
        if not annotation.visibility:
            continue
        corners = np.array(
            [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)] * annotation.size / 2
        ) @ rotation_z(annotation.yaw).T + np.array(annotation.center)
        shown = False
        for channel, (camera, ego_T_cam) in simulation.cameras.items():
            stamp = keyframe.stamp - rig.CAMERAS[channel][3] * 1000
            pixels, _ = camera.project(transform_points(invert(simulation.pose(stamp) @ ego_T_cam), corners))
            if np.isnan(pixels).any(1).all():
                continue
            low, high = np.nanmin(pixels, axis=0), np.nanmax(pixels, axis=0)
            shown |= bool((low < (camera.width, camera.height)).all() and (high > 0).all()) or np.isnan(pixels).any()
        assert shown
