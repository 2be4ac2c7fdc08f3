"""A spinning LiDAR of 32 beams, by ray casting: the world moves while it turns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bevdistill_ros.geometry import invert, transform_points
from bevdistill_ros.training.world.drive import Sweep
from bevdistill_ros.training.world.rig import SWEEP_NS
from bevdistill_ros.training.world.scene import Scene

BEAMS, COLUMNS, PACKETS = 32, 1080, 20
"""Beams; firings a turn; how often in a turn the world and the sensor move on (every 2.5 ms)."""

ELEVATIONS = np.radians(np.linspace(-30.67, 10.67, BEAMS))
REACH, NEAREST = 70.0, 1.0
RANGE_NOISE = 0.02


def scan(
    scene: Scene,
    pose: Callable[[int], np.ndarray],
    ego_T_lidar: np.ndarray,
    stamp: int,
    keyframe: bool,
    rng: np.random.Generator,
) -> tuple[Sweep, np.ndarray]:
    """One turn, clockwise as seen from above, that ends at ``stamp``.

    Leaves the scene at the time of the last packet.

    Args:
        pose: global_T_ego at a stamp.

    Returns:
        the sweep, and the actor (M,) that each of its points lies on, -1 for none.
    """
    per_packet = COLUMNS // PACKETS
    points, deskewed, times, actors = [], [], [], []
    end_T_global = invert(pose(stamp) @ ego_T_lidar)
    for packet in range(PACKETS):
        offset = -(PACKETS - 1 - packet) * (SWEEP_NS // PACKETS)
        global_T_ego = pose(stamp + offset)
        scene.set_time((stamp + offset) * 1e-9, global_T_ego)
        global_T_lidar = global_T_ego @ ego_T_lidar
        azimuth = np.pi - 2 * np.pi * (packet * per_packet + np.arange(per_packet)) / COLUMNS
        rays = np.stack(
            [
                np.cos(ELEVATIONS) * np.cos(azimuth)[:, None],
                np.cos(ELEVATIONS) * np.sin(azimuth)[:, None],
                np.broadcast_to(np.sin(ELEVATIONS), (per_packet, BEAMS)),
            ],
            -1,
        ).reshape(-1, 3)
        distance, geom, normal = scene.cast(global_T_lidar[:3, 3], rays @ global_T_lidar[:3, :3].T, REACH)
        facing = np.abs((normal * (rays @ global_T_lidar[:3, :3].T)).sum(-1))
        strength = np.where(geom >= 0, scene.reflectivity[geom], 0.0) * (0.3 + 0.7 * facing)
        kept = np.flatnonzero((distance > NEAREST) & np.isfinite(distance) & ~_lost(distance, strength, rng))
        measured = distance[kept] + rng.normal(0, RANGE_NOISE, len(kept))
        xyz = rays[kept] * measured[:, None]
        intensity = np.clip(255 * strength[kept] * rng.uniform(0.85, 1.15, len(kept)), 1, 255).round()
        points.append(np.column_stack([xyz, intensity, kept % BEAMS]).astype(np.float32))
        deskewed.append(transform_points(end_T_global @ global_T_lidar, xyz).astype(np.float32))
        times.append(np.full(len(kept), offset * 1e-9, np.float32))
        actors.append(scene.actor_of_geom[geom[kept]])
    sweep = Sweep(stamp, np.concatenate(points), np.concatenate(times), np.concatenate(deskewed), keyframe)
    return sweep, np.concatenate(actors)


def _lost(distance: np.ndarray, strength: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Echoes that never come: two in a hundred always, more from dark surfaces far away and at grazing angles."""
    weakness = np.where(np.isfinite(distance), (distance / 70) ** 2 * 0.06 / np.maximum(strength, 0.01), 1.0)
    return rng.random(len(distance)) < np.clip(0.02 + weakness, 0, 1)
