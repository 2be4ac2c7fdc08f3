"""What models cost beside one another: parameters, a training step's forward and backward pass, one inference.

    python benchmark/model_cost.py nano simulated_nano teacher_fusion_nano
    python benchmark/model_cost.py nano simulated_nano teacher_fusion_nano --threads 1 --json benchmark/results/simulated_cost.json

Six cameras all around with noise as pictures, and 20 000 points a sample for those that see LiDAR. All models run in turn in one
process; ratios are of medians, to the first model. A step is of four samples, in training mode, with a calibration that changes
every time, as by augmentation; its loss is the mean square of what the heads give. An inference is of one sample, whose
calibration stays. On a CPU it is processor time that is taken, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.models import build_network
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.models.outputs import Outputs
from bevdistill_ros.training.config import find_config, load_config

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from medians import medians_ms
from results_file import write_result
from ring import ring

BATCH = 4
POINTS = 20_000


def make_inputs(network: BevNetwork, samples: int, device: torch.device) -> dict[str, Any]:
    """What the network asks for, by name."""
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    if "points" in network.inputs:
        reach, angle = np.abs(rng.normal(0, 20, (samples, POINTS))), rng.uniform(0, 2 * math.pi, (samples, POINTS))
        rest = [rng.uniform(-1, 2, reach.shape), rng.uniform(0, 255, reach.shape), np.zeros(reach.shape)]
        points = np.stack([reach * np.cos(angle), reach * np.sin(angle), *rest], axis=-1)
        inputs["points"] = [torch.from_numpy(own).float().to(device) for own in points]
    if "images" in network.inputs:
        image = network.config.image
        K, ego_T_cam, mask = ring(samples, image.height, image.width, device)
        pixels = rng.integers(0, 256, (*mask.shape, image.height, image.width, 3), dtype=np.uint8)
        inputs["images"] = torch.from_numpy(pixels).to(device)
        inputs |= {"K": K, "ego_T_cam": ego_T_cam, "mask": mask}
    return inputs


def loss_of(outputs: Outputs) -> Tensor:
    """Something that has a gradient everywhere."""
    tensors = []
    for head in (outputs.center, outputs.queries, outputs.image):
        tensors += [] if head is None else list(vars(head).values())
    return sum(tensor.float().square().mean() for tensor in tensors if isinstance(tensor, Tensor))


def step(network: BevNetwork, inputs: dict[str, Any]) -> None:
    """Forward and backward pass of a training."""
    network.train()
    network.zero_grad()
    if "ego_T_cam" in inputs:
        inputs["ego_T_cam"] = inputs["ego_T_cam"] + 1e-6
    loss_of(network(*(inputs[name] for name in network.inputs))).backward()


@torch.inference_mode()
def infer(network: BevNetwork, inputs: dict[str, Any]) -> None:
    """One pass, as a detector runs it."""
    network.eval()(*(inputs[name] for name in network.inputs))


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or files of configurations")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    networks = {name: build_network(load_config(find_config(name)).model).to(device) for name in options.models}
    batches = {name: make_inputs(network, BATCH, device) for name, network in networks.items()}
    singles = {name: make_inputs(network, 1, device) for name, network in networks.items()}
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    ways = {n: lambda n=n: step(networks[n], batches[n]) for n in networks}
    steps = medians_ms(ways, options.turns, device, clock)
    ways = {n: lambda n=n: infer(networks[n], singles[n]) for n in networks}
    inferences = medians_ms(ways, 3 * options.turns, device, clock)
    first = options.models[0]
    rows = {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            "ms_step": round(steps[name], 1),
            "ratio_step": round(steps[name] / steps[first], 3),
            "ms_inference": round(inferences[name], 1),
            "ratio_inference": round(inferences[name] / inferences[first], 3),
        }
        for name, network in networks.items()
    }
    report(f"{'model':28} {'parameters':>11} {'step ms':>9} {'ratio':>6} {'inference ms':>13} {'ratio':>6}")
    for name, row in rows.items():
        report(
            f"{name:28} {row['parameters']:11} {row['ms_step']:9} {row['ratio_step']:6} "
            f"{row['ms_inference']:13} {row['ratio_inference']:6}"
        )
    if options.json:
        settings = {"device": options.device, "threads": options.threads, "batch": BATCH, "turns": options.turns}
        write_result(options.json, {**settings, "models": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
