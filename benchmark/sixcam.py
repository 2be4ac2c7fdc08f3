"""The benchmark `sixcam`: a fixed recipe over the synthetic world, on which students, teachers and distillation are compared.

A recipe (sixcam_nano.yaml for two CPU cores) holds the drives, which of them are for training, tuning and scoring, and the rows: a
configuration with its steps, the scenes it learns from, and the rows that it builds on. Rows of one seed begin with the same
weights and see the same samples in the same order. Choices are made on `tune`; figures are of `val`.

    python benchmark/sixcam.py benchmark/sixcam_nano.yaml --data DATA --runs RUNS --row student --seed 0
    python benchmark/sixcam.py benchmark/sixcam_nano.yaml --data DATA --runs RUNS --row fitnet --split tune \
        --name fitnet_3 --set training.distill.fitnet.weight=3 --set training.steps=1000      # a try
    python benchmark/sixcam.py benchmark/sixcam_nano.yaml --table

The first makes what is missing of DATA and of the row's teacher, trains, scores, and appends a line to the results. Trainings that
were interrupted go on; with --minutes they stop after so long, and the same command goes on the next time.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results_file import REPOSITORY, command_line, commit

from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import hardware
from bevdistill_ros.training.config import Config, find_config, load_config
from bevdistill_ros.training.locks import locked

RESULTS = REPOSITORY / "benchmark" / "results" / "sixcam.jsonl"
VERSION = "v1.0-world"
LABELS = "v1.0-labels-{row}"
"""Version of the tables in DATA that a row's checkpoint has labelled."""

KEY = ("size", "row", "start", "steps", "split")
"""What lines of the results have in common that differ in their seed alone."""

ROW = "row.json"
"""What is trained in a folder."""

TEACHER_SEED = 0
"""One teacher labels for and teaches students of all seeds."""


