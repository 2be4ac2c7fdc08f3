"""The detector node's parameters: one table that declares, describes, checks and documents them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bevdistill_ros.errors import UserError
from bevdistill_ros.paths import DEFAULT_MODEL
from bevdistill_ros.runtime.backends import BACKENDS, EXECUTIONS

# When a parameter may change.
START = "read only: fixed when the node starts"
CONFIGURE = "only while the node is unconfigured"
ALWAYS = "at any time"


def _parameter(
    default: Any,
    description: str,
    when: str = CONFIGURE,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    element: type = str,
) -> Any:
    """A field of ``Settings`` that is a ROS parameter; ``element`` is the type inside of a list."""
    metadata = {
        "description": description,
        "when": when,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices),
    }
    return field(default=default, metadata={**metadata, "element": element})


@dataclass(frozen=True)
class Settings:
    """All parameters, checked. Fields are the ROS parameters of the same names; a tuple is a list of strings or
    doubles."""

    autostart: bool = _parameter(
        True, "Configure and activate without being asked. Set it to false under a lifecycle manager.", START
    )
    diagnostics_period_s: float = _parameter(
        1.0, "Seconds between two messages on /diagnostics.", START, minimum=0.1, maximum=60.0
    )

    model: str = _parameter(
        DEFAULT_MODEL, "Checkpoint file of the network, what was exported from one, or the name of shipped weights."
    )
    device: str = _parameter("auto", "Where the network runs: auto (CUDA where there is any), cpu, cuda or cuda:N.")
    backend: str = _parameter(
        "auto",
        "What runs the network: torch; torch_bfloat16, on CPUs and GPUs that have it; torch_float16, on GPUs; onnxruntime, for "
        "an exported model; auto (torch_bfloat16 for lift-splat models where processor or GPU are fast in it, else on a CPU "
        "what was exported, if it is beside the checkpoint, else torch).",
        choices=BACKENDS,
    )
    execution: str = _parameter(
        "auto",
        "How PyTorch goes through the network: eager, operator by operator; graph, recorded as a CUDA graph; compiled, by "
        "torch.compile, which takes minutes when it starts; auto (graph on CUDA, else eager).",
        choices=EXECUTIONS,
    )
    onnx_providers: tuple[str, ...] = _parameter(
        ("CPUExecutionProvider",),
        "ONNX Runtime's execution providers for an exported model, the preferred one first.",
    )
    torch_threads: int = _parameter(
        0, "CPU threads of the network; 0 leaves PyTorch's own choice.", minimum=0, maximum=256
    )
    decode_threads: int = _parameter(
        0, "Threads that decode and preprocess images; 0: one a camera, but no more than cores.", minimum=0, maximum=64
    )
    warm_up: bool = _parameter(
        True, "Run the network once while configuring, so that the first images do not wait for it."
    )

    cameras: tuple[str, ...] = _parameter(
        (), "Camera names; empty: those that the checkpoint was trained on, in lower case."
    )
    image_transport: str = _parameter(
        "compressed",
        "compressed (sensor_msgs/CompressedImage) or raw (sensor_msgs/Image).",
        choices=("compressed", "raw"),
    )
    image_topic: str = _parameter(
        "",
        "Image topic with {camera} for the name; empty: {camera}/image_raw/compressed, or {camera}/image_raw for raw.",
    )
    camera_info_topic: str = _parameter("{camera}/camera_info", "CameraInfo topic with {camera} for the name.")
    rectified: bool = _parameter(False, "Images are rectified already: CameraInfo's P holds instead of K and D.")
    reliability: str = _parameter(
        "best_effort",
        "QoS of the images and CameraInfos: best_effort takes any publisher; reliable takes reliable ones only.",
        choices=("best_effort", "reliable"),
    )
    queue_depth: int = _parameter(5, "QoS history depth of each image subscription.", minimum=1, maximum=100)

    base_frame: str = _parameter("base_link", "Frame of the boxes: x forward, y left, z up.")
    fixed_frame: str = _parameter(
        "odom", "Frame in which the robot's motion between the images of a set is compensated; empty: not at all."
    )
    calibration_file: str = _parameter(
        "", "YAML file that replaces CameraInfo or TF for the cameras it names; see config/nuscenes_rig.yaml."
    )
    tf_timeout_ms: float = _parameter(
        100.0, "Longest wait for the transforms of a set of images.", ALWAYS, minimum=0.0, maximum=5000.0
    )
    tf_max_age_ms: float = _parameter(
        1000.0,
        "A moving camera mount whose newest transform is older than this beside its image counts as unknown.",
        ALWAYS,
        minimum=0.0,
        maximum=60000.0,
    )

    reference_camera: str = _parameter("", "Camera whose stamp is the time of the boxes; empty: the first.")
    camera_offsets_ms: tuple[float, ...] = _parameter(
        (),
        "When each camera exposes within a set, in the order of `cameras`, up to a common shift; empty: learnt.",
        element=float,
    )
    tolerance_ms: float = _parameter(
        20.0,
        "Greatest difference of stamps within a set, once the offsets are subtracted: at least twice their jitter.",
        minimum=0.1,
        maximum=1000.0,
    )
    deadline_ms: float = _parameter(
        100.0,
        "How long after it is due a missing image is waited for; then the set goes on without it.",
        minimum=1.0,
        maximum=10000.0,
    )
    min_cameras: int = _parameter(
        0, "Sets with fewer cameras are dropped; 0: sets without more than half of the cameras.", minimum=0, maximum=64
    )

    frozen_after: int = _parameter(
        2,
        "From so many identical pictures in a row on a camera counts as frozen and takes no part; 0: never.",
        ALWAYS,
        minimum=0,
        maximum=1000,
    )
    max_speed: float = _parameter(
        70.0,
        "A faster motion of base_frame within a set, m/s, is taken for a jump of fixed_frame and not compensated.",
        ALWAYS,
        minimum=0.1,
        maximum=1000.0,
    )

    max_latency_ms: float = _parameter(
        1000.0,
        "Boxes later than this after their images are warned of on /diagnostics; 0: never.",
        ALWAYS,
        minimum=0.0,
        maximum=60000.0,
    )
    min_rate_hz: float = _parameter(
        1.0, "Fewer sets a second are warned of on /diagnostics; 0: never.", ALWAYS, minimum=0.0, maximum=1000.0
    )
    max_rate_hz: float = _parameter(
        0.0, "More sets a second are warned of on /diagnostics; 0: never.", ALWAYS, minimum=0.0, maximum=1000.0
    )

    score_threshold: float = _parameter(0.3, "Boxes below this score are dropped.", ALWAYS, minimum=0.0, maximum=1.0)
    class_score_thresholds: tuple[str, ...] = _parameter(
        (),
        "Thresholds of single classes as 'name:value', as 'pedestrian:0.25'; they replace score_threshold there.",
        ALWAYS,
    )
    max_detections: int = _parameter(
        200, "Largest number of boxes published, the best first.", ALWAYS, minimum=1, maximum=10000
    )

    publish_markers: bool = _parameter(True, "Publish ~/markers for RViz.", ALWAYS)
    marker_text: bool = _parameter(False, "Write class and score above each box in ~/markers.", ALWAYS)
    marker_lifetime_s: float = _parameter(
        2.0, "RViz drops markers that are not renewed for so long; 0: never.", ALWAYS, minimum=0.0, maximum=3600.0
    )
    overlay_rate_hz: float = _parameter(
        2.0, "Most pictures a second on ~/overlay/compressed.", ALWAYS, minimum=0.1, maximum=30.0
    )
    overlay_width: int = _parameter(1280, "Width of the overlay in pixels.", ALWAYS, minimum=64, maximum=7680)
    overlay_quality: int = _parameter(80, "JPEG quality of the overlay.", ALWAYS, minimum=1, maximum=100)

    def __post_init__(self) -> None:
        for text in self.class_score_thresholds:
            _class_threshold(text)
        device = self.device
        if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdigit()):
            raise UserError(f"parameter 'device' is '{device}', but must be auto, cpu, cuda or cuda:N")
        if not self.onnx_providers:
            raise UserError("parameter 'onnx_providers' is empty: name at least one, as CPUExecutionProvider")
        repeated = {name for name in self.cameras if self.cameras.count(name) > 1}
        if repeated or "" in self.cameras:
            raise UserError(f"parameter 'cameras' must hold different names: {list(self.cameras)}")
        if 0 < self.max_rate_hz < self.min_rate_hz:
            raise UserError(
                f"parameter 'max_rate_hz' is {self.max_rate_hz:g}, less than min_rate_hz = {self.min_rate_hz:g}"
            )
        if self.frozen_after == 1:
            raise UserError("parameter 'frozen_after' is 1, which every picture would be: give 0 (never), or 2 or more")
        if not self.base_frame:
            raise UserError("parameter 'base_frame' is empty: name the robot's base frame, as base_link")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from ROS parameter values; what ``values`` lacks has its default.

        Raises:
            UserError: a value has the wrong type or lies out of range. The text names the parameter.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        return cls(**{name: _checked(fields[name], value) for name, value in values.items()})

    def image_topic_of(self, camera: str) -> str:
        """Image topic of a camera, not yet resolved against the node's namespace."""
        compressed = self.image_transport == "compressed"
        pattern = self.image_topic or ("{camera}/image_raw/compressed" if compressed else "{camera}/image_raw")
        return pattern.replace("{camera}", camera)

    def camera_info_topic_of(self, camera: str) -> str:
        """CameraInfo topic of a camera, not yet resolved against the node's namespace."""
        return self.camera_info_topic.replace("{camera}", camera)

    def thresholds(self, class_names: Sequence[str]) -> list[float]:
        """Score threshold of every class, in the order of ``class_names``.

        Raises:
            UserError: a threshold is given for a class that the network does not know.
        """
        single = dict(_class_threshold(text) for text in self.class_score_thresholds)
        unknown = [name for name in single if name not in class_names]
        if unknown:
            raise UserError(
                f"parameter 'class_score_thresholds' names the class '{unknown[0]}', "
                f"but the model knows {', '.join(class_names)}"
            )
        return [single.get(name, self.score_threshold) for name in class_names]

    def for_cameras(self, trained: Sequence[str]) -> Settings:
        """The settings with `cameras` and `reference_camera` filled in, once the model's own cameras are known.

        Raises:
            UserError: the parameters contradict each other.
        """
        cameras = self.cameras or tuple(name.lower() for name in trained)
        reference = self.reference_camera or (cameras[0] if cameras else "")
        if not cameras:
            raise UserError("parameter 'cameras' is empty and the checkpoint names none: list the robot's camera names")
        if reference not in cameras:
            raise UserError(
                f"parameter 'reference_camera' is '{reference}', which is not one of the cameras {list(cameras)}"
            )
        if self.camera_offsets_ms and len(self.camera_offsets_ms) != len(cameras):
            raise UserError(
                f"parameter 'camera_offsets_ms' has {len(self.camera_offsets_ms)} values for {len(cameras)} cameras: "
                "give one a camera, or an empty list to have them learnt"
            )
        if self.min_cameras > len(cameras):
            raise UserError(f"parameter 'min_cameras' is {self.min_cameras}, but there are {len(cameras)} cameras")
        for name in ("image_topic", "camera_info_topic"):
            pattern = getattr(self, name)
            if pattern and len(cameras) > 1 and "{camera}" not in pattern:
                raise UserError(
                    f"parameter '{name}' is '{pattern}': it must hold {{camera}}, or all cameras share one topic"
                )
        return dataclasses.replace(self, cameras=cameras, reference_camera=reference)


