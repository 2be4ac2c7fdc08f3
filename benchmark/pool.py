"""BEV pooling against the straightforward scatter-add: values, gradients, time.

    python benchmark/pool.py                                        # a table
    python benchmark/pool.py --json benchmark/results/pool.json
    python benchmark/pool.py --device cuda --models lss_r50 --batch 1 --json benchmark/results/pool_cuda.json

Six cameras all around, 70 degrees wide, a batch of the size that each model trains with. `scatter_add` makes every point's
feature on the grid (its pixel's context times its depth's probability) and adds it to its cell. Ratios are of medians, the
ways run in turn in one process, with the points' cells known to all; to know and sort them, the plan, is timed apart.
`ratio_training_step` charges all of it to our side, as in training, where the calibration changes with every batch.

On CUDA `embedding_bag` and the Triton kernels are measured both, whichever is the default, with a cold cache and without what
the CPU takes to launch them; `gb_s` is what must move at least (each input read once, each result written once) over the time,
`copy_gb_s` what this GPU gives a copy. With `--tiles` other block sizes of ours are measured, too, and with `--beside FILE` a
kernel from elsewhere: a Python file with a class `Kernel(plan, bins)`, whose `forward(context, depth)` gives the cells' sums
(cells, C) and whose `gradients(of_cells, context, depth)` those of context and depth.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.bench.straightforward import scatter_add
from bevdistill_ros.models.bev_pool import PoolPlan, bev_pool
from bevdistill_ros.models.lift import Lift
from bevdistill_ros.models.own_kernels import triton_can_run
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from gpu_medians import gpu_medians_ms
from kernel_benchmark import finish, make_parser, timed_ms
from ring import CAMERAS, ring

Pool = Callable[[Tensor, Tensor, PoolPlan], Tensor]


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, as a share of the largest value."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def least_bytes(context: Tensor, depth: Tensor, plan: PoolPlan) -> tuple[int, int]:
    """What a forward must move, and a forward with a backward: each input that is used read once, each result written once."""

    def size(*tensors: Tensor) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    inputs = size(context) + len(plan.points) * depth.element_size()
    cells = 4 * plan.cells * context.shape[1]
    forward = inputs + size(plan.points, plan.pixels, plan.offsets) + cells
    backward = inputs + size(plan.points_by_pixel, plan.cells_by_pixel) + cells + size(context, depth)
    return forward, forward + backward


def tiles(context: Tensor, depth: Tensor, plan: PoolPlan, of_bev: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds on the GPU of the Triton kernels with other block sizes, best first, as "points channels warps" of the
    forward and "values warps" of the backward."""
    from bevdistill_ros.models.bev_pool_triton import Tile, pool_cells  # here: not everybody has triton

    tensors = plan.points, plan.pixels, plan.offsets, plan.points_by_pixel, plan.cells_by_pixel
    of_cells = of_bev.permute(0, 2, 3, 1).flatten(0, 2).contiguous()

    def forward(tile: Tile) -> Tensor:
        with torch.no_grad():
            return pool_cells(context, depth, *tensors, plan.cells, tile)

    forwards = {
        f"{points} {channels} {warps}": partial(forward, Tile(points, channels, warps))
        for points in (8, 16, 32, 64)
        for channels in (16, 32, 64, 128)
        for warps in (1, 2, 4)
        if 128 <= points * channels <= 4096
    }
    backwards = {}
    for values in (1024, 2048, 4096, 8192):
        for warps in (1, 2, 4, 8):
            pooled = pool_cells(
                context, depth, *tensors, plan.cells, Tile(gradient_values=values, gradient_warps=warps)
            )
            backwards[f"{values} {warps}"] = partial(
                torch.autograd.grad, pooled, (context, depth), of_cells, retain_graph=True
            )
    taken = {}
    for name, ways in (("forward", forwards), ("backward", backwards)):
        ms = gpu_medians_ms(ways, repeats, context.device)
        taken[name] = {tile: round(ms[tile], 4) for tile in sorted(ms, key=ms.get)}
    return taken


