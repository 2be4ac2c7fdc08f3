"""Which teacher teaches a training, by which methods, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bevdistill_ros.config import MAX_CHANNELS
from bevdistill_ros.errors import brief
from bevdistill_ros.training.config_checks import (
    CODE_WEIGHTS,
    CodeWeights,
    code_weights,
    not_negative,
    overlap,
    probability,
)


class Merge(Enum):
    """What becomes of the Gaussians of several classes that meet in a cell."""

    MAX = "max"
    SUM = "sum"


# ---------------------------------------------------------------------------------------------------------------- FitNet


@dataclass(frozen=True)
class FitNetConfig:
    """Plain imitation of the teacher's BEV features, see ``fitnet.py``."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError("weight must be positive; leave fitnet out instead")


# ------------------------------------------------------------------------------------------------------------ DistillBEV


@dataclass(frozen=True)
class DistillBevConfig:
    """Imitation of the teacher's BEV features by regions, see ``distillbev.py``.

    Attributes:
        foreground, background, false_positive: weights of the regions; 0: left out.
        score: a cell outside of all boxes where the teacher gives any class at least so much is a false positive of its.
    """

    foreground: float = 1.0
    background: float = 0.2
    false_positive: float = 0.5
    score: float = 0.3

    def __post_init__(self) -> None:
        not_negative(self, "foreground", "background", "false_positive")
        probability(self, "score")
        if not max(self.foreground, self.background, self.false_positive) > 0:
            raise ValueError("every weight is 0; leave distillbev out instead")


# ------------------------------------------------------------------------------------------------------------ BEVDistill


class Features(Enum):
    """Which features are compared: those from which the heatmaps are made, or the BEV features that all heads read."""

    HEATMAP = "heatmap"
    BEV = "bev"


class Centers(Enum):
    """Whose centres features are compared at."""

    STUDENT = "student"
    TEACHER = "teacher"


@dataclass(frozen=True)
class DenseConfig:
    """Dense feature loss; see ``bevdistill.dense_loss``.

    Attributes:
        weight: 0: off.
        features: with ``bev`` an adapter comes between.
        per_channel: divide by the number of channels, too.
        overlap, min_radius: of the Gaussians about the objects (cells), as in ``CenterLossConfig``.
    """

    weight: float = 0.01
    features: Features = Features.HEATMAP
    per_channel: bool = False
    overlap: float = 0.1
    min_radius: int = 1

    def __post_init__(self) -> None:
        not_negative(self, "weight", "min_radius")
        overlap(self, "overlap")


@dataclass(frozen=True)
class InstancesConfig:
    """Which of the teacher's objects are distilled, and how much each counts: c^gamma IoU^(1 - gamma), see ``instances.quality``.

    Attributes:
        count: so many of the best of each sample.
        gamma: how much the teacher's own confidence c counts beside the overlap with ground truth; 1: it alone.
    """

    count: int = 50
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be at least 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma {self.gamma} must be between 0 and 1")


@dataclass(frozen=True)
class InstanceLossConfig:
    """A loss of instances that are matched; see ``bevdistill.box_loss`` and ``class_loss``.

    Attributes:
        weight: 0: off.
        power: of the quality in the sum.
    """

    weight: float
    power: float = 2.0

    def __post_init__(self) -> None:
        not_negative(self, "weight", "power")


@dataclass(frozen=True)
class BoxLossConfig(InstanceLossConfig):
    """See ``bevdistill.box_loss``.

    Attributes:
        weights: of the values of a box's code. A teacher of one LiDAR sweep knows no velocities.
    """

    weights: CodeWeights = CODE_WEIGHTS

    def __post_init__(self) -> None:
        super().__post_init__()
        code_weights(self, "weights")


@dataclass(frozen=True)
class ContrastConfig:
    """InfoNCE between instance features; see ``bevdistill.contrast_loss``.

    Attributes:
        weight: 0: off.
        centers: of all queries of all layers of the student (on a centre head: of what it finds at the instances' cells), or of the
            teacher's instances.
        weighted: each counts by its quality; not for all queries of a student, which have none.
        min_distance: places nearer than so many metres are not told apart: features of one cell, or of one object found twice, are
            alike.
        temperature: tau.
        channels: width of the two projections.
    """

    weight: float = 0.2
    centers: Centers = Centers.STUDENT
    weighted: bool = False
    min_distance: float = 0.0
    temperature: float = 0.07
    channels: int = 512

    def __post_init__(self) -> None:
        not_negative(self, "weight", "min_distance")
        if not self.temperature > 0:
            raise ValueError("temperature must be positive")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels {brief(self.channels)} must be from 1 to {MAX_CHANNELS}")