def _class_threshold(text: str) -> tuple[str, float]:
    name, separator, value = text.rpartition(":")
    try:
        threshold = float(value)
    except ValueError:
        threshold = math.nan
    if not separator or not name.strip() or not 0.0 <= threshold <= 1.0:
        raise UserError(
            f"parameter 'class_score_thresholds': '{text}' is not 'class:value' with a value from 0 to 1, "
            "as 'pedestrian:0.25'"
        )
    return name.strip(), threshold


_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _checked(spec: dataclasses.Field, value: Any) -> Any:
    """The value in the field's Python type.

    ROS types what YAML shows: 1 is an integer even where a double is meant; an empty list is one of bytes in code and no
    value at all in a parameter file. They are taken for what they mean.
    """
    name, meta = spec.name, spec.metadata
    if isinstance(spec.default, tuple):
        element = meta["element"]
        value = () if value is None else value
        is_list = not isinstance(value, str) and hasattr(value, "__len__")
        if is_list and all(_fits(v, element) for v in value):
            return tuple(element(v) for v in value)
        raise UserError(
            f"parameter '{name}' must be a list of {'numbers' if element is float else 'strings'}, not {value!r}"
        )
    kind = type(spec.default)
    if not _fits(value, kind):
        shown = "not set" if value is None else f"{value!r}"
        raise UserError(f"parameter '{name}' must be {_WORDS[kind]}, not {shown}")
    value = kind(value)
    low, high = meta["minimum"], meta["maximum"]
    if low is not None and not low <= value <= high:
        raise UserError(f"parameter '{name}' is {value}, but must lie from {low:g} to {high:g}")
    if meta["choices"] and value not in meta["choices"]:
        raise UserError(f"parameter '{name}' is '{value}', but must be one of {', '.join(meta['choices'])}")
    return value


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def declare(node: Any) -> Settings:
    """Declare every parameter on an rclpy node and return the values it was started with.

    Raises:
        UserError: a value given at the start is wrong. The text names the parameter.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterValueException

    for spec in dataclasses.fields(Settings):
        meta = spec.metadata
        descriptor = ParameterDescriptor(
            name=spec.name,
            description=meta["description"],
            read_only=meta["when"] == START,
            # Types are checked here rather than by rclpy, which refuses `1` for a double and `[]` for any list.
            dynamic_typing=True,
        )
        constraints = [f"Changes {meta['when']}."] if meta["when"] != START else []
        if meta["choices"]:
            constraints.append(f"One of {', '.join(meta['choices'])}.")
        descriptor.additional_constraints = " ".join(constraints)
        if meta["minimum"] is not None and isinstance(spec.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(meta["minimum"]), to_value=float(meta["maximum"]), step=0.0)
            ]
        elif meta["minimum"] is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(meta["minimum"]), to_value=int(meta["maximum"]), step=1)
            ]
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        try:
            node.declare_parameter(spec.name, default, descriptor)
        except InvalidParameterValueException as error:
            raise UserError(f"parameter '{spec.name}': {error}") from None
    return read(node)


def read(node: Any) -> Settings:
    """The node's present settings."""
    return Settings.from_values(
        {spec.name: node.get_parameter(spec.name).value for spec in dataclasses.fields(Settings)}
    )


