"""Arrays of boxes as the bytes that go over the wire, which rclpy publishes as they are.

Of a few hundred boxes, rclpy takes milliseconds to make Python objects and to walk through them again. Here an array is put
together from prepared bytes, one piece an element, into which NumPy writes all numbers at once.

The bytes are CDR, the encoding of DDS, in its first version, little endian: a value begins at a multiple of its size (8 at most),
counted from behind the first four bytes; strings and sequences begin with their length. ``agrees`` says whether this is what the
present middleware and message definitions make of the same boxes, field by field; where not, use ``messages`` and ``markers``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.node import markers as plain_markers
from bevdistill_ros.node import messages
from bevdistill_ros.node.markers import MarkerTracker, Scene

_LITTLE_ENDIAN = b"\x00\x01\x00\x00"
_COVARIANCE = 36
_CACHED = 4096
"""Prepared pieces of each kind: classes, times where in a word they may begin, times kinds of markers, times texts."""


class _Cdr:
    """Values one after the other, each where its size wants it.

    Args:
        before: bytes that lie in front of these.
    """

    def __init__(self, before: int = 0) -> None:
        self.data = bytearray()
        self._before = before

    def align(self, size: int) -> int:
        """Go on at a multiple of ``size``; returns where in ``data`` that is."""
        self.data += bytes(-(self._before + len(self.data)) % size)
        return len(self.data)

    def words(self, *values: int) -> int:
        """int32 or uint32; returns where they begin, as all of these do."""
        place = self.align(4)
        self.data += b"".join(struct.pack("<I", value & 0xFFFFFFFF) for value in values)
        return place

    def numbers(self, *values: float) -> int:
        """float64."""
        place = self.align(8)
        self.data += struct.pack(f"<{len(values)}d", *values)
        return place

    def floats(self, *values: float) -> int:
        """float32."""
        place = self.align(4)
        self.data += struct.pack(f"<{len(values)}f", *values)
        return place

    def text(self, text: str) -> int:
        """string."""
        encoded = text.encode() + b"\0"
        place = self.words(len(encoded))
        self.data += encoded
        return place

    def flag(self, value: bool) -> int:
        """bool."""
        self.data.append(value)
        return len(self.data) - 1

    def header(self, frame_id: str, stamp_ns: int = 0) -> int:
        """std_msgs/Header."""
        place = self.words(*divmod(stamp_ns, 1_000_000_000))
        self.text(frame_id)
        return place


@dataclass(frozen=True)
class _Piece:
    """An element's bytes, with the padding in front that it needs, and where in them those lie that are written later."""

    data: bytes
    places: tuple[int, ...]


class _Array:
    """An array message; ``head``, what comes before its elements, ends with their number."""

    def __init__(self, head: _Cdr) -> None:
        self._parts = [_LITTLE_ENDIAN, bytes(head.data)]
        self.size = len(head.data)

    def add(self, piece: _Piece) -> list[int]:
        """Put an element at the end; returns its places, counted from where ``finish`` counts."""
        begin = self.size
        self._parts.append(piece.data)
        self.size += len(piece.data)
        return [begin + place for place in piece.places]

    def finish(self, *rows: tuple[Sequence[int], str, np.ndarray]) -> bytes:
        """The message, once values are written: (where each row of them begins, their type, (N, K) or for all the same (K,))."""
        data = bytearray().join(self._parts)
        for places, kind, values in rows:
            if not len(places):
                continue
            view = np.frombuffer(
                data, kind, (len(data) - len(_LITTLE_ENDIAN)) // np.dtype(kind).itemsize, len(_LITTLE_ENDIAN)
            )
            begin = np.asarray(places) // view.itemsize
            view[begin[:, None] + np.arange(values.shape[-1])] = values
        return bytes(data)


def _stamp(stamp_ns: int) -> np.ndarray:
    return np.array(divmod(stamp_ns, 1_000_000_000))


def _poses(boxes: Boxes) -> np.ndarray:
    """(N, 7) position and quaternion, as ``messages.box_pose``."""
    half = boxes.yaws / 2
    zeros = np.zeros(len(boxes))
    return np.column_stack([boxes.centers, zeros, zeros, np.sin(half), np.cos(half)])


def _columns(places: list[list[int]], count: int) -> list[list[int]]:
    """From the places of each element to those of each kind, also of no elements."""
    return [list(column) for column in zip(*places)] or [[] for _ in range(count)]


