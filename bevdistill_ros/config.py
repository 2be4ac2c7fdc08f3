"""What a model is, as typed dataclasses: everything needed to build it and to run it. Saved inside every checkpoint."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum

from bevdistill_ros.errors import brief
from bevdistill_ros.geometry import BevGrid

CLASS_NAMES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier",
)  # fmt: skip
"""nuScenes' detection classes, in nuscenes-devkit's order."""


MAX_CHANNELS = 4096
MAX_LAYERS = 64
MAX_IMAGE_PIXELS = 1 << 26
"""Of a camera's picture: 8192x8192."""

MAX_NETWORK_PIXELS = 1 << 23
MAX_CELLS = 1 << 22
MAX_VALUES = 1 << 28
"""Of one feature map of one sample."""

MAX_SWEEP_SECONDS = 60
"""Of LiDAR readings before a keyframe's own: three times a scene of nuScenes."""


def _at_most(config: object, **limits: int) -> None:
    """Raise ValueError where a field is larger than any use needs: whoever builds such a network runs out of memory, or of time.

    A configuration may come out of a stranger's checkpoint file.
    """
    for name, limit in limits.items():
        value = getattr(config, name)
        if max(value, default=0) > limit if isinstance(value, tuple) else value > limit:
            raise ValueError(f"{name} {brief(value)} is beyond {limit}, which no model needs")


def _names(what: str, names: tuple[str, ...]) -> None:
    """Raise ValueError unless these are names that a message can carry, each once."""
    for name in names:
        if not 0 < len(name) <= 64 or not name.isprintable():
            raise ValueError(f"{what}: {brief(name)} is no name of at most 64 printable characters")
    if len(set(names)) < len(names):
        raise ValueError(f"{what}: {brief(next(name for name in names if names.count(name) > 1))} is there twice")


class Norm(Enum):
    """What normalises the features after each convolution.

    - batch: statistics of the batch in training, running ones in use;
    - group: statistics of the sample itself (Wu & He 2018), so a batch may be of any size and in any number of processes;
    - frozen: the running statistics that the weights came with, for training on from given weights (``--weights``).
    """

    BATCH = "batch"
    GROUP = "group"
    FROZEN = "frozen"


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
        if self.height * self.width > MAX_IMAGE_PIXELS:
            raise ValueError(f"{brief(self.width)}x{brief(self.height)} pixels are beyond {MAX_IMAGE_PIXELS}")


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet of ``depth`` layers; ``width`` is the number of channels of the stem (64 in the original).

    ``stages`` of its four stages are built. With fewer, a feature pixel sees a smaller part of its image (of ResNet-18 about 100
    pixels with two stages, 440 with four), and so is less certain to know from the borders where in the image it is.

    The last ``deformable_stages`` of those have deformable 3x3 convolutions (DCNv2), for which torchvision must be installed.

    The stem and the first ``frozen_stages`` of them are not trained (0: all is). ``norm`` is the backbone's normalisation, where it
    is not to be the model's.

    Where ``timm`` is the name of a model of the package of that name, that is the backbone instead, see ``TimmBackbone``.
    """

    depth: int = 18
    width: int = 64
    stages: int = 4
    timm: str = ""
    deformable_stages: int = 0
    frozen_stages: int = 0
    norm: Norm | None = None

    def __post_init__(self) -> None:
        if self.depth not in (18, 34, 50, 101):
            raise ValueError(f"depth {self.depth} is not one of 18, 34, 50, 101")
        if self.width < 1:
            raise ValueError(f"width {self.width} must be positive")
        _at_most(self, width=1024)
        if not re.fullmatch(r"[\w.]*", self.timm, re.ASCII):
            # Elsewhere timm takes addresses, too, and would fetch or open what they name.
            raise ValueError(f"timm {brief(self.timm)} is no name of a model")
        if not 2 <= self.stages <= 4:
            raise ValueError(f"stages {self.stages} must be 2, 3 or 4")
        if not 0 <= self.deformable_stages <= self.stages:
            raise ValueError(f"deformable_stages {self.deformable_stages} must be 0 to stages, {self.stages}")
        if not 0 <= self.frozen_stages <= self.stages:
            raise ValueError(f"frozen_stages {self.frozen_stages} must be 0 to stages, {self.stages}")
        if self.norm is Norm.BATCH:
            raise ValueError("norm batch is for a whole model, whose own norm it is: leave it out")
        own = self.depth, self.width, self.stages, self.deformable_stages, self.frozen_stages
        if self.timm and own != (18, 64, 4, 0, 0):
            raise ValueError(
                "depth, width, stages, deformable_stages and frozen_stages are of the ResNet: leave them out beside timm"
            )


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
        _at_most(self, bins=1024, channels=MAX_CHANNELS, neck_channels=MAX_CHANNELS, ray_channels=MAX_CHANNELS)
        if not (0 < self.depth_min < self.depth_max and self.z_min < self.z_max):
            raise ValueError("0 < depth_min < depth_max and z_min < z_max must hold")


@dataclass(frozen=True)
class BevEncoderConfig:
    """Channels of the BEV encoder at full resolution, its number of halvings, and residual blocks at each scale."""

    channels: int = 64
    halvings: int = 2
    blocks: int = 2

    def __post_init__(self) -> None:
        if min(self.channels, self.blocks) < 1 or self.halvings < 0:
            raise ValueError("channels and blocks must be positive, halvings not negative")
        _at_most(self, channels=MAX_CHANNELS, halvings=8, blocks=MAX_LAYERS)
        if self.channels << self.halvings > MAX_CHANNELS:
            raise ValueError(f"channels {self.channels} doubled {self.halvings} times are beyond {MAX_CHANNELS}")


@dataclass(frozen=True)
class SuppressionConfig:
    """When two peaks of one class are one object: a peak must top the ``kernel`` x ``kernel`` cells about it (1: no such test),
    and no better box's centre may lie within ``radius`` metres of the decoded centre."""

    kernel: int = 3
    radius: float = 0.5

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd and positive")
        _at_most(self, kernel=255)
        if not self.radius >= 0:
            raise ValueError("radius must not be negative")


