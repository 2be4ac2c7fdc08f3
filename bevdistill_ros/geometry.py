"""Every geometric convention of the package, in one place.

Frames and transforms
    ``target_T_source`` is a 4x4 float64 matrix with ``target_T_source @ p_source = p_target``; right-handed, metres.
    Base ("ego") frame, REP-103: x forward, y left, z up. Camera frame, optical: x right, y down, z forward.
    Yaw is counter-clockwise about z, zero along x, in [-pi, pi). Quaternions are (x, y, z, w), as in ROS.
Pixels
    (u, v) = (column, row); integer coordinates are pixel CENTRES, as in OpenCV, so an image of width w spans
    [-0.5, w - 0.5]. Whatever moves pixels is a 3x3 matrix ``A`` with ``new_K = A @ K``.
Boxes
    Gravity centre, size (length along the heading, width, height), yaw, velocity over ground in the axes of the box's frame.
BEV grid
    Tensors are (..., Y, X): row = y, column = x. Cell (0, 0) is at (x_min, y_min). Continuous cell coordinates put the CENTRE
    of cell (row, column) at (column + 0.5, row + 0.5), so ``floor`` gives the index.
Time
    Integer nanoseconds. A set of images has one reference time; see ``reference_time`` and ``ego_ref_T_cam``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bevdistill_ros.errors import brief

# ---------------------------------------------------------------------------------------------------------------- transforms


def make_transform(
    rotation: np.ndarray | None = None, translation: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """4x4 rigid transform from a 3x3 rotation (identity if None) and a translation in metres (zero if None)."""
    T = np.eye(4)
    if rotation is not None:
        T[:3, :3] = rotation
    if translation is not None:
        T[:3, 3] = translation
    return T


def invert(T: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms (..., 4, 4), without a general matrix inversion."""
    T = np.asarray(T, dtype=np.float64)
    rotation_t = np.swapaxes(T[..., :3, :3], -1, -2)
    out = np.zeros_like(T)
    out[..., :3, :3] = rotation_t
    out[..., :3, 3] = -(rotation_t @ T[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def transform_points(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply ``target_T_source`` (4, 4) to points (..., 3) of the source frame."""
    return np.asarray(points, dtype=np.float64) @ T[:3, :3].T + T[:3, 3]


def rotation_z(yaw: float) -> np.ndarray:
    """3x3 rotation by ``yaw`` radians, counter-clockwise about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


EGO_R_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation of a level camera that looks along the base frame's x, from its optical frame."""


def rotation_from_quaternion(xyzw: Sequence[float] | np.ndarray) -> np.ndarray:
    """3x3 rotation of a quaternion (x, y, z, w), normalised here.

    Raises:
        ValueError: the quaternion is zero or not finite.
    """
    q = np.asarray(xyzw, dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"quaternion (x, y, z, w) = {q.tolist()} is no rotation: its norm is {norm}")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w), w >= 0, of a 3x3 rotation (Shepperd's method: divides by the largest component)."""
    R = np.asarray(rotation, dtype=np.float64)
    # Four times the squared components x, y, z, w; the largest is a safe divisor.
    squares = np.array(
        [
            1 + R[0, 0] - R[1, 1] - R[2, 2],
            1 - R[0, 0] + R[1, 1] - R[2, 2],
            1 - R[0, 0] - R[1, 1] + R[2, 2],
            1 + R[0, 0] + R[1, 1] + R[2, 2],
        ]
    )
    # Row i of 4 * q q^T, for the largest component i.
    outer = np.array(
        [
            [squares[0], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0], R[2, 1] - R[1, 2]],
            [R[0, 1] + R[1, 0], squares[1], R[1, 2] + R[2, 1], R[0, 2] - R[2, 0]],
            [R[0, 2] + R[2, 0], R[1, 2] + R[2, 1], squares[2], R[1, 0] - R[0, 1]],
            [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], squares[3]],
        ]
    )
    q = outer[np.argmax(squares)]
    q = q / np.linalg.norm(q)
    return -q if q[3] < 0 else q


def yaw_of(rotation: np.ndarray) -> float:
    """Heading of the x axis of a rotation (3x3 or 4x4), seen from above."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def wrap_angle(angle: np.ndarray | float) -> np.ndarray | float:
    """Angle(s) in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


# ------------------------------------------------------------------------------------------------------------ reference time


def reference_time(stamps: Mapping[str, int], reference: str) -> int:
    """The one time (ns) that the boxes of an image set are given at.

    It is the stamp of the ``reference`` camera. Where that camera is missing, it is the middle stamp of those present (the lower
    middle of an even number): always the stamp of a real image, so TF has seen that time, and the middle keeps corrections short.

    Raises:
        ValueError: ``stamps`` is empty.
    """
    if not stamps:
        raise ValueError("a set without images has no reference time")
    if reference in stamps:
        return int(stamps[reference])
    ordered = sorted(stamps.values())
    return int(ordered[(len(ordered) - 1) // 2])


def ego_ref_T_cam(fixed_T_ego_ref: np.ndarray, fixed_T_ego_cam: np.ndarray, ego_T_cam: np.ndarray) -> np.ndarray:
    """Camera pose in the base frame AT the reference time, for an image taken at another time: ego(t_ref)_T_cam(t_cam).

    ``fixed_T_ego_ref`` and ``fixed_T_ego_cam`` are the base frame's poses in a fixed frame at t_ref and at the image's own time;
    ``ego_T_cam`` is the mounting.
    """
    return invert(fixed_T_ego_ref) @ fixed_T_ego_cam @ ego_T_cam


# ------------------------------------------------------------------------------------------------------------------- cameras

DISTORTION_MODELS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
"""sensor_msgs/CameraInfo distortion models, and the numbers of coefficients each may have. 12 and 14 are OpenCV's thin prism
and tilt extensions, which must be zero here."""

MAX_COEFFICIENTS = max(max(counts) for counts in DISTORTION_MODELS.values())

FOCAL_LENGTHS = (1e-2, 1e7)
"""Pixels. A lens is far inside; what is outside makes infinities and zeros of what is calculated with it in 32 bits."""

MAX_COEFFICIENT = 1e6
MAX_DISTANCE = 1e9
"""Metres: of a transform. Maps have origins up to 1e7 m away."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with lens distortion, in the terms of sensor_msgs/CameraInfo.

    Attributes:
        K: (3, 3) intrinsics in pixels of the (distorted) image.
        width, height: image size in pixels.
        distortion_model: ``plumb_bob`` (k1 k2 p1 p2 k3), ``rational_polynomial`` (k1 k2 p1 p2 k3 k4 k5 k6) or ``equidistant``
            (k1 k2 k3 k4: the fisheye model).
        D: its coefficients; empty means no distortion.

    Raises:
        ValueError: K is not an intrinsic matrix, or D does not fit the model.
    """

    K: np.ndarray
    width: int
    height: int
    distortion_model: str = "plumb_bob"
    D: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        K = np.array(self.K, dtype=np.float64).reshape(3, 3)
        D = np.array(self.D, dtype=np.float64).reshape(-1)
        if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], (0, 0, 1))):
            raise ValueError(
                f"K = {K.reshape(-1).tolist()} is no intrinsic matrix: fx and fy must be positive, its last row 0 0 1"
            )
        least, most = FOCAL_LENGTHS
        if min(K[0, 0], K[1, 1]) < least or np.abs(K).max() > most:
            raise ValueError(
                f"K = {K.reshape(-1).tolist()} is of no lens: fx and fy must be {least:g} to {most:g} pixels"
            )
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"image size {self.width}x{self.height} must be positive")
        model = self.distortion_model or "plumb_bob"
        if model not in DISTORTION_MODELS:
            raise ValueError(f"distortion model {brief(model)} is not one of {', '.join(DISTORTION_MODELS)}")
        if len(D) == 0 or (np.isfinite(D).all() and not D.any() and model != "equidistant"):
            D = np.zeros(4 if model == "equidistant" else 0)
        elif len(D) not in DISTORTION_MODELS[model]:
            raise ValueError(f"'{model}' takes {DISTORTION_MODELS[model]} distortion coefficients, not {len(D)}")
        if not (np.abs(D) <= MAX_COEFFICIENT).all():
            raise ValueError(f"distortion coefficients {D.tolist()} must be finite, and at most {MAX_COEFFICIENT:g}")
        if model == "rational_polynomial" and D[8:].any():
            raise ValueError(
                "thin prism and tilt coefficients (beyond the eighth) are not supported: they must be zero"
            )
        K.setflags(write=False)
        D.setflags(write=False)
        for name, value in (
            ("K", K),
            ("D", D),
            ("distortion_model", model),
            ("width", int(self.width)),
            ("height", int(self.height)),
        ):
            object.__setattr__(self, name, value)

    @property
    def is_distorted(self) -> bool:
        """Whether an ideal pinhole with the same K would image any point elsewhere."""
        return self.distortion_model == "equidistant" or bool(self.D.any())

    @property
    def key(self) -> tuple:
        """Hashable identity, for caches."""
        return (self.K.tobytes(), self.width, self.height, self.distortion_model, self.D.tobytes())

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) of the camera frame: pixels (..., 2) and depths z (...) in metres.

        Pixels are NaN where the lens can form no image: behind the camera, and beyond the radius where the distortion polynomial
        folds back (a far-off point would otherwise reappear inside the image). Pixels may lie outside of the image.
        """
        points = np.asarray(points, dtype=np.float64)
        depth = points[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            normalized = np.where(depth[..., None] > 1e-9, points[..., :2] / depth[..., None], np.nan)
        distorted = self.distort(normalized)
        return distorted @ self.K[:2, :2].T + self.K[:2, 2], depth

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Rays (..., 3) of the camera frame with z = 1 through pixels (..., 2); NaN where no ray gives that pixel."""
        pixels = np.asarray(pixels, dtype=np.float64)
        normalized = self.undistort((pixels - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T)
        return np.concatenate([normalized, np.ones_like(normalized[..., :1])], axis=-1)

    def distort(self, normalized: np.ndarray) -> np.ndarray:
        """Ideal normalised image coordinates (..., 2) to distorted ones; NaN beyond the fold of the polynomial."""
        if not self.is_distorted:
            return normalized
        r = np.linalg.norm(normalized, axis=-1)
        if self.distortion_model == "equidistant":
            theta = np.arctan(r)
            scale = np.where(r > 1e-12, self._radial(theta) / np.maximum(r, 1e-12), 1.0)
            out = normalized * scale[..., None]
            valid = theta <= self._fold
        else:
            x, y = normalized[..., 0], normalized[..., 1]
            p1, p2 = self.D[2:4]
            scale = np.where(r > 1e-12, self._radial(r) / np.maximum(r, 1e-12), 1.0)
            out = np.stack(
                [
                    x * scale + 2 * p1 * x * y + p2 * (r * r + 2 * x * x),
                    y * scale + p1 * (r * r + 2 * y * y) + 2 * p2 * x * y,
                ],
                axis=-1,
            )
            valid = r <= self._fold
        return np.where(valid[..., None], out, np.nan)

    def undistort(self, distorted: np.ndarray) -> np.ndarray:
        """Inverse of ``distort``: Newton's method on the radius, then a fixed point for the tangential part."""
        if not self.is_distorted:
            return distorted
        if self.distortion_model == "equidistant":
            return self._undistort_radial(distorted, to_radius=np.tan)
        p1, p2 = self.D[2:4]
        normalized = self._undistort_radial(distorted)
        for _ in range(20):
            x, y = normalized[..., 0], normalized[..., 1]
            r2 = x * x + y * y
            tangential = np.stack(
                [2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1
            )
            normalized = self._undistort_radial(distorted - tangential)
        return normalized

    def _radial(self, r: np.ndarray) -> np.ndarray:
        """Distorted radius of an ideal radius (or of the angle from the axis, for ``equidistant``)."""
        r2 = r * r
        if self.distortion_model == "equidistant":
            k1, k2, k3, k4 = self.D
            return r * (1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4))))
        k = np.zeros(8)
        k[: min(len(self.D), 8)] = self.D[:8]
        k1, k2, _, _, k3, k4, k5, k6 = k
        return r * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))

    @property
    def _fold(self) -> float:
        """Largest radius (or angle) up to which the distorted radius grows."""
        cached = self.__dict__.get("_fold_cache")
        if cached is None:
            limit = np.pi / 2 if self.distortion_model == "equidistant" else 10.0
            samples = np.linspace(0.0, limit, 20001)
            falling = np.flatnonzero(~(np.diff(self._radial(samples)) > 0))
            cached = float(samples[falling[0]]) if len(falling) else (limit if limit < 2 else np.inf)
            object.__setattr__(self, "_fold_cache", cached)
        return cached

    def _undistort_radial(self, distorted: np.ndarray, to_radius=lambda r: r) -> np.ndarray:
        target = np.linalg.norm(distorted, axis=-1)
        limit = min(self._fold, 100.0)
        r = np.minimum(target, limit)
        for _ in range(25):
            step = 1e-6
            slope = (self._radial(r + step) - self._radial(r - step)) / (2 * step)
            r = np.clip(r - (self._radial(r) - target) / np.where(np.abs(slope) > 1e-9, slope, 1e-9), 0.0, limit)
        with np.errstate(invalid="ignore"):
            solved = np.abs(self._radial(r) - target) < 1e-7
        scale = np.where(target > 1e-12, to_radius(r) / np.maximum(target, 1e-12), 1.0)
        return np.where(solved[..., None], distorted * scale[..., None], np.nan)


