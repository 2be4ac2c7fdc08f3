"""What a model is and how it is trained, as typed dataclasses read from YAML. The model half is saved inside every checkpoint."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import BevGrid

CLASS_NAMES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier",
)  # fmt: skip
"""nuScenes' detection classes, in nuscenes-devkit's order."""


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Arithmetic of a training: weights are always float32."""


class Norm(Enum):
    """What normalises the features after each convolution.

    - batch: statistics of the batch in training, running ones in use;
    - group: statistics of the sample itself (Wu & He 2018), so a batch may be of any size and in any number of processes;
    - frozen: the running statistics that the weights came with, for training on from given weights (``--weights``).
    """

    BATCH = "batch"
    GROUP = "group"
    FROZEN = "frozen"


class Schedule(Enum):
    """How the learning rate goes over the steps; training/schedule.py has the formulas."""

    COSINE = "cosine"
    ONE_CYCLE = "one_cycle"
    CONSTANT = "constant"


@dataclass(frozen=True)
class ImageConfig:
    """Size of the network's input images in pixels and how they are resampled (a part of the model: see preprocess.py)."""

    height: int
    width: int
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("linear", "nearest"):
            raise ValueError(f"interpolation '{self.interpolation}' is not one of linear, nearest")
        if min(self.height, self.width) < 1:
            raise ValueError("height and width must be positive")


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet of ``depth`` layers; ``width`` is the number of channels of the stem (64 in the original).

    ``stages`` of its four stages are built. With fewer, a feature pixel sees a smaller part of its image (of ResNet-18 about 100
    pixels with two stages, 440 with four), and so is less certain to know from the borders where in the image it is.
    """

    depth: int = 18
    width: int = 64
    stages: int = 4

    def __post_init__(self) -> None:
        if self.depth not in (18, 34, 50, 101):
            raise ValueError(f"depth {self.depth} is not one of 18, 34, 50, 101")
        if self.width < 1:
            raise ValueError(f"width {self.width} must be positive")
        if not 2 <= self.stages <= 4:
            raise ValueError(f"stages {self.stages} must be 2, 3 or 4")


@dataclass(frozen=True)
class LiftConfig:
    """Lift-splat view transform: image features at ``stride`` pixels, ``bins`` depths (m) and the heights (m) that count.

    Attributes:
        ray_channels: hidden width of the layers that tell every pixel where it looks, see ``Lift``; 0: none.
    """

    stride: int
    bins: int
    depth_min: float = 1.0
    depth_max: float = 60.0
    z_min: float = -5.0
    z_max: float = 5.0
    channels: int = 64
    neck_channels: int = 128
    ray_channels: int = 0

    def __post_init__(self) -> None:
        if self.stride not in (8, 16):
            raise ValueError("stride must be 8 or 16")
        if self.ray_channels < 0:
            raise ValueError("ray_channels must not be negative")
        if min(self.bins, self.channels, self.neck_channels) < 1:
            raise ValueError("bins, channels and neck_channels must be positive")
        if not (0 < self.depth_min < self.depth_max and self.z_min < self.z_max):
            raise ValueError("0 < depth_min < depth_max and z_min < z_max must hold")


@dataclass(frozen=True)
class BevEncoderConfig:
    """Channels of the BEV encoder at full resolution, its number of halvings, and residual blocks at each scale."""

    channels: int = 64
    halvings: int = 2
    blocks: int = 2


@dataclass(frozen=True)
class SuppressionConfig:
    """When two peaks of one class are one object: a peak must top the ``kernel`` x ``kernel`` cells about it (1: no such test),
    and no better box's centre may lie within ``radius`` metres of the decoded centre."""

    kernel: int = 3
    radius: float = 0.5

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd and positive")


@dataclass(frozen=True)
class CenterHeadConfig:
    """CenterPoint head. Classes of one group share their box regression; every class stands in exactly one group."""

    groups: tuple[tuple[str, ...], ...]
    suppression: dict[str, SuppressionConfig]
    channels: int = 64
    max_boxes: int = 500


