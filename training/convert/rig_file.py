"""The rig file: which topics and frames of a bag are which channels of a nuScenes dataset, and how keyframes are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bevdistill_ros.files import read_yaml
from bevdistill_ros.plain_data import from_dict


@dataclass(frozen=True)
class CameraTopics:
    """One camera.

    Attributes:
        image: topic of sensor_msgs/CompressedImage or Image.
        info: topic of its sensor_msgs/CameraInfo; '' takes `camera_info` beside the image topic.
        frame: optical frame; '' takes the image's header.frame_id.
        offset_ms: nominal time of exposure after the keyframe's (negative: before).
        rectified: the images are undistorted by the CameraInfo's P; else they are raw, and its K and D hold.
    """

    image: str
    info: str = ""
    frame: str = ""
    offset_ms: float = 0.0
    rectified: bool = False

    @property
    def info_topic(self) -> str:
        """``info``, or what image_transport would listen to."""
        if self.info:
            return self.info
        parts = self.image.split("/")
        if parts[-1] == "compressed":
            parts.pop()
        return "/".join([*parts[:-1], "camera_info"])


@dataclass(frozen=True)
class LidarTopic:
    """One LiDAR.

    Attributes:
        topic: of sensor_msgs/PointCloud2.
        frame: '' takes the cloud's header.frame_id.
        offset_ms: nominal time of the sweep after the keyframe's; the first LiDAR's sweep is the keyframe.
        compensate: bring every point to the time of the stamp, where the cloud has a time for each.
    """

    topic: str
    frame: str = ""
    offset_ms: float = 0.0
    compensate: bool = True


@dataclass(frozen=True)
class Annotations:
    """Where the boxes come from; without a topic, samples have none.

    Attributes:
        topic: of vision_msgs/Detection3DArray, visualization_msgs/MarkerArray or bevdistill_ros/DetectedObjectArray.
        frame: '' takes the messages' header.frame_id.
        classes: nuScenes category, or detection class, by the label in the bag. Labels that are one or the other need no entry;
            '' leaves a label out.
        tracks: equal ids are one object. Without, every box is an object of its own, and has no velocity.
        min_score: boxes below are left out.
        max_gap_ms: between two messages that a keyframe's boxes are interpolated from.
    """

    topic: str = ""
    frame: str = ""
    classes: dict[str, str] = field(default_factory=dict)
    tracks: bool = True
    min_score: float = 0.0
    max_gap_ms: float = 600.0

    def __post_init__(self) -> None:
        if not self.max_gap_ms > 0:
            raise ValueError("max_gap_ms must be positive")


@dataclass(frozen=True)
class Keyframes:
    """How keyframes are chosen.

    Attributes:
        rate: keyframes a second, at most.
        tolerance_ms: how far a reading may be from its nominal time; 0: half of its topic's period, at most 50 ms.
        max_scene_s: a longer recording becomes several scenes.
        max_gap_s: where consecutive keyframes are further apart, another scene begins.
    """

    rate: float = 2.0
    tolerance_ms: float = 0.0
    max_scene_s: float = 60.0
    max_gap_s: float = 1.6

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.max_scene_s > 0 and self.max_gap_s > 0):
            raise ValueError("rate, max_scene_s and max_gap_s must be positive")
        if self.tolerance_ms < 0:
            raise ValueError("tolerance_ms must not be negative")


@dataclass(frozen=True)
class Poses:
    """How the vehicle's pose is found at a time.

    Attributes:
        odometry: topic of nav_msgs/Odometry, which takes the place of what /tf says of that pair of frames; '' for none.
        max_gap_ms: between two poses that are interpolated.
        max_extrapolation_ms: how far before the first pose or after the last one.
    """

    odometry: str = ""
    max_gap_ms: float = 250.0
    max_extrapolation_ms: float = 20.0

    def __post_init__(self) -> None:
        if not (self.max_gap_ms > 0 and self.max_extrapolation_ms >= 0):
            raise ValueError("max_gap_ms must be positive, max_extrapolation_ms not negative")


@dataclass(frozen=True)
class Rig:
    """A rig file. Channels are names of nuScenes' kind, CAM_FRONT and LIDAR_TOP; the first camera is the reference's stand-in
    where there is no LiDAR."""

    cameras: dict[str, CameraTopics]
    lidars: dict[str, LidarTopic] = field(default_factory=dict)
    base_frame: str = "base_link"
    global_frame: str = "map"
    annotations: Annotations = field(default_factory=Annotations)
    keyframes: Keyframes = field(default_factory=Keyframes)
    poses: Poses = field(default_factory=Poses)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("cameras must name at least one")
        for name in (*self.cameras, *self.lidars):
            if not name or not all(letter.isalnum() or letter == "_" for letter in name) or "__" in name:
                raise ValueError(
                    f"channel '{name}' must be of letters, digits and single '_', as it is part of file names"
                )
        topics = [camera.image for camera in self.cameras.values()] + [lidar.topic for lidar in self.lidars.values()]
        if twice := [topic for topic in topics if topics.count(topic) > 1]:
            raise ValueError(f"topic '{twice[0]}' is given twice")
        if both := set(self.cameras) & set(self.lidars):
            raise ValueError(f"channel '{both.pop()}' is a camera and a LiDAR")

    @property
    def reference(self) -> str:
        """The channel whose readings are the keyframes."""
        return next(iter(self.lidars or self.cameras))

    @property
    def topics(self) -> dict[str, str]:
        """Topic of every channel."""
        images = {channel: camera.image for channel, camera in self.cameras.items()}
        return {**images, **{channel: lidar.topic for channel, lidar in self.lidars.items()}}

    def offset(self, channel: str) -> int:
        """Nominal ns after the keyframe."""
        sensor = self.cameras[channel] if channel in self.cameras else self.lidars[channel]
        return round(sensor.offset_ms * 1e6)

    def frame(self, channel: str) -> str:
        """The frame that the rig file gives a channel; '' for the messages' own."""
        return self.cameras[channel].frame if channel in self.cameras else self.lidars[channel].frame


def load_rig(path: str | Path) -> Rig:
    """Read a rig file.

    Raises:
        UserError: it is missing, not YAML, or a field is unknown, missing or wrong.
    """
    return from_dict(Rig, read_yaml(Path(path)), str(path))
