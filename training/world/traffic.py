"""Who is in the streets, and how each moves. Nothing overlaps anything else at any time, the ego included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevdistill_ros.geometry import rotation_z
from bevdistill_ros.training.world.layout import Lane, Layout, Path, Place, Street, Zone
from bevdistill_ros.training.world.objects import ObjectModel, make_object
from bevdistill_ros.training.world.palette import Palette

EGO_SIZE = (4.8, 2.0)
"""Length and width (m) that others keep clear of; the ego's base frame lies EGO_REAR in front of its rear end."""
EGO_REAR = 1.0

CAR, TRUCK, BUS, TRAILER, CONSTRUCTION = (
    "vehicle.car",
    "vehicle.truck",
    "vehicle.bus.rigid",
    "vehicle.trailer",
    "vehicle.construction",
)
MOTORCYCLE, BICYCLE, ADULT, CHILD = (
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "human.pedestrian.adult",
    "human.pedestrian.child",
)
CONE, BARRIER = "movable_object.trafficcone", "movable_object.barrier"

_STEP = 0.02  # seconds, of the tables of motion


class Motion:
    """A place on the ground and a heading at any time."""

    def __init__(self, path: Path, offset: float, direction: int, times: np.ndarray, s: np.ndarray) -> None:
        """Along ``path``, ``offset`` metres to its left, at arc length ``s`` (T,) at ``times`` (T,) seconds; ``direction`` -1
        drives against it."""
        self.path, self.offset, self.direction, self.times, self.s = path, offset, direction, times, s

    def at(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (..., 2) and headings (...)."""
        position, heading = self.path.at(np.interp(t, self.times, self.s), self.offset)
        return position, heading + (np.pi if self.direction < 0 else 0.0)

    def velocity(self, t: float) -> np.ndarray:
        """(2,) m/s."""
        before, after = self.at(t - _STEP)[0], self.at(t + _STEP)[0]
        return (after - before) / (2 * _STEP)


class Still(Motion):
    """Does not move."""

    def __init__(self, position: np.ndarray, yaw: float) -> None:
        self._position, self._yaw = np.asarray(position, float), float(yaw)

    def at(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = np.shape(t)
        return np.broadcast_to(self._position, (*shape, 2)), np.broadcast_to(self._yaw, shape)

    def velocity(self, t: float) -> np.ndarray:
        return np.zeros(2)


@dataclass(frozen=True, eq=False)
class Actor:
    """An object and its motion. parked: left by its driver, as its attribute tells."""

    model: ObjectModel
    motion: Motion
    parked: bool


@dataclass(frozen=True, eq=False)
class Traffic:
    """Attributes: ego: motion of the base frame; actors: everyone else."""

    ego: Motion
    actors: tuple[Actor, ...]


def travel_speed(rng: np.random.Generator) -> float:
    """m/s at which the ego's lane flows on average; one drive in eight stands still."""
    return 0.0 if rng.random() < 0.12 else rng.uniform(3, 13)


class _Director:
    """Places actors one after another; who would collide with someone there is left out."""

    def __init__(self, layout: Layout, duration: float, rng: np.random.Generator, palette: Palette) -> None:
        self.layout, self.rng, self.palette = layout, rng, palette
        self.times = np.arange(-1.0, duration + 1.0, _STEP)
        self.checks = np.arange(-0.5, duration + 0.5, 0.25)
        self.actors: list[Actor] = []
        self._tracks: list[np.ndarray] = []  # (T, 5): x, y, yaw, half length, half width

    def _track(self, motion: Motion, length: float, width: float, ahead: float = 0.0) -> np.ndarray:
        position, yaw = motion.at(self.checks)
        position = position + ahead * np.stack([np.cos(yaw), np.sin(yaw)], -1)
        half = np.broadcast_to([length / 2, width / 2], position.shape)
        return np.concatenate([position, np.asarray(yaw)[:, None] * np.ones((len(position), 1)), half], 1)

    def add_ego(self, motion: Motion) -> None:
        """The ego comes first and yields to nobody."""
        self._tracks.append(self._track(motion, EGO_SIZE[0] + 5, EGO_SIZE[1] + 0.6, EGO_SIZE[0] / 2 - EGO_REAR))

    def add(self, category: str, motion: Motion, gap: float, parked: bool = False, rider: bool = False) -> Actor | None:
        """Place an object ``gap`` metres clear of others; None where it does not fit. One draw of the shape's seed whatever
        comes of it, so that a colour never changes a shape."""
        seed = int(self.rng.integers(2**32))
        model = make_object(category, np.random.default_rng(seed), self.palette, rider)
        track = self._track(motion, model.size[0] + gap, model.size[1] + gap)
        if self._tracks and _overlap(track, np.stack(self._tracks)).any():
            return None
        self._tracks.append(track)
        actor = Actor(model, motion, parked)
        self.actors.append(actor)
        return actor


def _overlap(track: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, T) whether rectangles (T, 5) overlap those of ``others`` (N, T, 5): separating axes, after a test by circles."""
    delta = others[..., :2] - track[None, :, :2]
    near = np.linalg.norm(delta, axis=-1) < np.hypot(others[..., 3], others[..., 4]) + np.hypot(
        track[:, 3], track[:, 4]
    )
    result = np.zeros(near.shape, bool)
    n, t = near.nonzero()
    if not len(n):
        return result
    a, b, d = track[t], others[n, t], delta[n, t]
    apart = np.zeros(len(n), bool)
    for yaw in (a[:, 2], b[:, 2]):
        for axis in (np.stack([np.cos(yaw), np.sin(yaw)], -1), np.stack([-np.sin(yaw), np.cos(yaw)], -1)):
            reach = np.zeros(len(n))
            for box in (a, b):
                forward = np.stack([np.cos(box[:, 2]), np.sin(box[:, 2])], -1)
                left = np.stack([-np.sin(box[:, 2]), np.cos(box[:, 2])], -1)
                reach += box[:, 3] * np.abs((forward * axis).sum(-1)) + box[:, 4] * np.abs((left * axis).sum(-1))
            apart |= np.abs((d * axis).sum(-1)) > reach
    result[n, t] = ~apart
    return result


def make_traffic(layout: Layout, speed: float, duration: float, rng: np.random.Generator, palette: Palette) -> Traffic:
    """Populate a quarter.

    Args:
        speed: of the ego's lane, m/s on average.
    """
    director = _Director(layout, duration, rng, palette)
    main = layout.main
    lanes = [lane for lane in main.lanes if lane.direction > 0]
    lane = lanes[rng.integers(len(lanes))]
    flows = {lane: _flow(rng, director.times, speed)}
    ego = Motion(main.path, lane.offset + rng.normal(0, 0.12), 1, director.times, layout.start + flows[lane])
    director.add_ego(ego)

    busy = rng.uniform(0.4, 1.3)
    for zone in layout.zones:
        _road_works(director, zone)
    for other in main.lanes:
        if other not in flows:
            flows[other] = _flow(rng, director.times, max(0.0, speed * rng.uniform(0.5, 1.4) + rng.normal(0, 1)))
        _lane_traffic(director, main, other, flows[other], busy)
    for street in layout.streets[1:]:
        for other in street.lanes:
            moving = 0.0 if rng.random() < 0.4 else rng.uniform(2, 10)
            _lane_traffic(director, street, other, _flow(rng, director.times, moving), busy * 0.7)
    for street in layout.streets:
        _parked_along(director, street, rng.uniform(0.2, 0.8))
        _cyclists(director, street, busy)
        _pedestrians(director, street, rng.uniform(0.4, 1.6))
        _left_on_pavements(director, street)
    for place in layout.places:
        _place(director, place)
    return Traffic(ego, tuple(director.actors))


def _flow(rng: np.random.Generator, times: np.ndarray, mean: float) -> np.ndarray:
    """(T,) metres that a lane has moved by ``times``, 0 at t = 0: steady, breathing, or with a stop."""
    speed = np.full(len(times), mean)
    if mean > 0:
        speed = mean * (1 + rng.uniform(0, 0.35) * np.sin(2 * np.pi * (times / rng.uniform(6, 15) + rng.random())))
        if rng.random() < 0.25:
            stop, pause = rng.uniform(times[0], times[-1]), rng.uniform(1, 5)
            speed = np.minimum(speed, np.maximum(0, (np.abs(times - stop) - pause / 2) * 2.2))
    way = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * _STEP)])
    return way - np.interp(0.0, times, way)


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))


_DRIVING = {CAR: 0.52, TRUCK: 0.13, BUS: 0.1, MOTORCYCLE: 0.13, CONSTRUCTION: 0.06, TRAILER: 0.06}
_PARKED = {CAR: 0.6, TRUCK: 0.12, BUS: 0.04, TRAILER: 0.1, CONSTRUCTION: 0.06, MOTORCYCLE: 0.08}
_LENGTH = {CAR: 5, TRUCK: 8, BUS: 12, TRAILER: 13, CONSTRUCTION: 7, MOTORCYCLE: 2.3}


def _lane_traffic(director: _Director, street: Street, lane: Lane, flow: np.ndarray, busy: float) -> None:
    """Vehicles of one lane move alike, so that none runs into the next."""
    rng = director.rng
    s = rng.uniform(-20, 20)
    s_end = street.path.length + 20
    while s < s_end:
        category = _draw(rng, _DRIVING)
        if category == TRAILER:
            s = _articulated(director, street, lane, flow, s)
        else:
            offset = lane.offset + rng.normal(0, 0.15)
            motion = Motion(street.path, offset, lane.direction, director.times, s + lane.direction * flow)
            director.add(category, motion, gap=0.7, rider=category == MOTORCYCLE)
            s += _LENGTH[category] / 2
        s += 3 + rng.exponential(22 / busy) + 5


def _articulated(director: _Director, street: Street, lane: Lane, flow: np.ndarray, s: float) -> float:
    """A truck that pulls a trailer; returns where the pair ends."""
    way = s + lane.direction * flow

    def motion(shift: float) -> Motion:
        return Motion(street.path, lane.offset, lane.direction, director.times, way + shift)

    trailer = director.add(TRAILER, motion(0.0), gap=0.1)
    if trailer is None:
        return s
    ahead = float(trailer.model.size[0]) / 2 + 3.6
    director.add(TRUCK, motion(lane.direction * (ahead + director.rng.uniform(0.3, 0.8))), gap=0.0)
    return s + (ahead + 5 if lane.direction > 0 else 7)


def _parked_along(director: _Director, street: Street, share: float) -> None:
    if not street.parking:
        return
    rng = director.rng
    for side in (1, -1):
        s = rng.uniform(0, 8)
        aslant = 0.0 if street.parking < 2.4 or rng.random() < 0.7 else rng.uniform(-0.3, 0.3)
        while s < street.path.length:
            category = _draw(rng, _PARKED)
            if rng.random() < share:
                position, heading = street.path.at(s, side * (street.kerb - street.parking / 2 + rng.normal(0, 0.12)))
                # On the right, headings go along the street, on the left against it; one in six is parked the wrong way round.
                yaw = heading + (np.pi if (side > 0) != (rng.random() < 0.16) else 0.0)
                director.add(category, Still(position, yaw + aslant + rng.normal(0, 0.04)), gap=0.2, parked=True)
            s += _LENGTH[category] + rng.uniform(0.8, 3.5)


def _cyclists(director: _Director, street: Street, busy: float) -> None:
    rng = director.rng
    for side in (1, -1):
        offset = side * (street.kerb - street.parking - max(street.cycle_width, 0.9) / 2)
        for _ in range(rng.poisson(street.path.length / 55 * busy)):
            flow = _flow(rng, director.times, 0.0 if rng.random() < 0.15 else rng.uniform(2, 7))
            where = rng.uniform(0, street.path.length)
            category = BICYCLE if rng.random() < 0.7 else MOTORCYCLE
            motion = Motion(street.path, offset + rng.normal(0, 0.2), -side, director.times, where - side * flow)
            director.add(category, motion, gap=0.2, rider=True)


def _pedestrians(director: _Director, street: Street, busy: float) -> None:
    rng = director.rng
    for side in (1, -1):
        for _ in range(rng.poisson(street.path.length / 16 * busy)):
            s, d = rng.uniform(0, street.path.length), side * (street.kerb + rng.uniform(0.4, street.pavement))
            if rng.random() < 0.1:
                d = rng.uniform(-street.kerb, street.kerb)  # in the road
            for _ in range(1 + int(rng.random() < 0.3) * int(rng.integers(1, 5))):  # alone or in a group
                around = rng.normal(0, 0.8, 2)
                _pedestrian(director, *street.path.at(s + around[0], d + around[1]))


def _pedestrian(director: _Director, position: np.ndarray, heading: np.ndarray) -> None:
    rng = director.rng
    category = CHILD if rng.random() < 0.15 else ADULT
    if rng.random() < 0.35:
        director.add(category, Still(position, rng.uniform(-np.pi, np.pi)), gap=0.1)
        return
    yaw = heading + rng.choice([0, np.pi], p=[0.5, 0.5]) + rng.normal(0, 0.2)
    if rng.random() < 0.2:
        yaw = rng.uniform(-np.pi, np.pi)
    motion = _straight(director, position, float(yaw), rng.uniform(0.5, 2.0))
    director.add(category, motion, gap=0.1)


def _straight(director: _Director, position: np.ndarray, yaw: float, speed: float) -> Motion:
    """Straight on from ``position`` at t = 0."""
    way = np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]) @ rotation_z(yaw)[:2, :2].T + position
    return Motion(Path(way), 0.0, 1, director.times, speed * director.times)


def _left_on_pavements(director: _Director, street: Street) -> None:
    """Bicycles in racks, motorcycles, cones, barriers."""
    rng = director.rng
    for side in (1, -1):
        for _ in range(rng.poisson(street.path.length / 40)):
            s, d = rng.uniform(0, street.path.length), street.kerb + rng.uniform(0.6, street.pavement)
            kind = rng.random()
            turn = rng.choice([0, np.pi / 2, rng.uniform(-np.pi, np.pi)])
            for index in range(int(rng.integers(1, 6))):
                position, heading = street.path.at(s + 1.1 * index, side * d)
                yaw = heading + turn + rng.normal(0, 0.1)
                if kind < 0.45:
                    director.add(BICYCLE, Still(position, yaw), gap=0.05, parked=True)
                elif kind < 0.7:
                    director.add(MOTORCYCLE, Still(position, yaw), gap=0.05, parked=True)
                elif kind < 0.85:
                    director.add(CONE, Still(position, rng.uniform(-np.pi, np.pi)), gap=0.05)
                else:
                    position, heading = street.path.at(s + 2.8 * index, side * d)
                    director.add(BARRIER, Still(position, heading + np.pi / 2 + rng.normal(0, 0.1)), gap=0.05)


def _road_works(director: _Director, zone: Zone) -> None:
    """Cones or barriers around a part of the carriageway, machines and people inside."""
    rng, street = director.rng, director.layout.main
    inner = zone.side * (street.kerb - zone.width)
    fence = CONE if rng.random() < 0.5 else BARRIER
    step = rng.uniform(1.5, 4.0) if fence == CONE else 2.75
    for s in np.arange(zone.start, zone.end, step):
        position, heading = street.path.at(s, inner + rng.normal(0, 0.08))
        yaw = rng.uniform(-np.pi, np.pi) if fence == CONE else heading + np.pi / 2 + rng.normal(0, 0.06)
        director.add(fence, Still(position, yaw), gap=0.02)
    for end in (zone.start, zone.end):  # the taper, always of cones
        for k in range(1, 6):
            outward = end + (k * 1.6 if end == zone.end else -k * 1.6)
            position, _ = street.path.at(outward, inner + zone.side * zone.width * k / 6)
            director.add(CONE, Still(position, rng.uniform(-np.pi, np.pi)), gap=0.02)
    for _ in range(int(rng.integers(1, 4))):
        s, d = rng.uniform(zone.start, zone.end), inner + zone.side * rng.uniform(1.4, zone.width + 2)
        position, heading = street.path.at(s, d)
        category = CONSTRUCTION if rng.random() < 0.75 else TRUCK
        director.add(category, Still(position, heading + rng.uniform(-np.pi, np.pi)), gap=0.2, parked=True)
    for _ in range(int(rng.integers(0, 6))):
        s, d = rng.uniform(zone.start, zone.end), inner + zone.side * rng.uniform(0.6, zone.width)
        _pedestrian(director, *street.path.at(s, d))


def _place(director: _Director, place: Place) -> None:
    """A car park, a yard or a square: everything at every angle."""
    rng = director.rng
    half = place.size / 2
    if rng.random() < 0.5:  # rows of stalls
        for y in (-half[1] + 2.6, half[1] - 2.6):
            for x in np.arange(-half[0] + 1.5, half[0] - 1.5, 2.9):
                if rng.random() < 0.5:
                    yaw = place.yaw + rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.05)
                    category = CAR if rng.random() < 0.85 else MOTORCYCLE
                    director.add(category, Still(place.at(x, y), yaw), gap=0.2, parked=True)
    yard = {CAR: 0.25, TRUCK: 0.2, TRAILER: 0.2, BUS: 0.12, CONSTRUCTION: 0.23}
    loose = {BICYCLE: 0.2, MOTORCYCLE: 0.2, CONE: 0.25, BARRIER: 0.35}
    area = float(place.size.prod())
    for shares, count, gap in ((yard, area / 170, 0.6), (loose, area / 150, 0.3)):
        for _ in range(rng.poisson(count)):
            x, y = rng.uniform(-half + 1, half - 1)
            director.add(_draw(rng, shares), Still(place.at(x, y), rng.uniform(-np.pi, np.pi)), gap, parked=True)
    for _ in range(rng.poisson(area / 160)):
        x, y = rng.uniform(-half, half)
        _pedestrian(director, place.at(x, y), np.asarray(rng.uniform(-np.pi, np.pi)))