@dataclass(frozen=True)
class BevDistillConfig:
    """BEVDistill (Chen et al. 2023), see ``bevdistill.py``. The defaults are what the released code computes; the fragment
    config/distill/bevdistill_reconstructed.yaml holds what its paper says."""

    dense: DenseConfig = field(default_factory=DenseConfig)
    instances: InstancesConfig = field(default_factory=InstancesConfig)
    boxes: BoxLossConfig = field(default_factory=lambda: BoxLossConfig(0.25))
    classes: InstanceLossConfig = field(default_factory=lambda: InstanceLossConfig(0.0))
    contrast: ContrastConfig = field(default_factory=ContrastConfig)

    def __post_init__(self) -> None:
        if not max(self.dense.weight, self.boxes.weight, self.classes.weight, self.contrast.weight) > 0:
            raise ValueError("every weight is 0; leave bevdistill out instead")


# ------------------------------------------------------------------------------------------------------------- BEVSimDet


@dataclass(frozen=True)
class BevSimDetConfig:
    """BEVSimDet (SimDistill, Zhao et al. 2024), see ``bevsimdet.py``. The defaults are the weights of its released code.

    Attributes:
        imd: weight of camera features against the teacher's; 0: off, as for the others.
        cmd: of simulated LiDAR features against the teacher's LiDAR features, where objects are.
        mmd_fused: of fused features against the teacher's.
        mmd_classes, mmd_boxes: of the centre head's heatmaps and boxes against the teacher's.
        code_weights: of the values of a box's code in ``mmd_boxes``.
        merge: of the mask of ``cmd``; ``sum`` is what the released code does.
        overlap, min_radius: of the mask's Gaussians (cells), as in ``CenterLossConfig``.
    """

    imd: float = 1.0
    cmd: float = 100.0
    mmd_fused: float = 1.0
    mmd_classes: float = 0.25
    mmd_boxes: float = 0.25
    code_weights: CodeWeights = CODE_WEIGHTS
    merge: Merge = Merge.MAX
    overlap: float = 0.1
    min_radius: int = 2

    def __post_init__(self) -> None:
        not_negative(self, "imd", "cmd", "mmd_fused", "mmd_classes", "mmd_boxes", "min_radius")
        if not (self.features_used or self.predictions_used):
            raise ValueError("every weight is 0; leave bevsimdet out instead")
        code_weights(self, "code_weights")
        overlap(self, "overlap")

    @property
    def features_used(self) -> bool:
        """Whether features of two kinds are compared."""
        return max(self.imd, self.cmd, self.mmd_fused) > 0

    @property
    def predictions_used(self) -> bool:
        """Whether what the centre heads make of them is."""
        return max(self.mmd_classes, self.mmd_boxes) > 0


# ---------------------------------------------------------------------------------------------------------------- a user's


@dataclass(frozen=True)
class OwnMethodConfig:
    """A method of the user's: a Python file that defines one, see ``own.py``.

    Attributes:
        file: its path.
        settings: what the class is given, as the YAML has it.
    """

    file: str
    settings: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------------------------------- all


@dataclass(frozen=True)
class DistillConfig:
    """Distillation: a teacher, and one method or several.

    Attributes:
        teacher: path of its checkpoint.
        fitnet, distillbev, bevdistill, bevsimdet, own: settings of the methods that are used; None: not used.
    """

    teacher: str
    fitnet: FitNetConfig | None = None
    distillbev: DistillBevConfig | None = None
    bevdistill: BevDistillConfig | None = None
    bevsimdet: BevSimDetConfig | None = None
    own: OwnMethodConfig | None = None

    def __post_init__(self) -> None:
        if not self.used:
            raise ValueError("name a method, e.g. 'bevdistill: {}'")

    @property
    def used(self) -> tuple[Any, ...]:
        """Settings of the methods that are used."""
        methods = (self.fitnet, self.distillbev, self.bevdistill, self.bevsimdet, self.own)
        return tuple(method for method in methods if method is not None)
