"""Where cameras are: frames and paths on TF, and whether a pose can be that of an optical frame."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

import numpy as np

from bevdistill_ros.camera_offsets import MS, median
from bevdistill_ros.doctor.facts import CameraFacts, Edge, Facts
from bevdistill_ros.doctor.findings import ERROR, NOTE, WARNING, Finding
from bevdistill_ros.doctor.stamps import delays_of, duration
from bevdistill_ros.geometry import rotation_from_quaternion
from bevdistill_ros.visualise import azimuth

BODY_Q_OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""Quaternion (x, y, z, w) of the optical frame (x right, y down, z forward) in its body frame (x forward, y left, z up)."""
STEEP_DEG, ROLL_DEG = 35.0, 20.0
HIGH_M = 4.0
SLOW_TF_HZ = 5.0


class Tree:
    """Who hangs below whom on TF."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = tuple(edges)
        self.parents = {edge.child: edge.parent for edge in self.edges}
        self.frames = sorted(set(self.parents) | set(self.parents.values()))

    def path(self, frame: str) -> list[str]:
        """The frame, its parent, and so on to the root; ends where it would go round."""
        path = [frame]
        while path[-1] in self.parents and self.parents[path[-1]] not in path:
            path.append(self.parents[path[-1]])
        return path

    def between(self, a: str, b: str) -> list[Edge] | None:
        """The transforms that lead from one frame to another; None if they are not connected."""
        up_a, up_b = self.path(a), self.path(b)
        if up_a[-1] != up_b[-1]:
            return None
        children = set(up_a) ^ set(up_b)
        return [edge for edge in self.edges if edge.child in children]

    def similar(self, frame: str) -> str:
        """Known frames that one may have meant, in words."""
        if not self.frames:
            return "nothing is on TF at all"
        names = difflib.get_close_matches(frame, self.frames, n=3, cutoff=0.4) or self.frames[:6]
        return f"TF has {', '.join(names)}"


def check_tree(facts: Facts) -> list[Finding]:
    """TF as a whole: the base frame, double parents, the way to the fixed frame."""
    tree, settings, findings = Tree(facts.edges), facts.settings, []
    by_tf = [camera for camera in facts.cameras if not camera.mount_from_file]
    for child in tree.parents:
        parents = sorted({edge.parent for edge in tree.edges if edge.child == child})
        if len(parents) > 1:
            what = f"frame '{child}' has {len(parents)} parents, {', '.join(parents)}: it jumps between them"
            findings.append(Finding(ERROR, "tf", "tf", what, "end one of the two publishers"))
    if by_tf and settings.base_frame not in tree.frames:
        what = f"base_frame '{settings.base_frame}' is not on TF"
        advice = f"set base_frame ({tree.similar(settings.base_frame)}), or start robot_state_publisher"
        findings.append(Finding(ERROR, "tf", "tf", what, advice))
    return [*findings, *_fixed_frame(facts, tree)]


def _fixed_frame(facts: Facts, tree: Tree) -> list[Finding]:
    """Is the robot's motion known?"""
    base, fixed = facts.settings.base_frame, facts.settings.fixed_frame
    loss = "motion between the images of a set is not compensated"
    if not fixed:
        return [Finding(NOTE, "motion", "tf", f"fixed_frame is empty: {loss}", "name the odometry's frame, as odom")]
    edges = tree.between(fixed, base) if fixed in tree.frames else None
    if edges is None:
        what = f"no way from '{base}' to fixed_frame '{fixed}' on TF: {loss}"
        advice = f"start odometry, or set fixed_frame ({tree.similar(fixed)}; empty: without)"
        return [Finding(WARNING, "motion", "tf", what, advice)]
    findings = []
    if facts.motion_problem:
        advice = (
            "the odometry's stamps must be on the cameras' clock and reach up to the images: see its rate and delay"
        )
        findings.append(Finding(WARNING, "motion", "tf", facts.motion_problem, advice))
    delays = [delay for camera in facts.cameras for delay in delays_of(camera)]
    for edge in edges:
        if edge.static or len(edge.delays_ns) < 2:
            continue
        rate = (len(edge.delays_ns) - 1) / edge.span_s if edge.span_s > 0 else math.inf
        if rate < SLOW_TF_HZ:
            what = f"{edge.parent} -> {edge.child} comes {rate:.1f} times a second: motion is interpolated coarsely"
            findings.append(Finding(WARNING, "motion", "tf", what, "raise the odometry's rate to 20 Hz or more"))
        if not delays:
            continue
        late = median(edge.delays_ns) - median(delays)
        if late > facts.settings.tf_timeout_ms * MS:
            what = f"{edge.parent} -> {edge.child} comes {duration(late)} later than the images of its time"
            advice = f"raise tf_timeout_ms ({facts.settings.tf_timeout_ms:g}) above that, or make odometry faster"
            findings.append(Finding(WARNING, "motion", "tf", what, advice))
    return findings


