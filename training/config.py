"""A configuration file: a model and how it is trained, as typed dataclasses read from YAML."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bevdistill_ros.config import ImageModelConfig, LiftModelConfig, ModelConfig
from bevdistill_ros.errors import UsageError, UserError, brief
from bevdistill_ros.files import parse_yaml, read_yaml
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import from_dict
from bevdistill_ros.training.config_checks import (
    CODE_WEIGHTS,
    CodeWeights,
    code_weights,
    interval,
    not_negative,
    overlap,
    positive,
    probability,
)
from bevdistill_ros.training.distill.config import DistillConfig

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Arithmetic of a training: weights are always float32."""

SMALLEST_SCALE = 0.01
"""Of images and of the world."""


class Schedule(Enum):
    """How the learning rate goes over the steps; training/schedule.py has the formulas."""

    COSINE = "cosine"
    ONE_CYCLE = "one_cycle"
    CONSTANT = "constant"


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
        saturation, hue_deg: per set; saturation a factor on every pixel's distance from its grey value, hue a turn of its colour
            about the grey axis in degrees, 120 of which make red green. Greys stay as they are.
        camera_brightness, camera_contrast, camera_saturation, camera_hue_deg: the same for each camera apart, on top of the set's.
        grayscale: probability of turning a whole set grey.
        camera_drop: probability of taking cameras away from a sample: from 1 to ``camera_drop_most`` of them, each number as likely
            as the others, but never the last one.
        grid_mask: probability of covering a regular grid of squares of all images of a set, see ``augmentation.grid_squares``.
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
    grid_mask: float = 0.0
    saturation: tuple[float, float] = (1.0, 1.0)
    camera_saturation: tuple[float, float] = (1.0, 1.0)
    hue_deg: tuple[float, float] = (0.0, 0.0)
    camera_hue_deg: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        probability(self, "flip", "grayscale", "camera_drop", "grid_mask")
        if self.camera_drop_most < 1:
            raise ValueError("camera_drop_most must be at least 1")
        for turn in self.rig_yaw_deg:
            interval("rig_yaw_deg", turn, -360, 360)
        interval("image_rotation_deg", self.image_rotation_deg, -360, 360)
        for name in ("bev_scale", "image_scale"):
            interval(name, getattr(self, name), SMALLEST_SCALE, 1 / SMALLEST_SCALE)
        interval("image_shift", self.image_shift, -1, 1)
        for name in ("brightness", "camera_brightness"):
            interval(name, getattr(self, name), -255, 255)
        for name in ("contrast", "camera_contrast", "saturation", "camera_saturation"):
            interval(name, getattr(self, name), 0)
        for name in ("hue_deg", "camera_hue_deg"):
            interval(name, getattr(self, name), -180, 180)

    @property
    def recolours(self) -> bool:
        """Whether colours are changed at all, but for ``grayscale``."""
        saturations, hues = (self.saturation, self.camera_saturation), (self.hue_deg, self.camera_hue_deg)
        return any(limits != (1.0, 1.0) for limits in saturations) or any(limits != (0.0, 0.0) for limits in hues)


@dataclass(frozen=True)
class CenterLossConfig:
    """Gaussian targets: overlap and smallest radius (cells) as in CenterPoint; boxes are regressed in the cells up to
    ``regress_radius`` from the centre's. ``weights`` are for offset, z, log size, sin/cos yaw, velocity."""

    overlap: float = 0.1
    min_radius: int = 2
    regress_radius: int = 1
    box_weight: float = 0.25
    weights: CodeWeights = CODE_WEIGHTS

    def __post_init__(self) -> None:
        overlap(self, "overlap")
        not_negative(self, "min_radius", "regress_radius", "box_weight")
        code_weights(self, "weights")