@dataclass(frozen=True)
class PointsConfig:
    """Which LiDAR points a network is given.

    Attributes:
        seconds: besides the keyframe's own reading, those of so many seconds before it; 0: none. At 20 Hz, 0.475 gives 10 in all.
        ego: (x_min, x_max, y_min, y_max) of the vehicle itself in the base frame, in metres; what the LiDAR sees of it is left out.
    """

    seconds: float = 0.0
    ego: tuple[float, float, float, float] = (-1.0, 3.7, -1.2, 1.2)

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError("seconds must not be negative")
        if not (self.ego[0] <= self.ego[1] and self.ego[2] <= self.ego[3]):
            raise ValueError("ego is [x_min, x_max, y_min, y_max]")


@dataclass(frozen=True)
class PillarsConfig:
    """Vertical columns of ``cell`` metres over the model's grid, whose points become one feature vector each.

    Attributes:
        cell: a fraction of the grid's cell.
        channels: widths of the layers that every point goes through before the maximum over its pillar.
        z_min, z_max: points beyond these heights (m) are left out.
        intensity: the largest intensity of the data, which becomes 1.
    """

    cell: float
    channels: tuple[int, ...] = (64, 64)
    z_min: float = -3.0
    z_max: float = 5.0
    intensity: float = 255.0

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError("channels must be positive")
        if not (self.cell > 0 and self.intensity > 0):
            raise ValueError("cell and intensity must be positive")
        if not self.z_min < self.z_max:
            raise ValueError("z_min < z_max must hold")


@dataclass(frozen=True)
class SecondConfig:
    """Convolutional backbone over the pillars (SECOND, Yan et al. 2018), and a pyramid back to the model's grid.

    Attributes:
        strides, layers, channels: of each stage: its stride (1 or 2), 3x3 convolutions and their width.
        channels_out: of the BEV features.
    """

    strides: tuple[int, ...]
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    channels_out: int

    def __post_init__(self) -> None:
        if not len(self.strides) == len(self.layers) == len(self.channels) > 0:
            raise ValueError("strides, layers and channels must have an entry a stage")
        if set(self.strides) - {1, 2}:
            raise ValueError("strides must be 1 or 2")
        if min(*self.layers, *self.channels, self.channels_out) < 1:
            raise ValueError("layers, channels and channels_out must be positive")

    def scales(self) -> tuple[int, ...]:
        """How many pillars a cell of each stage is wide."""
        return tuple(math.prod(self.strides[: i + 1]) for i in range(len(self.strides)))