def resize_matrix(scale_x: float, scale_y: float) -> np.ndarray:
    """Pixel matrix A of a resize by factors new/old: pixel EDGES scale, so centres shift by half a pixel of each size."""
    return np.array([[scale_x, 0.0, 0.5 * scale_x - 0.5], [0.0, scale_y, 0.5 * scale_y - 0.5], [0.0, 0.0, 1.0]])


def crop_matrix(left: float, top: float) -> np.ndarray:
    """Pixel matrix A of a crop whose first kept pixel is (left, top); negative values pad."""
    return np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])


# --------------------------------------------------------------------------------------------------------------------- boxes

# Corner signs (length, width, height): bottom face counter-clockwise from front-left, then the top face likewise.
CORNER_SIGNS = np.array(
    [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]],
    dtype=np.float64,
)
BOX_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corner indices that a wire frame draws; the front face is corners 0, 3, 7, 4."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """N oriented 3-D boxes of one frame.

    Attributes:
        centers: (N, 3) gravity centres x, y, z in metres.
        sizes: (N, 3) length, width, height in metres.
        yaws: (N,) heading of the length axis, radians.
        velocities: (N, 2) over ground, in the axes of the boxes' frame, m/s; NaN where unknown.
        scores: (N,) in [0, 1]; 1 for ground truth.
        labels: (N,) indices into ``class_names``.
        class_names: the names the labels mean; names, never numbers, cross a file or a message.
    """

    centers: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray
    velocities: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.centers)
        shapes = {
            "centers": (n, 3),
            "sizes": (n, 3),
            "yaws": (n,),
            "velocities": (n, 2),
            "scores": (n,),
            "labels": (n,),
        }
        for name, shape in shapes.items():
            value = np.asarray(getattr(self, name), dtype=np.int64 if name == "labels" else np.float64)
            if value.size == 0 and n == 0:
                value = value.reshape(shape)
            if value.shape != shape:
                raise ValueError(f"Boxes.{name} has shape {value.shape}, expected {shape}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if n and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ValueError(f"labels must be indices into {len(self.class_names)} class names")

    @staticmethod
    def empty(class_names: Sequence[str]) -> Boxes:
        """No boxes."""
        return Boxes(*(np.zeros(s) for s in ((0, 3), (0, 3), (0,), (0, 2), (0,), (0,))), tuple(class_names))

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, index) -> Boxes:
        """Boxes chosen by a boolean mask, an index array or a slice (a single integer keeps the batch dimension)."""
        if isinstance(index, (int, np.integer)):
            index = [index]
        return Boxes(
            self.centers[index], self.sizes[index], self.yaws[index], self.velocities[index], self.scores[index],
            self.labels[index], self.class_names,
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """Class name of every box."""
        return [self.class_names[i] for i in self.labels]

    def corners(self) -> np.ndarray:
        """(N, 8, 3) corners in the order of ``CORNER_SIGNS``: 0 front-left-bottom, then counter-clockwise, then the top."""
        local = CORNER_SIGNS[None] * self.sizes[:, None] / 2
        c, s = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        x, y = local[..., 0] * c - local[..., 1] * s, local[..., 0] * s + local[..., 1] * c
        return np.stack([x, y, local[..., 2]], axis=-1) + self.centers[:, None]

    def transformed(self, target_T_source: np.ndarray) -> Boxes:
        """The same boxes in another frame: centres, headings and velocities turn with it.

        Roll and pitch of the transform move centres exactly; headings and velocities are projected onto the target's ground plane.
        """
        R = target_T_source[:3, :3]
        heading = np.stack([np.cos(self.yaws), np.sin(self.yaws)], axis=-1) @ R[:2, :2].T
        return replace(
            self,
            centers=transform_points(target_T_source, self.centers),
            yaws=wrap_angle(np.arctan2(heading[:, 1], heading[:, 0])),
            velocities=self.velocities @ R[:2, :2].T,
        )

    def propagated(self, seconds: float) -> Boxes:
        """Boxes moved along their velocity for ``seconds`` (either sign); those of unknown velocity stay."""
        centers = self.centers.copy()
        centers[:, :2] += np.nan_to_num(self.velocities) * seconds
        return replace(self, centers=centers)


def rotated_iou_bev(a: Boxes, b: Boxes) -> np.ndarray:
    """(len(a), len(b)) intersection over union of the boxes' footprints seen from above; exact for any yaw."""
    iou = np.zeros((len(a), len(b)))
    if not iou.size:
        return iou
    radius_a, radius_b = (np.hypot(s.sizes[:, 0], s.sizes[:, 1]) / 2 for s in (a, b))
    distance = np.linalg.norm(a.centers[:, None, :2] - b.centers[None, :, :2], axis=-1)
    i, j = np.nonzero(distance < radius_a[:, None] + radius_b[None])
    if not len(i):
        return iou
    origin = a.centers[i, None, :2]  # work near zero, for precision far from the frame's origin
    p, q = a.corners()[i, :4, :2] - origin, b.corners()[j, :4, :2] - origin
    overlap = _convex_overlap(p, q)
    area_a, area_b = a.sizes[i, 0] * a.sizes[i, 1], b.sizes[j, 0] * b.sizes[j, 1]
    iou[i, j] = overlap / np.maximum(area_a + area_b - overlap, 1e-12)
    return iou


