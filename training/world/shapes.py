"""Solid pieces that objects are made of: primitives and small closed meshes, with their exact extents.

Lengths are metres; x is an object's heading, y its left, z up. Meshes are lofts: rings of points, joined ring to ring and closed
at both ends. Several may be one mesh (``joined``), so that both headlamps of a car cost one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bevdistill_ros.training.world.palette import Material


@dataclass(frozen=True, eq=False)
class Part:
    """One rigid piece.

    Attributes:
        shape: kind of solid.
        size: box: half extents (3,); cylinder and capsule: radius, half length without caps (2,), along the piece's z;
            ellipsoid: semi-axes (3,); mesh: empty.
        position: (3,) of the piece's origin in the object's frame.
        rotation: (3, 3) object_R_piece.
        colour: (3,) RGB, 0..1.
        reflectivity: 0..1, of LiDAR's infrared light.
        shininess: 0..1.
        vertices: (V, 3) in the piece's frame; a mesh's only.
        faces: (F, 3) int, counter-clockwise seen from outside, of a closed surface; a mesh's only.
    """

    shape: Literal["box", "cylinder", "ellipsoid", "capsule", "mesh"]
    size: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    colour: np.ndarray
    reflectivity: float
    shininess: float
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface: vertices (V, 3), faces (F, 3) counter-clockwise seen from outside."""

    vertices: np.ndarray
    faces: np.ndarray


# ------------------------------------------------------------------ primitives


def _part(shape: str, size: Sequence[float], position: Sequence[float], rotation: np.ndarray, paint: Material) -> Part:
    position, size = np.array(position, float), np.array(size, float)
    return Part(shape, size, position, rotation, paint.colour, paint.reflectivity, paint.shininess)


def box(low: Sequence[float], high: Sequence[float], material: Material) -> Part:
    """An upright box between two corners."""
    low, high = np.array(low, float), np.array(high, float)
    return _part("box", (high - low) / 2, (low + high) / 2, np.eye(3), material)


def ellipsoid(center: Sequence[float], semi_axes: Sequence[float], material: Material) -> Part:
    return _part("ellipsoid", semi_axes, center, np.eye(3), material)


def cylinder(start: Sequence[float], end: Sequence[float], radius: float, material: Material) -> Part:
    """A cylinder whose discs' centres are ``start`` and ``end``."""
    return _round("cylinder", start, end, radius, material)


def capsule(start: Sequence[float], end: Sequence[float], radius: float, material: Material) -> Part:
    """A capsule whose balls' centres are ``start`` and ``end``."""
    return _round("capsule", start, end, radius, material)


def _round(shape: str, start: Sequence[float], end: Sequence[float], radius: float, material: Material) -> Part:
    start, end = np.array(start, float), np.array(end, float)
    length = float(np.linalg.norm(end - start))
    return _part(shape, (radius, length / 2), (start + end) / 2, _frame((end - start) / length), material)