def run_verb(*arguments: str, stop_at: float | None = None) -> None:
    """Run `bevdistill`, and interrupt it at the time ``stop_at``: it then keeps what it has done.

    Raises:
        SystemExit: it failed, or was interrupted.
    """
    process = subprocess.Popen([sys.executable, "-m", "bevdistill_ros", *arguments])
    try:
        process.wait(None if stop_at is None else max(1.0, stop_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise SystemExit("the time is over; the same command goes on") from None
    except KeyboardInterrupt:
        process.wait()
        raise SystemExit(130) from None
    if process.returncode:
        raise SystemExit(process.returncode)


def make_world(recipe: dict, data: Path) -> None:
    """Make the drives, or what is missing of them. Rows that are begun side by side wait for one another here."""
    with locked(data / ".sixcam.lock"):
        for drives in recipe["world"]:
            options = [f"--{name}={drives[name]}" for name in ("split", "drives", "duration")]
            run_verb("world", "--output", str(data), *options)


def scenes(recipe: dict, name: str) -> list[str]:
    """Names of a set of drives."""
    chosen = recipe["scenes"][name]
    return [f"{chosen['split']}-0-{number:04d}" for number in range(chosen["first"], chosen["last"] + 1)]


def overrides(row: dict[str, Any], teacher: Path | None = None) -> list[str]:
    """A row's settings as `--set` takes them, with the teacher that it distils from."""
    fields = {**row.get("set", {})}
    if teacher is not None:
        fields["training.distill.teacher"] = str(teacher)
    return [f"{field}={json.dumps(value)}" for field, value in fields.items()]  # JSON is YAML


def config_of(row: dict[str, Any], teacher: Path) -> Config:
    """The configuration that a row is trained with; ``teacher`` is the checkpoint of what it is taught by, if it is."""
    return load_config(find_config(row["config"]), overrides(row, teacher if "taught_by" in row else None))


def train_row(
    recipe: dict,
    name: str,
    seed: int,
    arguments: argparse.Namespace,
    stop_at: float | None,
    called: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """The checkpoint of a row, trained if it is not there yet; with ``settings`` of its own, under another name.

    Raises:
        SystemExit: what is there was trained otherwise, or the training failed or was interrupted.
    """
    row = {**recipe["rows"][name]}
    row["set"] = {**row.get("set", {}), "training.seed": seed, **(settings or {})}
    folder = arguments.runs / f"{recipe['size']}_{called or name}_{seed}"
    claim(folder, {**row, "drives": recipe["scenes"][row["scenes"]]})
    checkpoint = folder / "model.safetensors"
    if checkpoint.exists():
        return checkpoint
    data = ["--data", str(arguments.data)]
    chosen = ["--scenes", *scenes(recipe, row["scenes"])]
    version = VERSION
    teacher = None
    if "labels_of" in row:
        version = LABELS.format(row=row["labels_of"])
        if not (arguments.data / version).is_dir():
            labeller = train_row(recipe, row["labels_of"], TEACHER_SEED, arguments, stop_at)
            label = ["label", str(labeller), *data, "--version", VERSION]
            thresholds = str(labeller.parent / "thresholds.json")
            run_verb(*label, "--scenes", *scenes(recipe, "tune"), "--calibrate", thresholds)
            run_verb(
                *label, "--scenes", *scenes(recipe, row["scenes"]), "--thresholds", thresholds, "--output", version
            )
    if "taught_by" in row:
        teacher = train_row(recipe, row["taught_by"], TEACHER_SEED, arguments, stop_at)
    options = ["--resume"]
    if not (folder / "last.ckpt").exists():
        options = ["--config", row["config"]]
        starts = [str(REPOSITORY / row["weights"])] if "weights" in row else []
        starts += [str(train_row(recipe, start, seed, arguments, stop_at)) for start in row.get("weights_of", [])]
        if starts:
            options += ["--weights", *starts]
    for override in overrides(row, teacher):
        options += ["--set", override]
    if row.get("images", True):
        options += ["--cache-images", str(arguments.runs / "image_cache")]
    options += ["--output", str(folder), "--json", str(folder / "train.json"), "--device", arguments.device]
    run_verb("train", *data, "--version", version, *chosen, *options, stop_at=stop_at)
    return checkpoint


def claim(folder: Path, row: dict[str, Any]) -> None:
    """Note in ``folder`` what is trained there, and on which commit that was begun.

    Raises:
        SystemExit: something else is.
    """
    note = folder / ROW
    if not note.exists():
        if (folder / "last.ckpt").exists():
            raise SystemExit(f"{folder}: it has no {ROW}, so nobody knows how it was trained: remove it")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(note, json.dumps({"row": row, "commit": commit()}, indent=2) + "\n")
    elif json.loads(note.read_text())["row"] != row:
        raise SystemExit(
            f"{note}: this was trained otherwise than the recipe and --set now say: remove it, or use --name"
        )


def score(recipe: dict, checkpoint: Path, scene_set: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """mAP, NDS, errors and AP at 2 m of a checkpoint."""
    result = checkpoint.parent / f"{scene_set}.json"
    data = ["--data", str(arguments.data), "--version", VERSION, "--scenes", *scenes(recipe, scene_set)]
    run_verb("evaluate", str(checkpoint), *data, "--json", str(result), "--device", arguments.device)
    found = json.loads(result.read_text())["checkpoints"][0]["runs"][0]
    by_class = {name: round(values["ap"]["2.0"], 4) for name, values in found["classes"].items()}
    return {**{key: found[key] for key in ("mAP", "NDS", "errors")}, "ap_2m_by_class": by_class}


def table(results: Path, size: str) -> str:
    """Mean and spread of every row of a recipe's size over its seeds."""
    lines = [line for line in map(json.loads, results.read_text().splitlines()) if line["size"] == size]
    rows: dict[tuple, dict[int, dict]] = {}
    for line in lines:  # what was scored again counts once
        rows.setdefault(tuple(line[key] for key in KEY), {})[line["seed"]] = line
    out = [f"{'size':<6}{'row':<28}{'start':<18}{'steps':>7} {'scored on':<10}{'seeds':>6}  {'mAP':>16}  {'NDS':>16}"]
    for (size, row, start, steps, split), found in rows.items():
        figures = []
        for key in ("mAP", "NDS"):
            values = [line[key] for line in found.values()]
            figures.append(f"{mean(values):.3f}" + (f" +- {stdev(values):.3f}" if len(values) > 1 else ""))
        key = f"{size:<6}{row:<28}{start:<18}{steps:>7} {split:<10}"
        out.append(f"{key}{len(found):>6}  {figures[0]:>16}  {figures[1]:>16}")
    return "\n".join(out)


def main() -> None:
    """Run a row, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the dataset; made where it is missing")
    parser.add_argument("--runs", type=Path, help="folder for trainings")
    parser.add_argument("--row", help="which row of the recipe to train and score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="val", choices=("tune", "val"), help="what it is scored on (default: val)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--minutes", type=float, help="stop a training after so long")
    parser.add_argument(
        "--set",
        type=_field,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting of the row's own, for a try; needs --name",
    )
    parser.add_argument(
        "--name", help="what the row is called in the results with these settings (default: its own name)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmark/results/sixcam.jsonl")
    parser.add_argument("--table", action="store_true", help="print mean and spread of every row in the results")
    arguments = parser.parse_args()
    arguments.set = dict(arguments.set)
    recipe = yaml.safe_load(arguments.recipe.read_text())
    if arguments.table:
        print(table(arguments.results, recipe["size"]))
        return
    if not (arguments.row and arguments.data and arguments.runs) or arguments.row not in recipe["rows"]:
        parser.error(f"--data, --runs and --row are needed; rows are {', '.join(recipe['rows'])}")
    if arguments.set and arguments.name in (None, *recipe["rows"]):
        parser.error("--set changes a row: give what comes of it a name of its own by --name")
    stop_at = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    make_world(recipe, arguments.data)
    checkpoint = train_row(
        recipe, arguments.row, arguments.seed, arguments, stop_at, called=arguments.name, settings=arguments.set
    )
    trained = json.loads((checkpoint.parent / "train.json").read_text())
    row = recipe["rows"][arguments.row]
    line = {
        "size": recipe["size"],
        "row": arguments.name or arguments.row,
        "model": row["config"],
        "method": row.get("method", "none"),
        "start": " + ".join(row.get("weights_of", [Path(row.get("weights", "nothing")).stem])),
        "seed": arguments.seed,
        "steps": trained["steps"],
        "split": arguments.split,
        **score(recipe, checkpoint, arguments.split, arguments),
        "wall_s": trained["wall_s"],
        "cpu_s": trained["cpu_s"],
        "set": arguments.set,
        "command": command_line(),
        "commit": json.loads((checkpoint.parent / ROW).read_text())["commit"],
        "scored_at_commit": commit(),
        "hardware": hardware(),
    }
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=2))


def _field(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not FIELD=VALUE")
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    main()
