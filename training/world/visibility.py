"""How much of an object the cameras see, by rays to points on its surface."""

from __future__ import annotations

import numpy as np

from bevdistill_ros.geometry import Camera, invert, transform_points
from bevdistill_ros.training.world.scene import Scene
from bevdistill_ros.training.world.shapes import Part
from bevdistill_ros.training.world.traffic import Actor

POINTS = 32
"""Points an object, spread over its box's silhouette; what is asked is which share of them is seen."""


class SurfacePoints:
    """Points (POINTS, 3) of each actor in its own frame, inside its parts, larger parts having more."""

    def __init__(self, actors: tuple[Actor, ...], rng: np.random.Generator) -> None:
        self.points = [_points(actor, rng) for actor in actors]


def _points(actor: Actor, rng: np.random.Generator) -> np.ndarray:
    parts = actor.model.parts
    extents = np.array([_half_extent(part) for part in parts])
    areas = extents[:, [0, 1, 2]] @ np.ones(3)
    chosen = rng.choice(len(parts), POINTS, p=areas / areas.sum())
    points = []
    for index in chosen:
        part = parts[index]
        if part.shape == "mesh":
            # Inside a closed mesh: between its centroid and a point of one of its faces.
            a, b, c = part.vertices[part.faces[rng.integers(len(part.faces))]]
            u, v = np.sort(rng.random(2))
            local = 0.9 * (u * a + (v - u) * b + (1 - v) * c) + 0.1 * part.vertices.mean(0)
        else:
            direction = rng.normal(size=3)
            local = 0.9 * extents[index] * direction / np.abs(direction).max() * (0.58 if part.shape != "box" else 1)
        points.append(part.rotation @ local + part.position)
    return np.array(points)


def _in_picture(camera: Camera, points: np.ndarray) -> np.ndarray:
    """(N,) bool of points (N, 3) of the camera's frame."""
    pixels, _ = camera.project(points)
    return ((pixels > -0.5) & (pixels < (camera.width - 0.5, camera.height - 0.5))).all(1)


def _half_extent(part: Part) -> np.ndarray:
    if part.shape == "mesh":
        return np.ptp(part.vertices, axis=0) / 2
    if part.shape in ("cylinder", "capsule"):
        radius, half = part.size
        return np.array([radius, radius, half])
    return part.size


def seen_points(
    scene: Scene,
    surface: SurfacePoints,
    states: dict[int, tuple[np.ndarray, float]],
    camera: Camera,
    global_T_cam: np.ndarray,
) -> dict[int, np.ndarray]:
    """Which points of which actors a camera sees, of the moment that the scene is set to.

    Args:
        states: position (2,) and yaw of the actors asked for, by index.

    Returns:
        (POINTS,) bool by actor; actors wholly outside of the picture are left out.
    """
    cam_T_global = invert(global_T_cam)
    origin = global_T_cam[:3, 3]
    owners, slots, directions, reaches = [], [], [], []
    for index, (position, yaw) in states.items():
        c, s = np.cos(yaw), np.sin(yaw)
        local = surface.points[index]
        points = np.column_stack([local[:, :2] @ np.array([[c, s], [-s, c]]) + position, local[:, 2]])
        inside = _in_picture(camera, transform_points(cam_T_global, points))
        if inside.any():
            slot = np.flatnonzero(inside)
            delta = points[slot] - origin
            distance = np.linalg.norm(delta, axis=1)
            owners.append(np.full(len(slot), index))
            slots.append(slot)
            directions.append(delta / distance[:, None])
            reaches.append(distance)
    result: dict[int, np.ndarray] = {}
    if not owners:
        return result
    owner, slot, reach = np.concatenate(owners), np.concatenate(slots), np.concatenate(reaches)
    distance, geom, _ = scene.cast(origin, np.concatenate(directions), float(reach.max()) + 1)
    # A ray that reaches the point without a hit passed through a gap of the object: nothing hides the point.
    hit = np.where(geom >= 0, scene.actor_of_geom[geom], -1)
    seen = (hit == owner) | (distance > reach)
    for index in np.unique(owner):
        mine = owner == index
        visible = np.zeros(POINTS, bool)
        visible[slot[mine]] = seen[mine]
        result[int(index)] = visible
    return result
