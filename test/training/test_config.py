"""Configuration files: round trip, overrides, and errors that name the field."""

from __future__ import annotations

import pytest
import yaml

from bevdistill_ros.config import (
    BevFormerModelConfig,
    FusionModelConfig,
    LidarModelConfig,
    LssModelConfig,
    ModelConfig,
    SimulatedModelConfig,
)
from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import from_dict, to_dict
from bevdistill_ros.training.config import AugmentationConfig, Config, Schedule, load_config

FOLDER = share_directory() / "config" / "models"
MODELS = sorted(FOLDER.glob("*.yaml"))
NANO = FOLDER / "nano.yaml"


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shipped_configurations_read_and_round_trip(path) -> None:
    config = load_config(path)
    assert config.model.name == path.stem
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config))), "again") == config


def test_the_papers_student_and_teacher_have_its_numbers() -> None:
    """BEVDistill's student (BEVFormer with ResNet-50) and teacher: losses, costs, optimiser, light and colours."""
    student, teacher = (load_config(FOLDER / f"{name}.yaml") for name in ("bevformer_r50", "teacher_query_r50"))
    for config, weight in ((student, 0.25), (teacher, 0.5)):
        queries = config.training.queries
        assert (queries.class_weight, queries.class_cost) == (2.0, 2.0)
        assert (queries.box_weight, queries.box_cost) == (weight, weight)
        assert queries.weights == (1.0, 1.0, 1.0, 1.0, 0.2)
        assert (config.model.queries.z_min, config.model.queries.z_max) == (-3.0, 5.0)
    training = student.training
    assert (training.batch_size, training.learning_rate, training.backbone_rate) == (8, 2e-4, 0.1)
    assert (training.weight_decay, training.gradient_clip) == (0.01, 35.0)
    assert (training.schedule, training.cosine_to, training.warmup_steps) == (Schedule.COSINE, 1e-3, 500)
    assert training.warmup_from == pytest.approx(1 / 3, abs=1e-4)
    assert training.augmentation == AugmentationConfig(
        camera_brightness=(-32, 32), camera_contrast=(0.5, 1.5), camera_saturation=(0.5, 1.5), camera_hue_deg=(-18, 18),
        grid_mask=0.7,
    )  # fmt: skip


def test_what_a_model_sees_is_told_by_its_fields() -> None:
    for path in MODELS:
        config = load_config(path)
        # As a checkpoint stores it, the fields in any order.
        fields = dict(reversed(to_dict(config.model).items()))
        assert from_dict(ModelConfig, fields, "again") == config.model
    kinds = {
        "nano": LssModelConfig,
        "lss_query_nano": LssModelConfig,
        "bevformer_nano": BevFormerModelConfig,
        "simulated_nano": SimulatedModelConfig,
        "teacher_nano": LidarModelConfig,
        "teacher_query_nano": LidarModelConfig,
        "teacher_fusion_nano": FusionModelConfig,
    }
    for name, kind in kinds.items():
        assert type(load_config(FOLDER / f"{name}.yaml").model) is kind
    for wrong in ("many", None, []):
        with pytest.raises(UserError, match="here: expected a mapping"):
            from_dict(ModelConfig, wrong, "here")


