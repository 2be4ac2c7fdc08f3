"""BEV pooling against the straightforward scatter-add: values, gradients, time.

    python benchmark/pool.py                                        # a table
    python benchmark/pool.py --json benchmark/results/pool.json

Six cameras all around, 70 degrees wide, a batch of the size that each model trains with. `scatter_add` makes every point's
feature on the grid (its pixel's context times its depth's probability) and adds it to its cell. Ratios are of medians, the two
ways run in turn in one process, with the points' cells known to both; to know and sort them, the plan, is timed apart.
`ratio_training_step` charges all of it to our side, as in training, where the calibration changes with every batch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.geometry import make_transform, rotation_z
from bevdistill_ros.models.bev_pool import PoolPlan, bev_pool
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from medians import medians_ms
from results_file import write_result

CAMERAS = 6
FIELD_OF_VIEW_DEG = 70.0
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # a camera that looks along x


def scatter_add(context: Tensor, depth: Tensor, plan: PoolPlan) -> Tensor:
    """What ``bev_pool`` gives, by a feature of every point."""
    batch, rows, columns = plan.shape
    pixels = plan.points_by_pixel // depth.shape[1]
    features = context[pixels] * depth.flatten()[plan.points_by_pixel, None]
    cells = torch.zeros(batch * rows * columns, context.shape[1], device=context.device)
    return cells.index_add(0, plan.cells_by_pixel, features).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """All figures of one model's shapes."""
    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml")
    image, settings, batch = config.model.image, config.model.lift, config.training.batch_size
    lift = Lift(settings, config.model.grid).to(device).train()  # in training a plan is never kept
    size = image.height // settings.stride, image.width // settings.stride
    focal = image.width / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG / 2))
    K = torch.tensor([[focal, 0, image.width / 2 - 0.5], [0, focal, image.height / 2 - 0.5], [0, 0, 1]])
    ego_T_cam = [
        make_transform(rotation_z(2 * math.pi * i / CAMERAS) @ OPTICAL, np.array([0, 0, 1.6])) for i in range(CAMERAS)
    ]
    calibration = (
        K.expand(batch, CAMERAS, 3, 3).to(device),
        torch.from_numpy(np.stack(ego_T_cam)).float().expand(batch, CAMERAS, 4, 4).to(device),
        torch.ones(batch, CAMERAS, dtype=torch.bool, device=device),
    )
    plan = lift.plan(*calibration, size)

    torch.manual_seed(0)
    pixels = batch * CAMERAS * size[0] * size[1]
    context = torch.randn(pixels, settings.channels, device=device, requires_grad=True)
    depth = torch.randn(pixels, settings.bins, device=device).softmax(dim=1).requires_grad_()
    of_bev = torch.randn(batch, settings.channels, *plan.shape[1:], device=device)

    def forward(pool: Callable[[Tensor, Tensor, PoolPlan], Tensor]) -> Tensor:
        with torch.no_grad():
            return pool(context, depth, plan)

    def both(pool: Callable[[Tensor, Tensor, PoolPlan], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(pool(context, depth, plan), (context, depth), of_bev)

    ours, theirs = (forward(bev_pool), *both(bev_pool)), (forward(scatter_add), *both(scatter_add))
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs))
    ways = {
        "plan": lambda: lift.plan(*calibration, size),
        "forward": lambda: forward(bev_pool),
        "scatter_add_forward": lambda: forward(scatter_add),
        "forward_backward": lambda: both(bev_pool),
        "scatter_add_forward_backward": lambda: both(scatter_add),
    }
    ms = medians_ms(ways, repeats, device)
    return {
        "batch": batch,
        "points": len(plan.points),
        "channels": settings.channels,
        "max_relative_error": error,
        "ratio_forward": round(ms["scatter_add_forward"] / ms["forward"], 2),
        "ratio_forward_backward": round(ms["scatter_add_forward_backward"] / ms["forward_backward"], 2),
        "ratio_training_step": round(ms["scatter_add_forward_backward"] / (ms["plan"] + ms["forward_backward"]), 2),
        "ms": {way: round(value, 2) for way, value in ms.items()},
    }


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nano", "small"], help="shapes of these (default: nano small)")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    models = {name: measure(name, device, options.repeats) for name in options.models}
    report(f"{'model':8} {'points':>8} {'forward':>8} {'+backward':>10} {'+plan':>6}   times scatter_add's speed; ms")
    for name, row in models.items():
        times = ", ".join(f"{way} {value}" for way, value in row["ms"].items())
        ratios = f"{row['ratio_forward']:8} {row['ratio_forward_backward']:10} {row['ratio_training_step']:6}"
        report(f"{name:8} {row['points']:8} {ratios}   {times}")
    if options.json:
        write_result(options.json, {"device": options.device, "threads": options.threads, "models": models})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
