"""What the benchmarks of single operators have in common: their options, how they time, and what they write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gpu_medians import copy_gb_s, gpu_medians_ms
from medians import medians_ms
from results_file import write_result


def make_parser(description: str, models: Sequence[str], of: str) -> argparse.ArgumentParser:
    """Options of them all.

    Args:
        models: whose shapes are measured by default.
        of: what ``--dtype`` is of.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=list(models), help=f"shapes of these (default: {' '.join(models)})"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help=f"of the {of}")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    return parser


def timed_ms(ways: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    return (gpu_medians_ms if device.type == "cuda" else medians_ms)(ways, repeats, device)


def finish(options: argparse.Namespace, models: dict[str, Any], report: Callable[[str], None]) -> None:
    """Write the figures of ``models``, and on CUDA what the device copies at."""
    figures = {"device": options.device, "dtype": options.dtype, "threads": options.threads, "models": models}
    device = torch.device(options.device)
    if device.type == "cuda":
        figures["copy_gb_s"] = round(copy_gb_s(device))
        report(f"copy_gb_s: {figures['copy_gb_s']}")
    if options.json:
        write_result(options.json, figures)