def test_overrides(tmp_path) -> None:
    config = load_config(
        NANO, ["training.steps=7", "training.augmentation.rig_yaw_deg=[[-10, 10]]", "training.learning_rate=1e-3"]
    )
    assert config.training.steps == 7
    assert config.training.augmentation.rig_yaw_deg == ((-10.0, 10.0),)
    assert config.training.learning_rate == 0.001
    assert load_config(NANO, ["training.schedule=one_cycle"]).training.schedule is Schedule.ONE_CYCLE


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.stepps=7", "training: unknown field 'stepps'"),
        ("training.steps=many", r"training.steps: expected int, found 'many'"),
        ("training.steps=true", r"training.steps: expected int"),
        ("training.augmentation.contrast=[1]", r"contrast: expected 2 values, found 1"),
        ("model.head.groups=[[car]]", "every class of 'classes' exactly once"),
        ("model.image.height=100", "multiples of 32"),
        ("model.grid.cell=0.7", "whole number of cells"),
        ("training.steps", "write it as section.field=value"),
        ("training.steps.more=1", "no fields of its own"),
        ("training.steps=[", "its value is not YAML"),
        ("training.batch_size=0", "batch_size must be at least 1"),
        ("training.accumulate=0", "accumulate must be at least 1"),
        ("training.accumulate=3", "must be a multiple of accumulate 3"),
        ("training.augmentation.camera_drop_most=0", "camera_drop_most must be at least 1"),
        ("training.precision=half", "precision 'half' is not one of"),
        ("training.schedule=step", "training.schedule: 'step' is not one of cosine, one_cycle, constant"),
        ("training.warmup_from=-0.1", "training: warmup_from -0.1 must be from 0 to 1"),
        ("training.cosine_to=1.5", "training: cosine_to 1.5 must be from 0 to 1"),
        ("training.schedule=[1]", r"training.schedule: \[1\] is not one of"),
        ("training.ema_decay=1.0", "ema_decay 1.0 must be at least 0 and below 1"),
        ("training.validate_every=-1", "validate_every must not be negative"),
        ("training.augmentation.grayscale=1.5", "grayscale 1.5 is no probability"),
        ("model.backbone.depth=42", "depth 42 is not one of"),
        ("model.image.interpolation=cubic", "'cubic' is not one of"),
        ("model.lift.stride=4", "stride must be 8 or 16"),
        ("model.lift.depth_max=0.5", "depth_min < depth_max"),
        ("model.head.suppression.car.kernel=2", "must be odd"),
        ("model.head=null", "field 'head' is missing, or 'queries' in its place"),
        ("model.queries={queries: 0}", "model.queries: queries must be at least 1"),
        ("training.queries.box_weight=-1", "training.queries: box_weight must not be negative"),
        ("training.queries.focal_alpha=2", "focal_alpha 2.0 must be from 0 to 1"),
        ("training.queries.heatmap_overlap=2", "training.queries: heatmap_overlap 2.0 must be between 0 and 1"),
        ("training.queries.heatmap_min_radius=-1", "heatmap_min_radius must not be negative"),
        ("training.queries={class_cost: 0, box_cost: 0}", "class_cost and box_cost are both 0"),
        ("training.queries.weights=[1, 1, -1, 1, 1]", "training.queries: weights must not be negative"),
        ("training.learning_rate=-1", "training: learning_rate must be positive, not -1.0"),
        ("training.learning_rate=0", "training: learning_rate must be positive, not 0.0"),
        ("training.seed=-1", r"training: seed -1 must be from 0 to 2\^32 - 1"),
        ("training.seed=4294967296", "training: seed 4294967296 must be"),
        ("training.loss.overlap=2", "training.loss: overlap 2.0 must be between 0 and 1"),
        ("training.loss.overlap=0", "training.loss: overlap 0.0 must be between 0 and 1"),
        ("training.loss.box_weight=-1", "training.loss: box_weight must not be negative"),
        ("training.loss.min_radius=-1", "training.loss: min_radius must not be negative"),
        ("training.loss.regress_radius=-1", "training.loss: regress_radius must not be negative"),
        ("training.loss.weights=[0, 0, 0, 0, 0]", "training.loss: weights must not be negative, and not all 0"),
        ("training.augmentation.bev_scale=[0, 0]", r"bev_scale \[0.0, 0.0\] must be at least 0.01"),
        ("training.augmentation.bev_scale=[1.2, 0.8]", r"bev_scale \[1.2, 0.8\] must be \[low, high\]"),
        ("training.augmentation.image_scale=[-1, 1]", r"image_scale \[-1.0, 1.0\] must be at least 0.01"),
        ("training.augmentation.image_rotation_deg=[5, -5]", r"image_rotation_deg \[5.0, -5.0\] must be \[low, high\]"),
        ("training.augmentation.rig_yaw_deg=[[-5, 5], [30, 20]]", r"rig_yaw_deg \[30.0, 20.0\] must be \[low, high\]"),
        ("training.augmentation.image_shift=[-2, 0]", r"image_shift \[-2.0, 0.0\] must be at least -1 and at most 1"),
        (
            "training.augmentation.brightness=[0, 300]",
            r"brightness \[0.0, 300.0\] must be at least -255 and at most 255",
        ),
        ("training.augmentation.camera_brightness=[9, 0]", r"camera_brightness \[9.0, 0.0\] must be \[low, high\]"),
        ("training.augmentation.contrast=[-1, 1]", r"contrast \[-1.0, 1.0\] must be at least 0"),
        ("training.augmentation.camera_contrast=[1.2, 1.1]", r"camera_contrast .* must be \[low, high\]"),
        ("training.augmentation.saturation=[-1, 1]", r"augmentation: saturation \[-1.0, 1.0\] must be at least 0"),
        ("training.augmentation.camera_saturation=[1.5, 0.5]", r"camera_saturation .* must be \[low, high\]"),
        ("training.augmentation.hue_deg=[0, 200]", r"hue_deg \[0.0, 200.0\] must be at least -180 and at most 180"),
        ("training.augmentation.camera_hue_deg=[9, -9]", r"camera_hue_deg \[9.0, -9.0\] must be \[low, high\]"),
        ("training.augmentation.hue_deg=36", "hue_deg: expected a list, found 36"),
        (
            "training.distill={teacher: a, bevdistill: {dense: {overlap: 5}}}",
            "bevdistill.dense: overlap 5.0 must be between",
        ),
        (
            "training.distill={teacher: a, bevdistill: {contrast: {channels: 5000}}}",
            "channels 5000 must be from 1 to 4096",
        ),
        ("training.distill={teacher: a, distillbev: {score: 7}}", "distillbev: score 7.0 is no probability"),
        ("model.head.suppression.car.radius=-1", "model.head.suppression.car: radius must not be negative"),
    ],
)
def test_wrong_fields_are_named(override: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        load_config(NANO, [override])
    assert str(error.value).startswith(f"--set {override}") and NANO.name not in str(error.value)


def test_limits_themselves_are_allowed() -> None:
    augmentation = {
        "bev_scale": [0.01, 100],
        "image_shift": [-1, 1],
        "contrast": [0, 0],
        "rig_yaw_deg": [[-180, 180], [0, 0]],
    }
    given = {"loss.regress_radius": 0, "loss.min_radius": 0, "loss.box_weight": 0, "seed": 2**32 - 1}
    given |= {f"augmentation.{name}": value for name, value in augmentation.items()}
    config = load_config(NANO, [f"training.{name}={value}" for name, value in given.items()]).training
    assert (
        config.loss.regress_radius == 0 and config.augmentation.bev_scale == (0.01, 100.0) and config.seed == 2**32 - 1
    )


def test_who_is_to_blame_for_a_wrong_field_is_named(tmp_path) -> None:
    with pytest.raises(UsageError) as error:
        load_config(NANO, ["model.norm=group", "training.step=3", "training.seed=1"])
    assert str(error.value) == "--set training.step=3: training: unknown field 'step'; did you mean 'steps'?"
    with pytest.raises(
        UsageError, match=r"^--set training\.batch_size=3 --set training\.accumulate=2: training: batch_size 3 "
    ):
        load_config(NANO, ["training.batch_size=3", "training.seed=1", "training.accumulate=2"])
    with pytest.raises(
        UsageError, match="^--set training.step=3 --set training.step=3: training: unknown field 'step'"
    ):
        load_config(NANO, ["training.step=3"] * 2)
    # What is wrong in the file itself is the file's, whatever was laid over it.
    own = tmp_path / "own.yaml"
    data = yaml.safe_load(NANO.read_text())
    data["training"]["learning_rat"] = 1
    own.write_text(yaml.safe_dump(data))
    for overrides in ([], ["training.seed=1"]):
        with pytest.raises(
            UserError, match=r"own\.yaml: training: unknown field 'learning_rat'; did you mean 'learning_rate'"
        ) as error:
            load_config(own, overrides)
        assert not isinstance(error.value, UsageError)
    # Neither alone is wrong, and a field that is in order once the last one is laid there is in order.
    assert load_config(NANO, ["training.batch_size=3", "training.accumulate=3"]).training.accumulate == 3


def test_missing_files_and_fields_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("model: [unclosed")
    with pytest.raises(UserError, match=r"bad\.yaml: is not YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bad\.yaml: is not YAML"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="here: field 'name' is missing"):
        from_dict(
            ModelConfig,
            {"classes": ["car"], **dict.fromkeys(("image", "grid", "backbone", "lift", "bev", "head"))},
            "here",
        )
