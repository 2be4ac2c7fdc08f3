"""A rig file out of a bag: which topics it has, how their frames hang together, and when its cameras fire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bevdistill_ros.camera_offsets import LEARNED, estimate_offsets
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.convert import annotations
from bevdistill_ros.training.convert.bag import Bag
from bevdistill_ros.training.convert.drops import Drops
from bevdistill_ros.training.convert.frames import NoPoseThen, Unconnected
from bevdistill_ros.training.convert.plan import choose_references
from bevdistill_ros.training.convert.rig_file import Annotations, CameraTopics, LidarTopic, Poses, Rig
from bevdistill_ros.training.convert.scan import CLOUDS, IMAGES, INFOS, ODOMETRY, TF, Part, scan

BASE_FRAMES = ("base_link", "base_footprint", "ego_vehicle", "vehicle", "base")
GLOBAL_FRAMES = ("map", "odom", "world", "earth")
KEYFRAME_PERIOD = 500_000_000

_HEAD = """\
# What `convert --guess` made of {bag}. docs/convert.md explains the fields. Look over above all:
"""


def guess(paths: Sequence[Path]) -> str:
    """Text of a rig file that fits the first of the bags, and has topics that all of them have.

    Raises:
        UserError: there are no cameras, or no poses.
    """
    with Bag(paths[0]) as bag:
        notes: list[str] = []
        common = set(bag.types)
        for path in paths[1:]:
            with Bag(path) as other:
                common &= set(other.types)
        topics = {topic: kind for topic, kind in bag.types.items() if topic in common and bag.counts[topic]}
        cameras, lidars = _cameras(topics, notes), _lidars(topics, bag, notes)
        if not cameras:
            raise UserError(f"{bag.path}: has no image topic with a camera_info topic beside it")
        odometry = sorted(topic for topic, kind in topics.items() if kind in ODOMETRY)
        poses = Poses(odometry="" if TF in topics or not odometry else odometry[0])
        marks = _annotations(topics, notes)
        rig = Rig(cameras, lidars, annotations=marks, poses=poses)
        part = scan(bag, rig, Drops())[0]
        base, fixed = _frames(part, rig, bag, notes)
        offsets = _offsets(part, rig, notes)
    return _HEAD.format(bag=bag.path.name) + _text(rig, base, fixed, offsets, notes)


def _cameras(topics: dict[str, str], notes: list[str]) -> dict[str, CameraTopics]:
    """By channel; of a camera that has compressed and raw images, the compressed."""
    cameras: dict[str, CameraTopics] = {}
    for kind in IMAGES:
        for topic in sorted(name for name, found in topics.items() if found == kind):
            if topic.endswith("/compressedDepth"):
                continue
            camera = CameraTopics(topic)
            if topics.get(camera.info_topic) not in INFOS:
                notes.append(f"{topic} is left out: there is no {camera.info_topic}")
                continue
            known = [other.info_topic for other in cameras.values()]
            if camera.info_topic in known:
                notes.append(f"{topic} is left out: a second image topic of that camera")
                continue
            rectified = "rect" in topic.split("/")[-2 if topic.endswith("/compressed") else -1]
            cameras[_channel("CAM", camera.info_topic)] = CameraTopics(topic, rectified=rectified)
    # The one that looks ahead is the reference of most rigs.
    return dict(sorted(cameras.items(), key=lambda row: ("FRONT" not in row[0], len(row[0]), row[0])))


def _lidars(topics: dict[str, str], bag: Bag, notes: list[str]) -> dict[str, LidarTopic]:
    """The LiDAR with the most messages: others are mostly its points again, filtered or in another frame."""
    clouds = sorted(
        (name for name, kind in topics.items() if kind in CLOUDS), key=lambda name: (-bag.counts[name], name)
    )
    if not clouds:
        notes.append("there is no LiDAR: the first camera's images are the keyframes")
        return {}
    if clouds[1:]:
        notes.append(f"other point clouds: {', '.join(clouds[1:])}")
    return {"LIDAR_TOP": LidarTopic(clouds[0])}


def _annotations(topics: dict[str, str], notes: list[str]) -> Annotations:
    found = [topic for kind in annotations.KINDS for topic in sorted(topics) if topics[topic] == kind]
    # Markers are mostly for looking at, and a detector's own output is no truth.
    truth = [topic for topic in found if topics[topic] == annotations.DETECTIONS]
    if others := [topic for topic in found if topic not in truth[:1]]:
        notes.append(f"could hold annotations, too: {', '.join(others)}")
    return Annotations(truth[0] if truth else "")


def _channel(prefix: str, topic: str) -> str:
    """CAM_FRONT of /cam_front/camera_info or /sensors/camera/front/camera_info."""
    words = re.findall(r"[A-Za-z0-9]+", topic.rsplit("/", 1)[0])
    words = [word for word in words if word.lower() not in ("cam", "camera", "cameras", "sensors", "sensor", "sensing")]
    words = [word.removeprefix("cam").removeprefix("era") or word for word in words]
    return "_".join([prefix, *(word.upper() for word in words)])


def _frames(part: Part, rig: Rig, bag: Bag, notes: list[str]) -> tuple[str, str]:
    """Base and global frame."""
    frames = part.frames
    sensor = part.streams[rig.topics[rig.reference]].frames[0][1].removeprefix("/")
    chain = [sensor]
    while (above := frames.parent(chain[-1])) is not None and above not in chain:
        chain.append(above)
    if len(chain) < 2:
        raise UserError(
            f"{bag.path}: frame '{sensor}' of {rig.topics[rig.reference]} hangs from no other on /tf or /tf_static; "
            f"there are {', '.join(frames.names) or 'none'}"
        )
    base = next((name for name in BASE_FRAMES if name in chain), None)
    if base is None:
        # What moves against the frame above it is the vehicle.
        base = next((name for name in chain if frames.moves(name)), chain[-1])
        notes.append(f"base_frame is none of {', '.join(BASE_FRAMES)}")
    above = chain[chain.index(base) + 1 :]
    fixed = next((name for name in GLOBAL_FRAMES if name in above), above[-1] if above else "map")
    if not above:
        notes.append(f"global_frame: nothing in the bag says where {base} is; name a topic in poses.odometry")
    for channel, topic in rig.topics.items():
        try:
            frames.lookup(base, part.streams[topic].frames[0][1], part.streams[topic].stamps[0])
        except Unconnected as error:
            notes.append(f"{channel}: {error}")
        except NoPoseThen:
            pass
    return base, fixed


def _offsets(part: Part, rig: Rig, notes: list[str]) -> dict[str, float]:
    """Nominal offset (ms) of every camera."""
    stamps = {
        channel: list(part.streams[topic].stamps) for channel, topic in rig.topics.items() if channel in rig.cameras
    }
    zero = dict.fromkeys(stamps, 0.0)
    estimate = estimate_offsets({channel: found[:500] for channel, found in stamps.items()})
    if estimate.state != LEARNED or estimate.period_ns is None:
        notes.append(f"offset_ms: the cameras' times tell no pattern ({estimate.reason})")
        return zero
    offsets = np.array([estimate.offsets_ns[channel] for channel in stamps])
    period = estimate.period_ns
    reference = part.streams[rig.topics[rig.reference]]
    marked = part.streams.get(rig.annotations.topic)
    keyframes = choose_references(reference, marked, KEYFRAME_PERIOD)
    # When the set about a keyframe begins, on the circle of the cameras' period.
    first = part.streams[rig.topics[list(stamps)[int(np.argmin(offsets))]]]
    phases = np.array([(first.nearest(keyframe) - keyframe) % period for keyframe in keyframes[:500]])
    angles = np.exp(2j * np.pi * phases / period)
    if abs(angles.mean()) < 0.9:
        notes.append("offset_ms: the cameras are not triggered with the LiDAR; these are times against each other")
        return {channel: round(float(offset - offsets.mean()) * 1e-6, 1) for channel, offset in zip(stamps, offsets)}
    start = float(np.angle(angles.mean())) / (2 * np.pi) * period
    start -= round((start + offsets.max() / 2) / period) * period  # the set whose middle is nearest to the keyframe
    return {channel: round((start + float(offset)) * 1e-6, 1) for channel, offset in zip(stamps, offsets)}


def _text(rig: Rig, base: str, fixed: str, offsets: dict[str, float], notes: list[str]) -> str:
    lines = [f"# - {note}" for note in notes] or ["# - base_frame and global_frame"]
    lines += [f"base_frame: {base}", f"global_frame: {fixed}", "cameras:"]
    for channel, camera in rig.cameras.items():
        fields: list[tuple[str, Any]] = [("image", camera.image), ("offset_ms", offsets[channel])]
        if camera.rectified:
            fields.append(("rectified", "true"))
        lines.append(f"  {channel}: {{{', '.join(f'{name}: {value}' for name, value in fields)}}}")
    if rig.lidars:
        lines.append("lidars:")
        lines += [f"  {channel}: {{topic: {lidar.topic}}}" for channel, lidar in rig.lidars.items()]
    if rig.annotations.topic:
        lines.append(f"annotations: {{topic: {rig.annotations.topic}}}")
    if rig.poses.odometry:
        lines.append(f"poses: {{odometry: {rig.poses.odometry}}}")
    return "\n".join(lines) + "\n"
