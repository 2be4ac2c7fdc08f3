"""Sampling of deformable attention against ``grid_sample``, which training uses.

    python benchmark/attention.py                                   # a table, bevformer_nano
    python benchmark/attention.py --json benchmark/results/attention.json
    python benchmark/attention.py --device cuda --models bevformer_nano bevformer_r50 --json benchmark/results/attention_cuda.json

The calls are those of one encoder layer and one decoder layer on random features, under a rig of six cameras all around: `bev`
reads the BEV map in the encoder, `images` the images, `decoder` the BEV map for the boxes. Medians, the ways run in turn in one
process; `forward` is what is used where no gradient is wanted. On CUDA the Triton kernels are measured, too, forward and backward,
whichever is the default; `gb_s` is what must move at least in a forward (each input read once, the result written once) over the
time.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bevdistill_ros.models import deformable_attention
from bevdistill_ros.models.bevformer_encoder import BevFormerEncoder
from bevdistill_ros.models.deformable_attention import deformable_sample
from bevdistill_ros.models.own_kernels import triton_can_run
from bevdistill_ros.models.query_head import QueryHead
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from kernel_benchmark import finish, make_parser, timed_ms
from ring import CAMERAS, ring

STRIDES = (8, 16, 32, 64)
"""Of the levels of image features."""

Call = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]


@torch.no_grad()
def calls_of(name: str, device: torch.device, dtype: torch.dtype) -> dict[str, Call]:
    """What one layer of a model's encoder and of its decoder samples, for one rig."""
    model = load_config(share_directory() / "config" / "models" / f"{name}.yaml").model
    image, settings = model.image, model.bevformer
    torch.manual_seed(0)
    encoder = BevFormerEncoder(dataclasses.replace(settings, layers=1), model.grid).to(device).eval()
    queries = dataclasses.replace(model.queries, layers=1)
    head = QueryHead(settings.channels, len(model.classes), model.grid, queries).to(device).eval()
    features = [
        torch.randn(1, CAMERAS, settings.channels, -(-image.height // stride), -(-image.width // stride), device=device)
        for stride in STRIDES[: settings.levels]
    ]
    seen: list[Call] = []

    def watched(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        seen.append((value.to(dtype), shapes, locations, weights.to(dtype)))
        return deformable_sample(value, shapes, locations, weights)

    with patch.object(deformable_attention, "deformable_sample", watched):
        head(encoder(features, *ring(1, image.height, image.width, device), (image.height, image.width)))
    return dict(zip(("bev", "images", "decoder"), seen, strict=True))


def measure(call: Call, repeats: int) -> dict[str, Any]:
    """All figures of one call."""
    value, shapes, locations, weights = call
    device = value.device

    of_sampled = torch.randn(*locations.shape[:2], value.shape[2] * value.shape[3], device=device)

    def with_gradient(use_triton: bool, backward: bool = False) -> Tensor:
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (value, locations, weights)]
            sampled = deformable_sample(inputs[0], shapes, *inputs[1:], use_triton)
            if backward:
                torch.autograd.grad(sampled, inputs, of_sampled)
        return sampled

    def without_gradient(use_triton: bool | None) -> Tensor:
        with torch.no_grad():
            return deformable_sample(value, shapes, locations, weights, use_triton)

    ways: dict[str, Callable[[], Tensor]] = {
        "grid_sample": partial(with_gradient, False),
        "forward": partial(without_gradient, None),
    }
    if triton_can_run(value, locations, weights):
        ways["triton"] = partial(without_gradient, True)
        ways["grid_sample_forward_backward"] = partial(with_gradient, False, True)
        ways["triton_forward_backward"] = partial(with_gradient, True, True)
    expected, *others = (way().detach() for way in ways.values())
    ms = timed_ms(ways, repeats, device)
    row = {
        "value": list(value.shape),
        "locations": list(locations.shape),
        "max_relative_error": max(float((found - expected).abs().max() / expected.abs().max()) for found in others),
        "ratio": {
            way: round(ms["grid_sample_forward_backward" if "backward" in way else "grid_sample"] / ms[way], 2)
            for way in ways
            if not way.startswith("grid_sample")
        },
        "ms": {way: round(taken, 4) for way, taken in ms.items()},
    }
    if device.type == "cuda":
        least = sum(t.numel() * t.element_size() for t in (value, locations, weights, expected))
        row["gb_s"] = {way: round(least / taken / 1e6) for way, taken in ms.items() if "backward" not in way}
    return row


def main(arguments: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    options = make_parser(__doc__, ["bevformer_nano"], "maps").parse_args(arguments)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    models = {
        name: {
            use: measure(call, options.repeats)
            for use, call in calls_of(name, device, getattr(torch, options.dtype)).items()
        }
        for name in options.models
    }
    for name, rows in models.items():
        for use, row in rows.items():
            report(f"{name:15} {use:8} times grid_sample's speed: {row['ratio']}; ms: {row['ms']}")
            if "gb_s" in row:
                report(f"{name:15} {use:8} gb_s: {row['gb_s']}")
    finish(options, models, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