@dataclass(frozen=True)
class CenterHeadConfig:
    """CenterPoint head. Classes of one group share their box regression; every class stands in exactly one group."""

    groups: tuple[tuple[str, ...], ...]
    suppression: dict[str, SuppressionConfig]
    channels: int = 64
    max_boxes: int = 500

    def __post_init__(self) -> None:
        if not self.groups or not all(self.groups):
            raise ValueError("groups must be lists of classes, none of them empty")
        if min(self.channels, self.max_boxes) < 1:
            raise ValueError("channels and max_boxes must be positive")
        _at_most(self, channels=MAX_CHANNELS, max_boxes=100_000)


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
        if not 0 <= self.seconds <= MAX_SWEEP_SECONDS:
            raise ValueError(f"seconds {self.seconds:g} must be from 0 to {MAX_SWEEP_SECONDS}")
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
        _at_most(self, channels=MAX_CHANNELS)
        if len(self.channels) > MAX_LAYERS:
            raise ValueError(f"channels has {len(self.channels)} layers, beyond {MAX_LAYERS}")
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
        _at_most(self, layers=MAX_LAYERS, channels=MAX_CHANNELS, channels_out=MAX_CHANNELS)
        if len(self.strides) > 8:
            raise ValueError(f"strides has {len(self.strides)} stages, beyond 8")

    def scales(self) -> tuple[int, ...]:
        """How many pillars a cell of each stage is wide."""
        return tuple(math.prod(self.strides[: i + 1]) for i in range(len(self.strides)))


@dataclass(frozen=True)
class QueryHeadConfig:
    """Transformer decoder whose queries read the BEV map and become boxes (Deformable DETR, Zhu et al. 2021), see ``QueryHead``.

    Attributes:
        queries: how many boxes of all classes it can tell apart.
        channels: width of the queries; a multiple of ``heads`` and of 4.
        layers: of the decoder; each refines the boxes of the one before.
        heads, points: of the deformable attention into the BEV map: attention heads, and places that each reads.
        feedforward: width of the layers between attentions.
        dropout: of attentions and layers between, in training.
        z_min, z_max: heights (m) between which the boxes' centres are looked for.
        max_boxes: how many of the best (query, class) pairs are kept.
        auxiliary_channels: width of a heatmap branch beside it that runs in training and as a teacher only; 0: none.
    """

    queries: int
    channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    feedforward: int = 512
    dropout: float = 0.1
    z_min: float = -5.0
    z_max: float = 3.0
    max_boxes: int = 300
    auxiliary_channels: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "channels", "layers", "heads", "points", "feedforward", "max_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        _at_most(
            self, queries=4096, channels=MAX_CHANNELS, layers=MAX_LAYERS, heads=256, points=256, feedforward=1 << 16,
            max_boxes=100_000, auxiliary_channels=MAX_CHANNELS,
        )  # fmt: skip
        _check_attention(self)
        if self.auxiliary_channels < 0:
            raise ValueError("auxiliary_channels must not be negative")