def _frame(z: np.ndarray) -> np.ndarray:
    """A rotation whose third column is ``z``."""
    x = np.cross(np.eye(3)[np.argmin(np.abs(z))], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def solid(mesh: Mesh, material: Material) -> Part:
    """A mesh as a piece, its vertices given in the object's frame."""
    part = _part("mesh", (), (0, 0, 0), np.eye(3), material)
    return replace(part, vertices=mesh.vertices, faces=mesh.faces)


def extent(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,), (3,) of the smallest upright box around a piece, exactly."""
    if part.shape == "mesh":
        points = part.vertices @ part.rotation.T + part.position
        return points.min(axis=0), points.max(axis=0)
    if part.shape == "box":
        half = np.abs(part.rotation) @ part.size
    elif part.shape == "ellipsoid":
        half = np.linalg.norm(part.rotation * part.size, axis=1)
    else:
        radius, half_length = part.size
        axis = np.abs(part.rotation[:, 2])
        across = np.sqrt(np.clip(1 - axis**2, 0, None)) if part.shape == "cylinder" else 1.0
        half = half_length * axis + radius * across
    return part.position - half, part.position + half


def moved(parts: Iterable[Part], rotation: np.ndarray, translation: Sequence[float]) -> list[Part]:
    """The pieces turned about the origin by ``rotation`` (3, 3), then shifted."""
    return [
        replace(p, rotation=rotation @ p.rotation, position=rotation @ p.position + np.array(translation, float))
        for p in parts
    ]


def scaled(parts: Iterable[Part], scale: float) -> list[Part]:
    """The pieces made larger or smaller about the origin."""
    return [
        replace(
            p,
            size=p.size * scale,
            position=p.position * scale,
            vertices=None if p.vertices is None else p.vertices * scale,
        )
        for p in parts
    ]


# ------------------------------------------------------------------ meshes


def volume(mesh: Mesh) -> float:
    """Signed: positive where faces look outwards."""
    corners = (mesh.vertices - mesh.vertices.mean(axis=0))[mesh.faces]
    return float(np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6


def loft(rings: Sequence[np.ndarray]) -> Mesh:
    """A surface through rings (N, K, 3), closed by the first and the last, which must be convex."""
    rings = np.asarray(rings, float)
    count, around = rings.shape[:2]
    index = np.arange(count * around).reshape(count, around)
    here, there = index[:-1], index[1:]
    here_next, there_next = np.roll(here, -1, axis=1), np.roll(there, -1, axis=1)
    faces = [np.stack([here, here_next, there_next], -1), np.stack([here, there_next, there], -1)]
    fan = [[0, k, k + 1] for k in range(1, around - 1)]
    faces += [index[0][fan][:, ::-1], index[-1][fan]]
    mesh = Mesh(rings.reshape(-1, 3), np.concatenate([f.reshape(-1, 3) for f in faces]))
    return mesh if volume(mesh) > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one, each closed for itself."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    faces = [m.faces + offset for m, offset in zip(meshes, offsets)]
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces))


def both_sides(mesh: Mesh) -> Mesh:
    """The mesh and its mirror image in y."""
    mirrored = Mesh(mesh.vertices * [1, -1, 1], mesh.faces[:, ::-1])
    return joined(mesh, mirrored)


def cuboid(low: Sequence[float], high: Sequence[float]) -> Mesh:
    """An upright box between two corners, as a mesh to join with others."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    return loft([[(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)] for x in (x0, x1)])


def frustum(bottom: tuple[float, float, float, float], top: tuple[float, float, float, float]) -> Mesh:
    """A box that changes upwards; ``bottom`` and ``top`` are (back x, front x, half width, z)."""
    return loft([[(x0, -w, z), (x1, -w, z), (x1, w, z), (x0, w, z)] for x0, x1, w, z in (bottom, top)])


def hull(
    sections: Sequence[tuple[float, float, float, float]], shoulder: float = 0.6, bottom: float = 0.94, top: float = 0.9
) -> Mesh:
    """A body with a side profile.

    Args:
        sections: back to front: x, half width, lower z, upper z.
        shoulder: height of the widest line, as a share of the section's.
        bottom: half width at the lower edge, as a share of the section's.
        top: half width at the upper edge, likewise.
    """
    rings = []
    for x, w, low, high in sections:
        line = low + shoulder * (high - low)
        left = [(x, w * bottom, low), (x, w, line), (x, w * top, high)]
        rings.append(left + [(x, -y, z) for _, y, z in reversed(left)])
    return loft(rings)


def extruded(profile: Sequence[tuple[float, float]], right: float, left: float) -> Mesh:
    """A convex profile of (x, z) between two y."""
    return loft([[(x, y, z) for x, z in profile] for y in (right, left)])


def panel(corners: Sequence[Sequence[float]], thickness: float) -> Mesh:
    """A plate around four corners, half its thickness on either side."""
    corners = np.array(corners, float)
    normal = np.cross(corners[2] - corners[0], corners[3] - corners[1])
    normal *= thickness / 2 / np.linalg.norm(normal)
    return loft([corners - normal, corners + normal])


def turned(levels: Sequence[tuple[float, float, float, float]], sides: int = 8) -> Mesh:
    """A stack of ellipses; ``levels`` are (z, x of the centre, semi-axis along x, semi-axis along y)."""
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    return loft([np.stack([x + a * np.cos(angle), b * np.sin(angle), np.full(sides, z)], -1) for z, x, a, b in levels])


def tube(points: Sequence[Sequence[float]], radii: float | Sequence[float], sides: int = 6) -> Mesh:
    """A pipe along points, of one radius or one a point."""
    points = np.array(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    steps = np.diff(points, axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    tangents = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    across, rings = _frame(tangents[0])[:, 0], []
    for point, tangent, radius in zip(points, tangents, radii):
        across = across - (across @ tangent) * tangent
        across = across / np.linalg.norm(across)
        ring = np.outer(np.cos(angle), across) + np.outer(np.sin(angle), np.cross(tangent, across))
        rings.append(point + radius * ring)
    return loft(rings)


def rim(center: Sequence[float], radius: float, thickness: float, width: float, segments: int = 16) -> Mesh:
    """A bicycle's tyre about the y axis: a ring of triangular section, ``radius`` its outer one."""
    angle = 2 * np.pi * np.arange(segments) / segments
    section = [(radius, 0.0), (radius - thickness, -width / 2), (radius - thickness, width / 2)]
    rings = [np.stack([r * np.cos(angle), np.full(segments, y), r * np.sin(angle)], -1) for r, y in section]
    vertices = np.stack(rings, axis=1).reshape(-1, 3) + np.array(center, float)
    index = np.arange(3 * segments).reshape(segments, 3)
    here, there = index, np.roll(index, -1, axis=0)
    here_next, there_next = np.roll(here, -1, axis=1), np.roll(there, -1, axis=1)
    faces = [np.stack([here, here_next, there_next], -1), np.stack([here, there_next, there], -1)]
    mesh = Mesh(vertices, np.concatenate([f.reshape(-1, 3) for f in faces]))
    return mesh if volume(mesh) > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])
