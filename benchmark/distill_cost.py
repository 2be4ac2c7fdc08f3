"""What a distilled training step costs, as a ratio to a plain one of the same student on the same samples.

    python benchmark/distill_cost.py benchmark/sixcam_nano.yaml --rows student fitnet distillbev bevdistill --data DATA \\
        --scenes NAME --teacher CHECKPOINT --json benchmark/results/distill_cost.json

The rows are those of a recipe of sixcam, with its settings; the first is what the others are compared with. A step is everything
from a batch in memory to updated weights: forward and backward pass, the teacher, all losses, AdamW. All run in turn in one
process, on the same batches; ratios are of medians. Loading is not part of it: a distilled training loads LiDAR points as well,
which a plain one with `training.image_supervision` does, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import yaml

from bevdistill_ros.training.config import Config
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.distill.teacher import load_teacher
from bevdistill_ros.training.loader import AugmentedSamples, make_loader, to_device
from bevdistill_ros.training.module import DetectionModule

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from medians import medians_ms
from results_file import write_result
from sixcam import config_of


class Way:
    """A training of one method, or of none, without a trainer about it."""

    def __init__(self, config: Config, device: torch.device) -> None:
        distill = config.training.distill
        torch.manual_seed(0)
        teacher = None if distill is None else load_teacher(distill.teacher, config.model)
        self.module = DetectionModule(config, teacher=teacher).to(device).train()
        self.optimizer = torch.optim.AdamW(self.module.parameters(), 1e-4)
        self._mixed = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16-mixed")

    def step(self, batch: dict[str, Any]) -> None:
        """One."""
        self.optimizer.zero_grad()
        with self._mixed:
            loss = sum(self.module.losses(batch).values())
        loss.backward()
        self.optimizer.step()


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="of sixcam")
    parser.add_argument("--rows", nargs="+", required=True, help="an undistilled one first")
    parser.add_argument("--data", required=True, help="a dataset in the nuScenes schema, with LiDAR")
    parser.add_argument("--version", help="folder of its tables (default: the only one)")
    parser.add_argument("--scenes", nargs="+", help="scenes by name (default: all)")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of a teacher")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    rows = yaml.safe_load(options.recipe.read_text())["rows"]
    whole = {"training.image_supervision.alone_steps": 0}  # a step of detection, whatever a row begins with
    configs = {
        name: config_of({**rows[name], "set": {**rows[name]["set"], **whole}}, options.teacher) for name in options.rows
    }
    plain, *_, last = configs.values()
    ways = {name: Way(config, device) for name, config in configs.items()}

    nusc = open_nuscenes(options.data, options.version)
    points = load_teacher(options.teacher, last.model).config.points
    samples = open_samples(nusc, choose_samples(nusc, None, options.scenes), plain.model, points=points)
    loader = make_loader(AugmentedSamples(samples, plain), plain, 0, ways[options.rows[-1]].module.inputs)
    batches = [to_device(batch, device) for batch in islice(loader, min(4, plain.training.steps))]

    steps = {name: partial(next, map(way.step, cycle(batches))) for name, way in ways.items()}
    ms = medians_ms(steps, options.turns, device)
    ratios = {name: round(value / ms[options.rows[0]], 3) for name, value in ms.items()}
    for name, ratio in ratios.items():
        report(f"{name:22} {ms[name]:9.1f} ms {ratio:7.3f}")
    if options.json:
        figures = {
            "ratio_step": ratios,
            "ms_step": {name: round(value, 1) for name, value in ms.items()},
            "student": plain.model.name,
            "precision": plain.training.precision,
            "batch": plain.training.batch_size,
            "points": round(statistics.mean(len(own) for batch in batches for own in batch["points"])),
            "device": options.device,
            "threads": options.threads,
            "turns": options.turns,
        }
        write_result(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