def _convex_overlap(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(M,) overlap areas of M pairs of convex counter-clockwise quadrilaterals (M, 4, 2).

    The overlap polygon's vertices are the corners of each inside the other and the crossings of their edges; sorted by angle about
    their mean, the shoelace formula gives the area.
    """

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
        edges = np.roll(polygon, -1, axis=1) - polygon
        side = cross(edges[:, None], points[:, :, None] - polygon[:, None])
        return (side >= -1e-9).all(axis=-1)

    edges_p, edges_q = np.roll(p, -1, axis=1) - p, np.roll(q, -1, axis=1) - q
    offset = q[:, None] - p[:, :, None]
    denominator = cross(edges_p[:, :, None], edges_q[:, None])
    parallel = np.abs(denominator) < 1e-12
    safe = np.where(parallel, 1.0, denominator)
    t = cross(offset, edges_q[:, None]) / safe
    u = cross(offset, edges_p[:, :, None]) / safe
    crossing = ~parallel & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    crossings = p[:, :, None] + t[..., None] * edges_p[:, :, None]

    points = np.concatenate([p, q, crossings.reshape(len(p), 16, 2)], axis=1)
    valid = np.concatenate([inside(p, q), inside(q, p), crossing.reshape(len(p), 16)], axis=1)
    count = valid.sum(axis=1)
    mean = (points * valid[..., None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    angle = np.arctan2(points[..., 1] - mean[:, None, 1], points[..., 0] - mean[:, None, 0])
    order = np.argsort(np.where(valid, angle, np.inf), axis=1)
    polygon = np.take_along_axis(points, order[..., None], axis=1)
    # Unused places repeat the first vertex, which adds nothing to the shoelace sum.
    polygon = np.where((np.arange(24) < count[:, None])[..., None], polygon, polygon[:, :1])
    area = 0.5 * np.abs(cross(polygon, np.roll(polygon, -1, axis=1)).sum(axis=1))
    return np.where(count >= 3, area, 0.0)


# ------------------------------------------------------------------------------------------------------------------ BEV grid


@dataclass(frozen=True)
class BevGrid:
    """A regular grid on the ground plane of the base frame; metres. Tensors over it are (..., rows, columns) = (..., Y, X)."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell: float

    def __post_init__(self) -> None:
        for low, high, axis in ((self.x_min, self.x_max, "x"), (self.y_min, self.y_max, "y")):
            cells = (high - low) / self.cell if self.cell > 0 else 0.0
            if not 1 <= cells < 1e9 or abs(cells - round(cells)) > 1e-6:  # the former also for what is no number
                raise ValueError(
                    f"BEV grid: {axis} range [{low}, {high}] must be a whole number of cells of {self.cell} m"
                )

    @property
    def columns(self) -> int:
        """Number of cells along x."""
        return round((self.x_max - self.x_min) / self.cell)

    @property
    def rows(self) -> int:
        """Number of cells along y."""
        return round((self.y_max - self.y_min) / self.cell)

    def to_cells(self, xy):
        """Metres (..., 2) as (x, y) to continuous cell coordinates (..., 2) as (column, row); NumPy arrays or torch tensors."""
        xy = xy * 1.0  # whole numbers to floats: an integer tensor would cut the origin to whole metres
        origin = (
            xy.new_tensor([self.x_min, self.y_min]) if hasattr(xy, "new_tensor") else np.array([self.x_min, self.y_min])
        )
        return (xy - origin) / self.cell

    def to_meters(self, cells):
        """Inverse of ``to_cells``: (column, row) to (x, y)."""
        cells = cells * 1.0
        origin = (
            cells.new_tensor([self.x_min, self.y_min])
            if hasattr(cells, "new_tensor")
            else np.array([self.x_min, self.y_min])
        )
        return cells * self.cell + origin

    def centers(self) -> np.ndarray:
        """(rows, columns, 2) positions (x, y) of the cell centres."""
        columns, rows = np.meshgrid(np.arange(self.columns) + 0.5, np.arange(self.rows) + 0.5)
        return self.to_meters(np.stack([columns, rows], axis=-1))

    def contains(self, xy: np.ndarray) -> np.ndarray:
        """Whether positions (..., 2) lie on the grid; the upper borders do not belong to it."""
        cells = self.to_cells(np.asarray(xy))
        return (cells >= 0).all(axis=-1) & (cells[..., 0] < self.columns) & (cells[..., 1] < self.rows)