def check_mount(camera: CameraFacts, facts: Facts) -> list[Finding]:
    """One camera's pose: is it known, and can it be that of an optical frame?"""
    if camera.base_T_camera is None:
        return _no_pose(camera, facts)
    findings = []
    if camera.pose_problem:
        what, advice = camera.pose_problem, "a mounting that does not move belongs on /tf_static"
        findings.append(Finding(WARNING, "tf", camera.name, what, advice))
    axes = check_axes(camera, facts)
    return [*findings, *(axes or check_height(camera))]


def _no_pose(camera: CameraFacts, facts: Facts) -> list[Finding]:
    """Why the pose is not known."""
    base, frame, tree = facts.settings.base_frame, camera.frame, Tree(facts.edges)
    if not camera.arrivals:
        return []  # the missing images are the trouble; without them the frame is not known either
    mount = f"`ros2 run tf2_ros static_transform_publisher --frame-id {base} --child-frame-id {frame} ...`"
    if not frame:
        what = "neither the image nor its CameraInfo has a header.frame_id"
        advice = "let the driver fill it with the optical frame's name, or give frame_id in calibration_file"
    elif frame not in tree.frames:
        what = f"its frame '{frame}' is not on TF"
        advice = f"publish its mounting, {mount}, or give base_T_camera in calibration_file; {tree.similar(frame)}"
    elif base in tree.frames and tree.between(frame, base) is None:
        what = (
            f"no path on TF: '{frame}' is below '{tree.path(frame)[-1]}', base_frame '{base}' below "
            f"'{tree.path(base)[-1]}'"
        )
        advice = f"publish the transform that joins them, as {mount}"
    elif base not in tree.frames:
        return []  # told once for all cameras
    else:
        what = camera.pose_problem or f"no transform {base} <- {frame}"
        advice = "a mounting that does not move belongs on /tf_static; else its stamps must be on the cameras' clock"
    return [Finding(ERROR, "tf", camera.name, what, advice)]


def check_axes(camera: CameraFacts, facts: Facts) -> list[Finding]:
    """Does the optical axis (z) look along the ground, and x to the right of the picture?"""
    R = camera.base_T_camera[:3, :3]
    # Angles of z above the ground, and of the picture's turn about it; the latter is undefined for a steep axis.
    elevation = math.degrees(math.asin(np.clip(R[2, 2], -1.0, 1.0)))
    if elevation > 90 - STEEP_DEG:
        return [_body_frame(camera, facts)]
    if elevation < STEEP_DEG - 90:
        what = f"its optical axis (z of '{camera.frame}') points {-elevation:.0f} degrees down"
        advice = "a frame with z down is no optical frame: optical is x right, y down, z FORWARD"
        return [Finding(ERROR, "mounting", camera.name, what, advice)]
    findings = []
    if abs(elevation) > STEEP_DEG:
        what = f"its optical axis points {abs(elevation):.0f} degrees {'up' if elevation > 0 else 'down'}"
        advice = "look at --picture: is the horizon where it is in the image? If not, correct pitch in the transform"
        findings.append(Finding(WARNING, "mounting", camera.name, what, advice))
    roll = math.degrees(math.atan2(-R[2, 0], -R[2, 1]))  # clockwise, seen from behind the camera
    if abs(roll) > ROLL_DEG:
        way = "clockwise" if roll > 0 else "counter-clockwise"
        what = (
            f"it is turned {way} by {abs(roll):.0f} degrees about its optical axis: x does not look right, nor y down"
        )
        advice = (
            "if the camera is not really mounted so, correct the transform (optical: x right, y down, z forward); "
            "if it is, rotate the image before the detector: the network knows upright pictures only"
        )
        findings.append(Finding(ERROR if abs(roll) > 45 else WARNING, "mounting", camera.name, what, advice))
    return findings or _named_side(camera)