# --------------------------------------------------------------------------------------------------- Detection3DArray


@lru_cache(_CACHED)
def _detection(before: int, frame_id: str, name: str) -> _Piece:
    """Later: stamp; score and pose; pose and size."""
    cdr = _Cdr(before)
    stamp = cdr.header(frame_id)
    cdr.words(1)  # results
    cdr.text(name)
    hypothesis = cdr.numbers(*[0.0] * (8 + _COVARIANCE))
    box = cdr.numbers(*[0.0] * 10)
    cdr.text("")  # id
    return _Piece(bytes(cdr.data), (stamp, hypothesis, box))


def detections(boxes: Boxes, stamp_ns: int, frame_id: str) -> bytes:
    """``messages.detections``, serialised."""
    head = _Cdr()
    head.header(frame_id, stamp_ns)
    head.words(len(boxes))
    array = _Array(head)
    places = [array.add(_detection(array.size % 8, frame_id, name)) for name in boxes.names]
    stamps, hypotheses, bodies = _columns(places, 3)
    poses = _poses(boxes)
    return array.finish(
        (stamps, "<i4", _stamp(stamp_ns)),
        (hypotheses, "<f8", np.column_stack([boxes.scores, poses])),
        (bodies, "<f8", np.column_stack([poses, boxes.sizes])),
    )


# ------------------------------------------------------------------------------------------------ DetectedObjectArray


@lru_cache(_CACHED)
def _object(before: int, name: str) -> _Piece:
    """Later: score, pose, size and velocity."""
    cdr = _Cdr(before)
    cdr.text(name)
    numbers = cdr.numbers(*[0.0] * 14)
    return _Piece(bytes(cdr.data), (numbers,))


def objects(boxes: Boxes, stamp_ns: int, frame_id: str, cameras: Sequence[str], stamps: Mapping[str, int]) -> bytes:
    """``messages.objects``, serialised."""
    head = _Cdr()
    head.header(frame_id, stamp_ns)
    head.words(len(cameras))
    for name in cameras:
        head.text(name)
    head.words(len(cameras))
    for name in cameras:
        head.flag(name in stamps)
    head.words(len(cameras))
    for name in cameras:
        head.words(*divmod(stamps.get(name, 0), 1_000_000_000))
    head.flag(not all(name in stamps for name in cameras))
    head.words(len(boxes))
    array = _Array(head)
    places = [array.add(_object(array.size % 8, name)) for name in boxes.names]
    (numbers,) = _columns(places, 1)
    values = np.column_stack([boxes.scores, _poses(boxes), boxes.sizes, boxes.velocities, np.zeros(len(boxes))])
    return array.finish((numbers, "<f8", values))


# -------------------------------------------------------------------------------------------------------- MarkerArray


@lru_cache(_CACHED)
def _marker(
    before: int,
    frame_id: str,
    name: str,
    kind: int,
    action: int = Marker.ADD,
    colour: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    lifetime: tuple[int, int] = (0, 0),
    points: int = 0,
    text: str = "",
) -> _Piece:
    """Later: stamp; id; pose and scale; x, y and z of the points, if there are any."""
    cdr = _Cdr(before)
    stamp = cdr.header(frame_id)
    cdr.text(name)
    identifier = cdr.words(0, kind, action)
    body = cdr.numbers(*[0.0] * 6, 1.0, *[0.0] * 3)
    cdr.floats(*colour)
    cdr.words(*lifetime)
    cdr.flag(False)  # frame_locked
    cdr.words(points)
    ends = cdr.numbers(*[0.0] * 3 * points) if points else 0
    cdr.words(0)  # colors
    cdr.text("")  # texture_resource
    cdr.header("")  # of the texture
    cdr.text("")  # its format
    cdr.words(0, 0)  # its data; uv_coordinates
    cdr.text(text)
    cdr.text("")  # mesh_resource
    cdr.text("")  # name of the mesh_file
    cdr.words(0)  # its data
    cdr.flag(False)  # mesh_use_embedded_materials
    return _Piece(bytes(cdr.data), (stamp, identifier, body, ends))


