"""The recipes of the benchmark `sixcam`: every row can be trained, and rows that are compared differ in nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint
from bevdistill_ros.models import build_network
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.distill.distillation import Distillation

BENCHMARK = Path(__file__).resolve().parent.parent.parent / "benchmark"
RECIPES = {path.name: yaml.safe_load(path.read_text()) for path in sorted(BENCHMARK.glob("sixcam_*.yaml"))}
ROWS = [(recipe, row) for recipe, content in RECIPES.items() for row in content["rows"]]


@pytest.fixture(scope="module")
def sixcam(load_benchmark):
    return load_benchmark("sixcam")


@pytest.mark.parametrize(("recipe", "row"), ROWS, ids=lambda value: value.removesuffix(".yaml"))
def test_row_and_what_it_builds_on_can_be_made(sixcam, recipe, row):
    recipe = RECIPES[recipe]

    def config_of(name):
        return sixcam.config_of(recipe["rows"][name], "teacher.safetensors")

    fields = recipe["rows"][row]
    assert fields["scenes"] in recipe["scenes"]
    if "labels_of" in fields:
        labelled, known = (
            set(sixcam.scenes(recipe, row["scenes"])) for row in (fields, recipe["rows"][fields["labels_of"]])
        )
        assert not labelled & known, "labels of scenes that the teacher knows prove nothing"
    config = config_of(row)
    assert (config.training.distill is not None) == ("taught_by" in fields)
    if "taught_by" in fields:
        model = config_of(fields["taught_by"]).model
        torch.manual_seed(0)
        teacher = Checkpoint(model, build_network(model).state_dict(), cameras=(), training={})
        Distillation(config.training.distill, build_network(config.model), teacher)
    states = [build_network(config_of(start).model).state_dict() for start in fields.get("weights_of", [])]
    if "weights" in fields:
        states.append(load_checkpoint(BENCHMARK.parent / fields["weights"]).state)
    if states:
        own = build_network(config.model).state_dict()
        for start in states:  # each gives at least a backbone, of images or of points
            shared = {name for name in own if name in start and own[name].shape == start[name].shape}
            assert {"backbone", "second"} & {name.split(".")[0] for name in shared}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_rows_of_one_student_differ_in_distillation_alone(recipe):
    """Distilled rows: the start, the scenes and the settings of the undistilled row of the same student."""
    plain = {"nano": "student", "small": "student", "bevformer_nano": "bevformer"}
    plain |= {name: "simulated" for name in ("simulated_nano", "simulated_small")}
    compared = 0
    for name, row in recipe["rows"].items():
        if "taught_by" not in row or "uncompensated" in name:
            continue
        other = recipe["rows"][plain[row["config"]]]
        own = {k: v for k, v in row["set"].items() if not k.startswith("training.distill.")}
        assert own == other["set"], name
        assert all(row.get(key) == other.get(key) for key in ("scenes", "weights", "weights_of", "config")), name
        assert row["method"] != "none"
        compared += 1
    assert compared


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_scenes_of_training_tuning_and_scoring_are_apart(sixcam, recipe):
    sets = {name: set(sixcam.scenes(recipe, name)) for name in recipe["scenes"]}
    for name in ("tune", "val"):
        assert not any(sets[name] & others for other, others in sets.items() if other != name)
    assert not sets["train"] & sets["more"]
    made = {drives["split"]: drives["drives"] for drives in recipe["world"]}
    assert all(chosen["last"] < made[chosen["split"]] for chosen in recipe["scenes"].values())


def test_shipped_settings_are_those_that_are_measured():
    rows = RECIPES["sixcam_nano.yaml"]["rows"]
    for method in ("bevdistill", "bevsimdet"):
        shipped = yaml.safe_load((share_directory() / "config" / "distill" / f"{method}_nano.yaml").read_text())
        assert shipped == rows[method]["set"][f"training.distill.{method}"]


def test_table_has_the_mean_and_spread_of_the_seeds(sixcam, tmp_path):
    results = tmp_path / "sixcam.jsonl"
    common = {"size": "nano", "row": "student", "start": "nano", "steps": 10, "split": "val"}
    lines = [{**common, "seed": s, "mAP": m, "NDS": 0.2} for s, m in enumerate((0.1, 0.2, 0.9))]
    lines.append({**common, "seed": 2, "mAP": 0.3, "NDS": 0.2})  # scored again
    lines.append({**common, "start": "images", "seed": 0, "mAP": 0.05, "NDS": 0.1})
    lines.append({**common, "row": "teacher", "start": "nothing", "seed": 0, "mAP": 0.5, "NDS": 0.4})
    lines.append({**lines[0], "size": "small"})  # of another recipe
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, student, other_start, teacher = sixcam.table(results, "nano").splitlines()
    assert "0.200 +- 0.100" in student and "0.200 +- 0.000" in student and " 3 " in student
    assert "0.050" in other_start and "+-" not in other_start
    assert "0.500" in teacher and "+-" not in teacher


def test_a_folder_keeps_to_what_is_trained_in_it(sixcam, tmp_path):
    row = {"config": "nano", "set": {"training.steps": 10}}
    folder = tmp_path / "nano_student_0"
    sixcam.claim(folder, row)
    began = (folder / sixcam.ROW).read_text()
    sixcam.claim(folder, {**row})  # the same again goes on
    with pytest.raises(SystemExit, match="trained otherwise than the recipe"):
        sixcam.claim(folder, {**row, "set": {"training.steps": 20}})
    assert (folder / sixcam.ROW).read_text() == began and len(json.loads(began)["commit"]) > 3
    unknown = tmp_path / "nano_other_0"
    unknown.mkdir()
    (unknown / "last.ckpt").touch()
    with pytest.raises(SystemExit, match="nobody knows how it was trained"):
        sixcam.claim(unknown, row)