def refusal(
    current: Settings, changes: Mapping[str, Any], unconfigured: bool, class_names: Sequence[str] | None
) -> str:
    """Why these changes cannot be made, or an empty text if they can.

    Args:
        current: the settings in force.
        changes: new values by name; names that are not ours are left to others.
        unconfigured: whether the node's lifecycle state is `unconfigured`.
        class_names: what the loaded network knows; None while there is none.
    """
    specs = {spec.name: spec for spec in dataclasses.fields(Settings)}
    ours = {name: value for name, value in changes.items() if name in specs}
    removed = [name for name, value in ours.items() if value is None]
    if removed:
        return f"parameter '{removed[0]}' cannot be removed: give it a value, or [] for an empty list"
    try:
        values = {name: getattr(current, name) for name in specs}
        settings = Settings.from_values({**values, **ours})
        if class_names is not None:
            settings.thresholds(class_names)
    except UserError as error:
        return str(error)
    if not unconfigured:
        for name in ours:
            if specs[name].metadata["when"] == CONFIGURE and getattr(settings, name) != getattr(current, name):
                return f"parameter '{name}' can change {CONFIGURE}: call the transitions deactivate and cleanup first"
    return ""


def merged(current: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings after changes that ``refusal`` has nothing against; names that are not ours are left out."""
    values = {spec.name: getattr(current, spec.name) for spec in dataclasses.fields(Settings)}
    return Settings.from_values({**values, **{name: value for name, value in changes.items() if name in values}})