def measure(name: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model's shapes."""
    config = load_config(share_directory() / "config" / "models" / f"{name}.yaml")
    image, settings, batch = config.model.image, config.model.lift, options.batch or config.training.batch_size
    lift = Lift(settings, config.model.grid).to(device).train()  # in training a plan is never kept
    size = image.height // settings.stride, image.width // settings.stride
    calibration = ring(batch, image.height, image.width, device)
    plan = lift.plan(*calibration, size)

    torch.manual_seed(0)
    pixels = batch * CAMERAS * size[0] * size[1]
    context = torch.randn(pixels, settings.channels, device=device).to(getattr(torch, options.dtype)).requires_grad_()
    depth = torch.randn(pixels, settings.bins, device=device).softmax(dim=1).requires_grad_()
    of_bev = torch.randn(batch, settings.channels, *plan.shape[1:], device=device)

    def forward(pool: Pool) -> Tensor:
        with torch.no_grad():
            return pool(context, depth, plan)

    def both(pool: Pool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(pool(context, depth, plan), (context, depth), of_bev)

    pools: dict[str, Pool] = {"": bev_pool, "scatter_add_": scatter_add}
    if device.type == "cuda":
        pools["embedding_bag_"] = partial(bev_pool, use_triton=False)
        if triton_can_run(context, depth):
            pools["triton_"] = partial(bev_pool, use_triton=True)
    values = {way: (forward(pool), *both(pool)) for way, pool in pools.items()}
    ways: dict[str, Callable[[], object]] = {"plan": lambda: lift.plan(*calibration, size)}
    for way, pool in pools.items():
        ways[f"{way}forward"] = partial(forward, pool)
        ways[f"{way}forward_backward"] = partial(both, pool)
    if options.beside:
        spec = importlib.util.spec_from_file_location("beside", options.beside)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kernel = module.Kernel(plan, settings.bins)
        of_cells = of_bev.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        inputs = context.detach(), depth.detach()
        pooled = kernel.forward(*inputs).view(batch, *plan.shape[1:], -1).permute(0, 3, 1, 2)
        values["beside_"] = (pooled, *kernel.gradients(of_cells, *inputs))
        ways["beside_forward"] = lambda: kernel.forward(*inputs)
        ways["beside_forward_backward"] = lambda: (kernel.forward(*inputs), kernel.gradients(of_cells, *inputs))
    ms = timed_ms(ways, options.repeats, device)
    row = {
        "batch": batch,
        "points": len(plan.points),
        "channels": settings.channels,
        "max_relative_error": max(map(difference, values[""], values["scatter_add_"])),
        "ratio_forward": round(ms["scatter_add_forward"] / ms["forward"], 2),
        "ratio_forward_backward": round(ms["scatter_add_forward_backward"] / ms["forward_backward"], 2),
        "ratio_training_step": round(ms["scatter_add_forward_backward"] / (ms["plan"] + ms["forward_backward"]), 2),
        "ms": {way: round(value, 4 if device.type == "cuda" else 2) for way, value in ms.items()},
    }
    if device.type == "cuda":
        least = least_bytes(context, depth, plan)
        row["least_bytes"] = dict(zip(("forward", "forward_backward"), least))
        row["gb_s"] = {way: round(least["backward" in way] / ms[way] / 1e6) for way in ms if way != "plan"}
        row["max_relative_errors"] = {
            way.rstrip("_"): max(map(difference, found, values["scatter_add_"])) for way, found in values.items() if way
        }
    if options.tiles:
        row["tiles"] = tiles(context, depth, plan, of_bev, options.repeats)
    return row


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = make_parser(__doc__, ["nano", "small"], "context")
    parser.add_argument("--batch", type=int, help="rigs at once (default: as each model trains)")
    parser.add_argument("--beside", metavar="FILE", help="a Python file with another kernel to measure (CUDA)")
    parser.add_argument("--tiles", action="store_true", help="measure the Triton kernels' block sizes, too (CUDA)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if (options.beside or options.tiles) and device.type != "cuda":
        parser.error("--beside and --tiles need --device cuda")
    torch.set_num_threads(options.threads)
    models = {name: measure(name, device, options) for name in options.models}
    report(f"{'model':8} {'points':>8} {'forward':>8} {'+backward':>10} {'+plan':>6}   times scatter_add's speed; ms")
    for name, row in models.items():
        times = ", ".join(f"{way} {value}" for way, value in row["ms"].items())
        ratios = f"{row['ratio_forward']:8} {row['ratio_forward_backward']:10} {row['ratio_training_step']:6}"
        report(f"{name:8} {row['points']:8} {ratios}   {times}")
        for key in ("gb_s", "max_relative_errors", "tiles"):
            if key in row:
                report(f"{name:8} {key}: {row[key]}")
    finish(options, models, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
