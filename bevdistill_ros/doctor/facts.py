"""What was recorded of a rig, for the checks to judge. Times are integer nanoseconds; nothing here needs ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bevdistill_ros.camera_info import Intrinsics
from bevdistill_ros.node.parameters import Settings


@dataclass(frozen=True)
class Publisher:
    """Somebody who offers a topic.

    Attributes:
        node: full name of its node; empty if unknown.
        type: of its messages, as "sensor_msgs/msg/Image".
        reliable: offers reliable delivery.
        latched: keeps its last messages for those who come late (transient local).
    """

    node: str
    type: str
    reliable: bool = True
    latched: bool = False


@dataclass(frozen=True)
class Topic:
    """A topic that the detector subscribes to: its full name, the type it expects, and who publishes it."""

    name: str
    type: str
    publishers: tuple[Publisher, ...] = ()


@dataclass(frozen=True)
class Arrival:
    """One image as it came.

    Attributes:
        steady_ns: when, on a clock that never jumps.
        now_ns: when, on the node's clock (which is /clock with use_sim_time).
        stamp_ns: its header.stamp.
        size: bytes of its data.
        digest: of its data; equal for equal pictures.
    """

    steady_ns: int
    now_ns: int
    stamp_ns: int
    size: int = 0
    digest: int = 0


@dataclass(frozen=True, eq=False)
class CameraFacts:
    """What was recorded of one camera.

    Attributes:
        name: as in the parameter `cameras`.
        image: its image topic.
        info: its CameraInfo topic; None where the calibration file takes its place.
        arrivals: its images, in the order of their coming.
        encoding: of the newest image: `encoding` of an Image, `format` of a CompressedImage.
        sizes: (width, height) of the images in pixels, each once, in the order of their coming.
        picture: pixels of the newest image (height, width, 3) uint8 BGR; None if there is none.
        picture_problem: why it cannot be decoded; empty if it can.
        info_message: the newest sensor_msgs/CameraInfo, or anything with its fields.
        info_variants: how many different ones came.
        intrinsics: how the camera images, as the detector will take it; None if that is not known.
        intrinsics_problem: why its CameraInfo is unusable; empty if it is not.
        frame: the frame that TF is asked for; empty where neither image nor CameraInfo names one.
        mount_from_file: the pose is the calibration file's.
        base_T_camera: (4, 4) pose of its optical frame as mounted; None if not known.
        pose_problem: why it is not known, or not exact.
    """

    name: str
    image: Topic
    info: Topic | None = None
    arrivals: tuple[Arrival, ...] = ()
    encoding: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    picture: np.ndarray | None = None
    picture_problem: str = ""
    info_message: Any = None
    info_variants: int = 0
    intrinsics: Intrinsics | None = None
    intrinsics_problem: str = ""
    frame: str = ""
    mount_from_file: bool = False
    base_T_camera: np.ndarray | None = None
    pose_problem: str = ""

    @property
    def stamps(self) -> list[int]:
        """The stamps that are not zero, in the order of their coming."""
        return [arrival.stamp_ns for arrival in self.arrivals if arrival.stamp_ns]


@dataclass(frozen=True, eq=False)
class Edge:
    """A transform on TF, ``parent_T_child``.

    Attributes:
        parent, child: frames.
        static: it came on /tf_static.
        rotation: (3, 3) of the newest message; None where its quaternion is no rotation.
        delays_ns: now less stamp at each arrival; empty for static ones.
        span_s: seconds between the first arrival and the last.
    """

    parent: str
    child: str
    static: bool = True
    rotation: np.ndarray | None = None
    delays_ns: tuple[int, ...] = ()
    span_s: float = 0.0


@dataclass(frozen=True)
class DdsFacts:
    """What is known of the transport. ``segments``: sizes in bytes of the Fast DDS segments in shared memory, this
    process's own left out; ``free``: bytes of shared memory left, None where there is none."""

    rmw: str = ""
    free: int | None = None
    segments: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """The checkpoint. ``problem`` says why it cannot be used; then the rest may be empty."""

    given: str
    path: str = ""
    problem: str = ""
    size: int = 0
    sha256: str = ""
    name: str = ""
    classes: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceFacts:
    """Where the network would run. ``problem`` says why it cannot."""

    asked: str
    device: str = ""
    description: str = ""
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that was recorded.

    Attributes:
        settings: the detector's, with all cameras named.
        seconds: how long was listened.
        cameras: in the order of the settings.
        topics: every topic of the graph that has a publisher, and its types.
        edges: TF as heard.
        static_publishers: of /tf_static.
        motion_problem: why the robot's motion between images cannot be compensated; empty if it can.
        unknown_parameters: given, but not among the detector's.
        calibrated: the cameras that the calibration file names.
        sim_time: the node follows /clock.
        clock_publishers: how many publish /clock.
    """

    settings: Settings
    seconds: float
    cameras: tuple[CameraFacts, ...] = ()
    topics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    static_publishers: tuple[Publisher, ...] = ()
    motion_problem: str = ""
    unknown_parameters: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    sim_time: bool = False
    clock_publishers: int = 0
    dds: DdsFacts = field(default_factory=DdsFacts)
    model: ModelFacts = field(default_factory=lambda: ModelFacts(""))
    device: DeviceFacts = field(default_factory=lambda: DeviceFacts(""))
