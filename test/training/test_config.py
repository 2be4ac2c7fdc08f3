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
from bevdistill_ros.errors import UserError
from bevdistill_ros.paths import share_directory
from bevdistill_ros.plain_data import from_dict, to_dict
from bevdistill_ros.training.config import Config, Schedule, load_config

FOLDER = share_directory() / "config" / "models"
MODELS = sorted(FOLDER.glob("*.yaml"))
NANO = FOLDER / "nano.yaml"


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shipped_configurations_read_and_round_trip(path) -> None:
    config = load_config(path)
    assert config.model.name == path.stem
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config))), "again") == config


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
    ],
)
def test_wrong_fields_are_named(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config(NANO, [override])


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