@dataclass(frozen=True)
class BevFormerConfig:
    """BEV queries that gather image features by attention (BEVFormer, Li et al. 2022), see ``BevFormerEncoder``.

    Attributes:
        channels: width of queries and image features; a multiple of ``heads`` and of 4.
        layers: of the encoder.
        heads: of its attentions.
        levels: scales of image features, from 1/8 on downwards; 4 has one below the backbone's last.
        heights: points of each cell's vertical pillar, evenly from ``z_min`` to ``z_max`` (m), that are projected into the images.
        points: places that each head reads on each scale about the projected points; a multiple of ``heights``.
        bev_points: places that each head reads in the BEV map itself.
        feedforward: width of the layers between attentions.
        dropout: of attentions and layers between, in training.
    """

    channels: int = 256
    layers: int = 6
    heads: int = 8
    levels: int = 4
    heights: int = 4
    points: int = 8
    bev_points: int = 4
    feedforward: int = 512
    dropout: float = 0.1
    z_min: float = -5.0
    z_max: float = 3.0

    def __post_init__(self) -> None:
        for name in ("channels", "layers", "heads", "heights", "points", "bev_points", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        _at_most(
            self, channels=MAX_CHANNELS, layers=MAX_LAYERS, heads=256, heights=64, points=256, bev_points=256,
            feedforward=1 << 16,
        )  # fmt: skip
        if not 1 <= self.levels <= 4:
            raise ValueError(f"levels {self.levels} must be 1 to 4")
        if self.points % self.heights:
            raise ValueError(f"points {self.points} must be a multiple of heights {self.heights}")
        _check_attention(self)


def _check_attention(config: QueryHeadConfig | BevFormerConfig) -> None:
    if config.channels % config.heads or config.channels % 4:
        raise ValueError(f"channels {config.channels} must be a multiple of heads {config.heads} and of 4")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout {config.dropout} must be at least 0 and below 1")
    if not config.z_min < config.z_max:
        raise ValueError("z_min < z_max must hold")


@dataclass(frozen=True)
class CompensationConfig:
    """Geometry compensation (SimDistill, Zhao et al. 2024): residual deformable self-attention, see ``GeometryCompensation``.

    Attributes:
        image: whether it acts on the image features.
        bev: whether it acts on the simulated LiDAR features in BEV.
        heads: of the attention; a divisor of the channels of either.
        image_points, bev_points: places that each head reads.
    """

    image: bool = True
    bev: bool = True
    heads: int = 8
    image_points: int = 10
    bev_points: int = 20

    def __post_init__(self) -> None:
        if min(self.heads, self.image_points, self.bev_points) < 1:
            raise ValueError("heads, image_points and bev_points must be at least 1")
        _at_most(self, heads=256, image_points=256, bev_points=256)


@dataclass(frozen=True)
class BaseModelConfig:
    """What every model has, whatever it sees: name, classes, the grid it finds them on, the heads that do, normalisation.

    There is a centre head (``head``), a query head (``queries``) or both; boxes then come from the centre head.
    """

    name: str
    classes: tuple[str, ...]
    grid: BevGrid
    head: CenterHeadConfig | None = field(default=None, kw_only=True)
    queries: QueryHeadConfig | None = field(default=None, kw_only=True)
    norm: Norm = field(default=Norm.BATCH, kw_only=True)

    def __post_init__(self) -> None:
        _names("name", (self.name,))
        if not 0 < len(self.classes) <= 1000:
            raise ValueError(f"classes must be 1 to 1000 names, not {len(self.classes)}")
        _names("classes", self.classes)
        if self.grid.rows * self.grid.columns > MAX_CELLS:
            raise ValueError(f"grid of {self.grid.columns}x{self.grid.rows} cells is beyond {MAX_CELLS} cells")
        if self.head is None and self.queries is None:
            raise ValueError("field 'head' is missing, or 'queries' in its place")
        if self.queries is not None:
            self._check_map("queries.channels", self.queries.channels)
        if self.head is not None:
            self._check_map("head.channels", self.head.channels)
            grouped = [name for group in self.head.groups for name in group]
            if sorted(grouped) != sorted(self.classes):
                raise ValueError("head.groups must hold every class of 'classes' exactly once")
            missing = set(self.classes) - set(self.head.suppression)
            if missing:
                raise ValueError(f"head.suppression lacks {', '.join(sorted(missing))}")

    def _check_map(self, what: str, channels: int) -> None:
        """Raise ValueError where so many channels of the grid would take gigabytes."""
        if self.grid.rows * self.grid.columns * channels > MAX_VALUES:
            raise ValueError(
                f"{what}: {channels} channels of {self.grid.columns}x{self.grid.rows} cells are beyond {MAX_VALUES} values"
            )


@dataclass(frozen=True)
class ImageModelConfig(BaseModelConfig):
    """What every model that sees images has."""

    image: ImageConfig
    backbone: BackboneConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image.height % 32 or self.image.width % 32:
            raise ValueError("image.height and image.width must be multiples of 32, the backbone's last stride")
        if self.image.height * self.image.width > MAX_NETWORK_PIXELS:
            raise ValueError(f"image of {self.image.width}x{self.image.height} pixels is beyond {MAX_NETWORK_PIXELS}")


@dataclass(frozen=True)
class LiftModelConfig(ImageModelConfig):
    """What every model has whose image features are lifted by depth."""

    lift: LiftConfig
    bev: BevEncoderConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lift.stride > 2 ** (self.backbone.stages + 1):
            raise ValueError(f"lift.stride {self.lift.stride} needs more backbone.stages than {self.backbone.stages}")
        rays = self.image.height * self.image.width // self.lift.stride**2
        for what, channels in (
            ("bins", self.lift.bins),
            ("channels", self.lift.channels),
            ("neck_channels", self.lift.neck_channels),
        ):
            if rays * channels > MAX_VALUES // 8:
                raise ValueError(f"lift.{what} {channels} of {rays} feature pixels are beyond {MAX_VALUES // 8} values")
        self._check_map("lift.channels", self.lift.channels)
        self._check_map("bev.channels", self.bev.channels)


@dataclass(frozen=True)
class LssModelConfig(LiftModelConfig):
    """A camera-only student by lift-splat."""


@dataclass(frozen=True)
class BevFormerModelConfig(ImageModelConfig):
    """A camera-only student by BEVFormer."""

    bevformer: BevFormerConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone.stages != 4:
            raise ValueError("bevformer needs all four backbone.stages")
        self._check_map("bevformer.channels", self.bevformer.channels)


@dataclass(frozen=True)
class SimulatedModelConfig(LiftModelConfig):
    """A camera-only student that simulates LiDAR features beside its camera features (SimDistill, Zhao et al. 2024).

    Attributes:
        compensation: geometry compensation; its fields say where.
        fused_channels: of the fuser of both.
    """

    compensation: CompensationConfig
    fused_channels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fused(self, self.fused_channels)
        for name, channels in (("lift.neck_channels", self.lift.neck_channels), ("lift.channels", self.lift.channels)):
            if channels % self.compensation.heads or channels % 2:
                raise ValueError(f"{name} {channels} must be even and a multiple of compensation.heads")


@dataclass(frozen=True)
class LidarModelConfig(BaseModelConfig):
    """A LiDAR teacher, for training only. The student it is to teach has the same classes."""

    points: PointsConfig
    pillars: PillarsConfig
    second: SecondConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_pillars(self.grid, self.pillars, self.second)


@dataclass(frozen=True)
class FusionModelConfig(LiftModelConfig):
    """A teacher that sees LiDAR and cameras, for training only (BEVFusion, Liu et al. 2023).

    Attributes:
        fused_channels: of the fuser of both.
    """

    points: PointsConfig
    pillars: PillarsConfig
    second: SecondConfig
    fused_channels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fused(self, self.fused_channels)
        _check_pillars(self.grid, self.pillars, self.second)


def _check_fused(config: LiftModelConfig, channels: int) -> None:
    if channels < 1:
        raise ValueError("fused_channels must be positive")
    _at_most(config, fused_channels=MAX_CHANNELS)
    config._check_map("fused_channels", channels)


def _check_pillars(grid: BevGrid, pillars: PillarsConfig, second: SecondConfig) -> None:
    ratio = grid.cell / pillars.cell
    if round(min(ratio, 1e9)) not in second.scales() or abs(ratio - round(ratio)) > 1e-6:
        raise ValueError(
            f"second.strides make cells of {', '.join(f'{s * pillars.cell:g}' for s in second.scales())} m "
            f"of pillars.cell {pillars.cell:g}; one of them must be grid.cell, {grid.cell:g}"
        )
    pillars_in_grid = grid.rows * grid.columns * round(ratio) ** 2
    if pillars_in_grid * max(pillars.channels[-1], second.channels[0]) > MAX_VALUES * 4:
        raise ValueError(
            f"pillars of {pillars.cell:g} m make {pillars_in_grid} of the grid, whose channels are too many values"
        )


StudentConfig = LssModelConfig | BevFormerModelConfig | SimulatedModelConfig
"""Models that see cameras alone: what a detector runs."""

TeacherConfig = LidarModelConfig | FusionModelConfig
"""Models that see LiDAR, for training only."""

ModelConfig = StudentConfig | TeacherConfig
"""What a model sees is told by the fields it has. A new kind of model is a new dataclass here, and its network in ``models``."""