def markers(scene: Scene) -> bytes:
    """``markers.marker_array``, serialised."""
    boxes, frame = scene.boxes, scene.frame_id
    count = scene.fresh + len(boxes) * (1 + scene.text) + sum(scene.arrows) + len(scene.gone)
    head = _Cdr()
    head.words(count)
    array = _Array(head)
    stamps: list[int] = []
    identifiers: list[int] = []
    values: list[int] = []
    cubes: list[int] = []
    arrows: list[int] = []
    ends: list[int] = []
    texts: list[int] = []

    def add(identifier: int, *arguments: object) -> list[int]:
        places = array.add(_marker(array.size % 8, frame, *arguments))
        stamps.append(places[0])
        identifiers.append(places[1])
        values.append(identifier)
        return places

    if scene.fresh:
        add(0, "", 0, Marker.DELETEALL)
    lifetime = divmod(round(scene.lifetime_s * 1e9), 1_000_000_000)
    names = boxes.names
    looks = {name: plain_markers.rgb_of(name) for name in set(names)}
    for name, score, number, arrow in zip(names, boxes.scores.tolist(), scene.numbers, scene.arrows):
        first = plain_markers.KINDS * number
        clear, solid = (*looks[name], plain_markers.CUBE_ALPHA), (*looks[name], 1.0)
        cubes.append(add(first + plain_markers.CUBE, name, Marker.CUBE, Marker.ADD, clear, lifetime)[2])
        if arrow:
            places = add(first + plain_markers.ARROW, name, Marker.ARROW, Marker.ADD, solid, lifetime, 2)
            arrows.append(places[2])
            ends.append(places[3])
        if scene.text:
            look = (Marker.TEXT_VIEW_FACING, Marker.ADD, solid, lifetime, 0, plain_markers.label_of(name, score))
            texts.append(add(first + plain_markers.TEXT, name, *look)[2])
    for name, identifier in scene.gone:
        add(identifier, name, 0, Marker.DELETE)
    poses, moving = _poses(boxes), np.array(scene.arrows, dtype=bool)
    above = poses.copy()
    above[:, 2] += boxes.sizes[:, 2] / 2 + plain_markers.TEXT_ABOVE
    begin, velocities = boxes.centers[moving], boxes.velocities[moving]
    end = begin + np.column_stack([velocities, np.zeros(len(velocities))])
    return array.finish(
        (stamps, "<i4", _stamp(scene.stamp_ns)),
        (identifiers, "<i4", np.array(values)[:, None]),
        (cubes, "<f8", np.column_stack([poses, boxes.sizes])),
        (arrows, "<f8", np.array([*[0.0] * 6, 1.0, *plain_markers.ARROW_SCALE])),
        (ends, "<f8", np.column_stack([begin, end])),
        (texts, "<f8", np.column_stack([above, np.tile((0.0, 0.0, plain_markers.TEXT_HEIGHT), (len(boxes), 1))])),
    )


# --------------------------------------------------------------------------------------------------------- agreement


def agrees() -> bool:
    """Whether the middleware reads these bytes as the messages that they stand for."""
    sample = Boxes(
        np.arange(6.0).reshape(2, 3), np.arange(6.0, 12.0).reshape(2, 3), np.array([0.25, 1.5]),
        np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([0.75, 0.5]), np.array([1, 0]), ("car", "truck"),
    )  # fmt: skip
    stamp, frame, cameras, stamps = 1_600_000_000_123_456_789, "base_link", ("a", "front"), {"front": 5}
    tracker = MarkerTracker()
    tracker.advance(sample, 1, frame)
    tracker.restart()
    scene = tracker.advance(sample, stamp, frame, 1.5, text=True)
    later = tracker.advance(Boxes.empty(("car",)), stamp, frame)
    return all(
        _reads_as(raw, message)
        for raw, message in (
            (detections(sample, stamp, frame), messages.detections(sample, stamp, frame)),
            (objects(sample, stamp, frame, cameras, stamps), messages.objects(sample, stamp, frame, cameras, stamps)),
            (markers(scene), plain_markers.marker_array(scene)),
            (markers(later), plain_markers.marker_array(later)),
        )
    )


def _reads_as(raw: bytes, message: object) -> bool:
    try:
        expected = serialize_message(message)
        if len(raw) != len(expected):  # of another definition, and not to be read at all
            return False
        found, expected = (deserialize_message(each, type(message)) for each in (raw, expected))  # float32 rounds
        return found == expected
    except Exception:  # the middleware's own kinds
        return False