@dataclass(frozen=True)
class BaseModelConfig:
    """What every model has, whatever it sees: name, classes, the grid it finds them on, the head that does, normalisation."""

    name: str
    classes: tuple[str, ...]
    grid: BevGrid
    head: CenterHeadConfig
    norm: Norm = field(default=Norm.BATCH, kw_only=True)

    def __post_init__(self) -> None:
        grouped = [name for group in self.head.groups for name in group]
        if sorted(grouped) != sorted(self.classes):
            raise ValueError("head.groups must hold every class of 'classes' exactly once")
        missing = set(self.classes) - set(self.head.suppression)
        if missing:
            raise ValueError(f"head.suppression lacks {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class CameraModelConfig(BaseModelConfig):
    """A camera-only student: everything needed to build it and to run it."""

    image: ImageConfig
    backbone: BackboneConfig
    lift: LiftConfig
    bev: BevEncoderConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image.height % 32 or self.image.width % 32:
            raise ValueError("image.height and image.width must be multiples of 32, the backbone's last stride")
        if self.lift.stride > 2 ** (self.backbone.stages + 1):
            raise ValueError(f"lift.stride {self.lift.stride} needs more backbone.stages than {self.backbone.stages}")


@dataclass(frozen=True)
class LidarModelConfig(BaseModelConfig):
    """A LiDAR teacher, for training only. The student it is to teach has the same classes and the same grid."""

    points: PointsConfig
    pillars: PillarsConfig
    second: SecondConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        pillars = self.grid.cell / self.pillars.cell
        if abs(pillars - round(pillars)) > 1e-6 or round(pillars) not in self.second.scales():
            raise ValueError(
                f"second.strides make cells of {', '.join(f'{s * self.pillars.cell:g}' for s in self.second.scales())} m "
                f"of pillars.cell {self.pillars.cell:g}; one of them must be grid.cell, {self.grid.cell:g}"
            )


ModelConfig = CameraModelConfig | LidarModelConfig
"""What a model sees is told by the fields it has. A new kind of model is a new dataclass here, and its network in ``models``."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes that keep images, calibration and boxes consistent. A range is [low, high], drawn uniformly.

    Attributes:
        rig_yaw_deg: the whole rig and its world are turned by a yaw drawn from these intervals; [] leaves them.
        bev_scale: the world's size factor.
        flip: probability of mirroring the world left to right.
        image_scale, image_rotation_deg: zoom about the image centre and rotation of each camera's image, drawn apart.
        image_shift: shift of each image as a fraction of its size.
        brightness, contrast: per set; brightness in grey levels, contrast a factor.
        camera_brightness, camera_contrast: the same for each camera apart, on top of the set's.
        grayscale: probability of turning a whole set grey.
        camera_drop: probability of taking cameras away from a sample: from 1 to ``camera_drop_most`` of them, each number as likely
            as the others, but never the last one.
    """

    rig_yaw_deg: tuple[tuple[float, float], ...] = ()
    bev_scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    image_scale: tuple[float, float] = (1.0, 1.0)
    image_rotation_deg: tuple[float, float] = (0.0, 0.0)
    image_shift: tuple[float, float] = (0.0, 0.0)
    brightness: tuple[float, float] = (0.0, 0.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    camera_brightness: tuple[float, float] = (0.0, 0.0)
    camera_contrast: tuple[float, float] = (1.0, 1.0)
    grayscale: float = 0.0
    camera_drop: float = 0.0
    camera_drop_most: int = 3

    def __post_init__(self) -> None:
        for name in ("flip", "grayscale", "camera_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is no probability")
        if self.camera_drop_most < 1:
            raise ValueError("camera_drop_most must be at least 1")


@dataclass(frozen=True)
class CenterLossConfig:
    """Gaussian targets: overlap and smallest radius (cells) as in CenterPoint; boxes are regressed in the cells up to
    ``regress_radius`` from the centre's. ``weights`` are for offset, z, log size, sin/cos yaw, velocity."""

    overlap: float = 0.1
    min_radius: int = 2
    regress_radius: int = 1
    box_weight: float = 0.25
    weights: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 0.2)


@dataclass(frozen=True)
class ImageSupervisionConfig:
    """What LiDAR teaches a student's image features in training, see ``training/image_supervision.py``. All 0: nothing.

    Attributes:
        depth, classes: weights of the losses of depth and of class.
        alone_steps: first steps of the training in which nothing else is learnt, and the rest of the network does not run.
    """

    depth: float = 0.0
    classes: float = 0.0
    alone_steps: int = 0

    def __post_init__(self) -> None:
        if min(self.depth, self.classes, self.alone_steps) < 0:
            raise ValueError("depth, classes and alone_steps must not be negative")
        if self.alone_steps and not self.used:
            raise ValueError("alone_steps needs a weight of depth or classes above 0")

    @property
    def used(self) -> bool:
        """Whether a training needs LiDAR points for it."""
        return self.depth > 0 or self.classes > 0


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. One step is one optimiser update of ``batch_size`` samples, whatever computes them.

    Attributes:
        accumulate: the batch is computed in so many parts, one after another, for a memory that does not hold it at once.
        class_balance: samples with rare classes are drawn more often (CBGS), see ``training/class_balance.py``.
        schedule: of the learning rate over ``steps``; the first ``warmup_steps`` rise linearly, whatever it is.
        gradient_clip: largest norm of the gradient; 0: no limit.
        ema_decay: the exported weights are an exponential moving average over the steps with this decay; 0: the last ones.
        compile: the network's convolutional parts are compiled by torch.compile.
        workers: processes that load samples; 0: the training process does it itself.
        log_every, checkpoint_every, pictures_every, validate_every: steps between logged values, saved states, pictures and
            validations; 0: no pictures, and no validation but after the last step.
    """

    steps: int
    batch_size: int = 4
    accumulate: int = 1
    class_balance: bool = False
    learning_rate: float = 2e-4
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = 0.01
    warmup_steps: int = 100
    gradient_clip: float = 35.0
    ema_decay: float = 0.0
    workers: int = 0
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    log_every: int = 20
    checkpoint_every: int = 500
    pictures_every: int = 500
    validate_every: int = 0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: CenterLossConfig = field(default_factory=CenterLossConfig)
    image_supervision: ImageSupervisionConfig = field(default_factory=ImageSupervisionConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        for name in ("workers", "warmup_steps", "gradient_clip", "weight_decay", "pictures_every", "validate_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} must be at least 0 and below 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision '{self.precision}' is not one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Config:
    """A configuration file: the model and its training."""

    model: ModelConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        if self.training.image_supervision.used and not isinstance(self.model, CameraModelConfig):
            raise ValueError("training.image_supervision is for camera models; leave it out")


T = TypeVar("T")


def from_dict(kind: type[T], data: Any, where: str) -> T:
    """Build the dataclass ``kind`` from plain data, strictly: unknown, missing and ill-typed fields are named.

    Of a union of dataclasses it is the one that knows most of the fields given; of several that do, the first.

    Args:
        where: what the data is, for messages, e.g. "nano.yaml: model".
    """
    return _convert(kind, data, where)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data (dicts, lists, numbers, strings) of a configuration dataclass; ``from_dict`` inverts it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, Enum):
            return value.value
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a configuration YAML file, with ``overrides`` such as "training.steps=100" (values are YAML) laid over it.

    Raises:
        UserError: the file is missing or not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"override '{override}': write it as section.field=value")
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UserError(f"override '{override}': '{key}' is inside a field that has no fields of its own")
        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"override '{override}': its value is not YAML") from None
    return from_dict(Config, data, str(path))


def _convert(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        given = set(data) if isinstance(data, Mapping) else set()
        known = {member: {f.name for f in dataclasses.fields(member)} for member in typing.get_args(kind)}
        kind = max(known, key=lambda member: len(given & known[member]))
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, data, where)
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise UserError(f"{where}: expected a list, found {data!r}")
        arguments = typing.get_args(kind)
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise UserError(f"{where}: expected {len(kinds)} values, found {len(data)}")
        return tuple(_convert(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True)))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise UserError(f"{where}: expected a mapping, found {data!r}")
        return {str(key): _convert(typing.get_args(kind)[1], value, f"{where}.{key}") for key, value in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise UserError(f"{where}: {data!r} is not one of {known}") from None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is float and isinstance(data, str):  # YAML reads 1e-3 (no dot) as text
        try:
            return float(data)
        except ValueError:
            pass
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise UserError(f"{where}: expected {kind.__name__}, found {data!r}")
    return data


def _convert_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: expected a mapping, found {data!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = [key for key in data if key not in fields]
    if unknown:
        raise UserError(f"{where}: unknown field '{unknown[0]}'; known are {', '.join(fields)}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in data
    ]
    if required:
        raise UserError(f"{where}: field '{required[0]}' is missing")
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
