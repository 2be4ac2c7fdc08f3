"""How hard each loss of a training pulls at the student's image backbone, which all of them reach, and whereto.

    python benchmark/loss_gradients.py RUN --data DATA --scenes NAME ... --json FILE

RUN is the folder of a training, finished or not: its configuration, and its state with the adapters as they have learnt (those of
a training that has only begun pull anywhere). Of each loss, as it is weighted: its value, the norm of its gradient as a share of
that of detection (heatmap and boxes of the ground truth, or the queries'), and the cosine between the two. A loss whose share is
small does nothing; one that pulls harder than detection at a right angle to it takes the student elsewhere. Weights are linear:
a share of 0.02 that should be 0.5 needs 25 times the weight (`--set` tries it).
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.nuscenes import choose_samples, open_nuscenes, open_samples
from bevdistill_ros.training.distill.teacher import load_teacher
from bevdistill_ros.training.loader import AugmentedSamples, make_loader, to_device
from bevdistill_ros.training.module import DetectionModule
from bevdistill_ros.training.train_command import CONFIG_FILE, STATE_FILE

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result

DETECTION = ("heatmap", "box", "query_class", "query_box")
"""Losses of the ground truth, by name, as far as there are any of them."""


def compare(gradients: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Norm as a share of detection's, and cosine to it, of the gradient of each loss."""
    detection = sum(gradient for name, gradient in gradients.items() if name in DETECTION)
    return {
        name: (
            float(gradient.norm() / detection.norm()),
            float(torch.nn.functional.cosine_similarity(gradient, detection, dim=0)),
        )
        for name, gradient in gradients.items()
    }


def gradient_of(loss: Tensor, module: DetectionModule) -> Tensor:
    """Of the backbone's parameters, in one line; zero where the loss does not reach them."""
    parameters = [p for p in module.network.backbone.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def main() -> None:
    """Print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a training, the --output of `bevdistill train`"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field")
    parser.add_argument("--data", required=True)
    parser.add_argument("--version", help="folder of its tables (default: the only one)")
    parser.add_argument("--scenes", nargs="+", help="scenes by name (default: all)")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    fields = [*options.set, f"training.steps={options.batches}", "training.image_supervision.alone_steps=0"]
    config = load_config(options.run / CONFIG_FILE, fields)
    distill = config.training.distill
    torch.manual_seed(0)
    teacher = None if distill is None else load_teacher(distill.teacher, config.model)
    module = DetectionModule(config, teacher=teacher).to(device).train()
    state = torch.load(options.run / STATE_FILE, map_location=device, weights_only=True)
    module.load_state_dict(state["state_dict"])
    nusc = open_nuscenes(options.data, options.version)
    points = None if teacher is None else teacher.config.points
    samples = open_samples(nusc, choose_samples(nusc, None, options.scenes), config.model, points=points)
    loader = make_loader(AugmentedSamples(samples, config), config, 0, module.inputs)
    values: dict[str, list[float]] = {}
    pulls: dict[str, list[tuple[float, float]]] = {}
    for batch in islice(loader, options.batches):
        losses = module.losses(to_device(batch, device))
        for name, loss in losses.items():
            values.setdefault(name, []).append(float(loss.detach()))
        found = compare({name: gradient_of(loss, module) for name, loss in losses.items() if loss.requires_grad})
        for name, pull in found.items():
            pulls.setdefault(name, []).append(pull)
    figures = {}
    for name, each in values.items():
        shares, cosines = zip(*pulls[name], strict=True) if name in pulls else ([0.0], [0.0])
        figures[name] = {"value": mean(each), "share": mean(shares), "cosine": mean(cosines)}
        print(
            f"{name:24} value {mean(each):9.4f}   share of detection {mean(shares):8.4f}   cosine {mean(cosines):6.3f}"
        )
    if options.json is not None:
        write_result(options.json, {"batches": options.batches, "losses": figures})


if __name__ == "__main__":
    main()