@dataclass(frozen=True)
class QueryLossConfig:
    """Losses of a query head, see ``training/query_losses.py``; the numbers of BEVFormer's.

    Attributes:
        class_weight, box_weight: of the focal and the L1 loss of each layer.
        class_cost, box_cost: of the same in the assignment of boxes to queries.
        focal_alpha, focal_gamma: of the focal loss.
        weights: within the L1 loss, for centre, z, log size, sin/cos yaw, velocity.
        heatmap_weight: of the heatmap branch beside it, where the model has one.
        heatmap_overlap, heatmap_min_radius: of that heatmap, as in ``CenterLossConfig``.
    """

    class_weight: float = 2.0
    box_weight: float = 0.25
    class_cost: float = 2.0
    box_cost: float = 0.25
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    weights: CodeWeights = CODE_WEIGHTS
    heatmap_weight: float = 1.0
    heatmap_overlap: float = 0.1
    heatmap_min_radius: int = 1

    def __post_init__(self) -> None:
        not_negative(self, "class_weight", "box_weight", "class_cost", "box_cost", "focal_gamma", "heatmap_weight")
        not_negative(self, "heatmap_min_radius")
        if not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"focal_alpha {self.focal_alpha} must be from 0 to 1")
        if not max(self.class_cost, self.box_cost) > 0:
            raise ValueError("class_cost and box_cost are both 0: nothing would tell which query is to find which box")
        overlap(self, "heatmap_overlap")
        code_weights(self, "weights")


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
        backbone_rate: the image backbone's learning rate is so many times the others'.
        schedule: of the learning rate over ``steps``; the first ``warmup_steps`` rise linearly, whatever it is.
        warmup_from: share of the rate that the rise begins at.
        cosine_to: share of ``learning_rate`` that the schedule of that name ends at.
        gradient_clip: largest norm of the gradient; 0: no limit.
        ema_decay: the exported weights are an exponential moving average over the steps with this decay; 0: the last ones.
        compile: the network's convolutional parts are compiled by torch.compile.
        workers: processes that load samples; 0: the training process does it itself.
        log_every, checkpoint_every, pictures_every, validate_every: steps between logged values, saved states, pictures and
            validations; 0: no pictures, and no validation but after the last step.
        loss, queries: of the centre head, and of the query head.
        distill: a teacher and what it teaches; null: nothing.
    """

    steps: int
    batch_size: int = 4
    accumulate: int = 1
    class_balance: bool = False
    learning_rate: float = 2e-4
    backbone_rate: float = 1.0
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = 0.01
    warmup_steps: int = 100
    warmup_from: float = 0.0
    cosine_to: float = 0.0
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
    queries: QueryLossConfig = field(default_factory=QueryLossConfig)
    image_supervision: ImageSupervisionConfig = field(default_factory=ImageSupervisionConfig)
    distill: DistillConfig | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        not_negative(
            self, "workers", "warmup_steps", "gradient_clip", "weight_decay", "pictures_every", "validate_every"
        )
        positive(self, "learning_rate")
        for name in ("warmup_from", "cosine_to"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be from 0 to 1, a share of the learning rate")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed {brief(self.seed)} must be from 0 to 2^32 - 1")
        if not self.backbone_rate > 0:
            raise ValueError("backbone_rate must be positive; model.backbone.frozen_stages holds weights as they are")
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
        if self.training.image_supervision.used and not isinstance(self.model, LiftModelConfig):
            raise ValueError("training.image_supervision is for models with a lift; leave it out")
        if self.training.backbone_rate != 1 and not isinstance(self.model, ImageModelConfig):
            raise ValueError("training.backbone_rate is for models that see images; leave it out")


def find_config(name: str) -> Path:
    """A configuration file by its path, or by the name of one that is shipped in config/models.

    Raises:
        UsageError: there is none of that name.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    folder = share_directory() / "config" / "models"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UsageError(f"--config {name}: is neither a .yaml file nor one of {known}")
    return path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration YAML file, with ``overrides`` such as "training.steps=100" (values are YAML) laid over it.

    Raises:
        UserError: the file is missing or not YAML, or a field is unknown, missing or wrong.
        UsageError: the same of an override.
    """
    data = read_yaml(Path(path))
    try:
        return from_dict(Config, _overlaid(data, overrides), "")
    except UsageError:
        raise
    except UserError as error:
        mistake = str(error)
    if not overrides or _mistake(data, ()) == mistake:
        raise UserError(f"{path}: {mistake}")
    # What has a part in a mistake is what the mistake would not be there without.
    others = [[*overrides[:i], *overrides[i + 1 :]] for i in range(len(overrides))]
    blamed = [own for own, rest in zip(overrides, others, strict=True) if _mistake(data, rest) != mistake]
    raise UsageError(f"--set {' --set '.join(blamed or overrides)}: {mistake}")


def _mistake(data: Any, overrides: Sequence[str]) -> str | None:
    """What is wrong with a configuration; None: nothing."""
    try:
        from_dict(Config, _overlaid(data, overrides), "")
    except UserError as error:
        return str(error)
    return None


def _overlaid(data: Any, overrides: Sequence[str]) -> Any:
    """A copy of ``data`` with overrides. Raises UsageError where one cannot be read, or laid there."""
    data = copy.deepcopy(data)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override}: write it as section.field=value")
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UsageError(f"--set {override}: '{key}' is inside a field that has no fields of its own")
        try:
            node[last] = parse_yaml(value)
        except ValueError:
            raise UsageError(f"--set {override}: its value is not YAML") from None
    return data