def _body_frame(camera: CameraFacts, facts: Facts) -> Finding:
    """z points up: a body frame in an optical frame's place."""
    base, frame = facts.settings.base_frame, camera.frame
    if camera.mount_from_file:
        what = "base_T_camera of calibration_file has z up: a BODY frame (x forward), not the optical one"
        x, y, z, w = BODY_Q_OPTICAL
        advice = f"turn its rotation: for a camera that looks forward it is [{x}, {y}, {z}, {w}] (x, y, z, w)"
        return Finding(ERROR, "body_frame", camera.name, what, advice)
    if frame == base:
        what = f"its images are in frame '{frame}', the base frame itself, not in an optical frame"
    else:
        what = f"'{frame}' is a BODY frame (its z looks up, its x forward), not the optical frame of the images"
    optical = [edge.child for edge in facts.edges if edge.parent == frame and frame != base and _is_optical(edge)]
    if optical:
        advice = (
            f"TF has the optical frame, '{optical[0]}': name it in header.frame_id, or as frame_id in calibration_file"
        )
    else:
        x, y, z, w = BODY_Q_OPTICAL
        new = f"{frame}_optical"
        advice = (
            f"add `ros2 run tf2_ros static_transform_publisher --frame-id {frame} --child-frame-id {new} --qx {x} "
            f"--qy {y} --qz {z} --qw {w}` and name {new} in header.frame_id, or as frame_id in calibration_file"
        )
    return Finding(ERROR, "body_frame", camera.name, what, advice)


def _is_optical(edge: Edge) -> bool:
    """Does the child relate to its parent as an optical frame to its body frame?"""
    return edge.rotation is not None and np.allclose(edge.rotation, rotation_from_quaternion(BODY_Q_OPTICAL), atol=0.1)


def _named_side(camera: CameraFacts) -> list[Finding]:
    """A camera that says left in its name and looks right: two transforms or two cables are exchanged.

    Names decide nothing in the detector; but people name cameras by where they look, and nothing else tells.
    """
    angle = math.degrees(azimuth(camera.base_T_camera))
    words = camera.name.lower().replace("-", "_").replace("/", "_").split("_")
    sides = {"left": (30.0, 150.0), "right": (-150.0, -30.0)}
    if "left" in words and "right" in words:
        return []
    for word, (low, high) in sides.items():
        # Half of a stereo pair looks ahead, whatever its name: only the opposite side is a contradiction.
        if word in words and -high <= angle <= -low:
            what = f"is named '{word}', but looks {direction(angle)}"
            return [Finding(WARNING, "mounting", camera.name, what, "are two transforms or two cables exchanged?")]
    ahead = "front" in words and abs(angle) > 120
    behind = bool({"back", "rear"} & set(words)) and abs(angle) < 60
    if ahead or behind:
        what = f"looks {direction(angle)}, against its name"
        return [Finding(WARNING, "mounting", camera.name, what, "are two transforms or two cables exchanged?")]
    return []


def check_height(camera: CameraFacts) -> list[Finding]:
    """How high above the base frame's origin, which is on the ground."""
    z = float(camera.base_T_camera[2, 3])
    if 0.0 < z <= HIGH_M:
        return []
    what = f"sits {z:.2f} m above the base frame's origin"
    if not camera.base_T_camera[:3, 3].any():
        what = "sits exactly in the base frame's origin: its mounting was not measured"
    advice = "the base frame's origin must be on the ground (base_footprint?), and the mounting measured from there"
    return [Finding(WARNING, "mounting", camera.name, what, advice)]


def check_same_pose(cameras: Sequence[CameraFacts]) -> list[Finding]:
    """Two cameras in the same place that look the same way: a copied transform."""
    placed = [camera for camera in cameras if camera.base_T_camera is not None]
    findings = []
    for i, one in enumerate(placed):
        for other in placed[:i]:
            if np.allclose(one.base_T_camera, other.base_T_camera, atol=1e-3):
                what = f"has the same pose as '{other.name}'"
                advice = "one of the two transforms is a copy, or both images name one frame"
                findings.append(Finding(ERROR, "mounting", one.name, what, advice))
                break
    return findings


def direction(degrees: float) -> str:
    """An azimuth (counter-clockwise from forward) in words."""
    if abs(degrees) < 0.5:
        return "ahead"
    if abs(degrees) > 179.5:
        return "back"
    return f"{abs(degrees):.0f} degrees to the {'left' if degrees > 0 else 'right'}"
