"""From recorded bags to a detector, each step a command that a user would give:

drives with labels, drives without, drives to test on (bags all) -> a LiDAR teacher of the first -> its labels for the second -> a
camera student on those labels alone -> both scored on the third -> the student in the detector node, on a drive that is played.

    python benchmark/chain.py --output FOLDER --json benchmark/results/chain.json
    python benchmark/chain.py --output FOLDER --drives 2 --duration 2 --teacher-steps 20 --student-steps 20     # only that it runs

What is finished in FOLDER is kept. The sizes are small: the figures show that the chain holds, sixcam measures what it gives.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result
from sixcam import run_verb

TEST_SPLIT = "held_out"
LABELS = "v1.0-labels"


class Chain:
    """Runs the verbs one after the other, prints each as it would be typed, and takes its time."""

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._folder = folder

    def run(self, step: str, *words: object, made: Path | None = None) -> None:
        """``bevdistill WORDS``, unless the file that it makes is there.

        Raises:
            SystemExit: it failed, or was interrupted.
        """
        arguments = [str(word) for word in words]
        typed = " ".join(arguments).replace(f"{self._folder}/", "")
        if made and made.exists():
            print(f"{step}: is there ({made})", flush=True)
            return
        print(f"{step}: bevdistill {typed}", flush=True)
        began = time.monotonic()
        run_verb(*arguments)
        self.seconds[step] = round(time.monotonic() - began, 1)


def without_labels(rig: Path, unlabelled: Path) -> None:
    """The rig file of a robot that has no labels."""
    content = yaml.safe_load(rig.read_text())
    del content["annotations"]
    unlabelled.write_text(yaml.safe_dump(content))


def main(arguments: list[str] | None = None) -> int:
    """Run the chain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for bags, datasets and trainings")
    parser.add_argument("--drives", type=int, default=16, help="with labels, and as many without (default: 16)")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of a drive (default: 8)")
    parser.add_argument("--teacher-steps", type=int, default=1000)
    parser.add_argument("--student-steps", type=int, default=1000)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of both trainings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    folder = options.output.absolute()
    bags, data, runs = folder / "bags", folder / "data", folder / "runs"
    teacher, student = runs / "teacher" / "model.safetensors", runs / "student" / "model.safetensors"
    chain = Chain(folder)

    drives = [f"--drives={options.drives}", f"--duration={options.duration}"]
    tests = max(1, options.drives // 4)
    test_drives = ["--split", TEST_SPLIT, f"--drives={tests}", f"--duration={options.duration}"]
    chain.run("bags with labels", "world", "--bags", bags / "labelled", "--split", "world_train", *drives)
    chain.run("bags without", "world", "--bags", bags / "unlabelled", "--split", "world_train", "--seed", 1, *drives)
    chain.run("bags to test on", "world", "--bags", bags / "test", *test_drives)

    fields = [f"--set={field}" for field in options.set]
    steps = f"--set=training.steps={options.teacher_steps}"
    train = ["train", "--config", "teacher_nano", "--bags", bags / "labelled", "--output", runs / "teacher"]
    chain.run("teacher", *train, steps, *fields, made=teacher)
    rig = runs / "teacher" / "rig.yaml"
    rig_without = folder / "rig_without_labels.yaml"
    without_labels(rig, rig_without)
    chain.run(
        "conversion", "convert", "--bags", bags / "unlabelled", "--rig", rig_without, "--output", data / "unlabelled"
    )
    words = ["label", teacher, "--data", data / "unlabelled", "--output", LABELS]
    chain.run("labels", *words, made=data / "unlabelled" / LABELS / "label.json")
    # A third of the student's steps teach its images alone what LiDAR sees; then it learns to detect.
    steps = [f"--set=training.steps={options.student_steps}"]
    steps += [f"--set=training.image_supervision.alone_steps={options.student_steps // 3}"]
    words = ["train", "--config", "nano", "--data", data / "unlabelled", "--version", LABELS, "--cache-images"]
    chain.run("student on labels", *words, "--output", runs / "student", *steps, *fields, made=student)
    chain.run("test data", "convert", "--bags", bags / "test", "--rig", rig, "--output", data / "test")
    scores = folder / "scores.json"
    chain.run("scores", "evaluate", teacher, student, "--data", data / "test", "--json", scores)
    demo = folder / "demo"
    chain.run("detector", "demo", "--model", student, "--output", demo, f"--duration={options.duration}")

    figures = {
        "drives": {"with labels": options.drives, "without": options.drives, "to test on": tests},
        "duration_s": options.duration,
        "steps": {"teacher": options.teacher_steps, "student": options.student_steps},
        **summarise(json.loads(scores.read_text()), json.loads((demo / "summary.json").read_text())),
        "seconds": chain.seconds,
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        write_result(options.json, figures)
    return 0


def summarise(scores: dict[str, Any], demo: dict[str, Any]) -> dict[str, Any]:
    """What came of it: scores of both, and of the node."""
    teacher, student = (checkpoint["runs"][0] for checkpoint in scores["checkpoints"])
    found = {
        name: {"mAP": run["mAP"], "NDS": run["NDS"], "car_ap_2m": run["classes"]["car"]["ap"]["2.0"]}
        for name, run in (("teacher", teacher), ("student on its labels", student))
    }
    node = {key: demo[key] for key in ("frames", "sets", "failed_sets", "detections", "ap_2m")}
    return {"test drives": found, "detector node": node}


if __name__ == "__main__":
    raise SystemExit(main())
