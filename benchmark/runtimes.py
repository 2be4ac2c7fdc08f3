"""Every way for PyTorch to run the students, from decoded images to boxes, beside the network as it was written, in float32.

    python benchmark/runtimes.py --models nano --repeats 11                                        # the CPU's
    python benchmark/runtimes.py --device cuda --json benchmark/results/runtimes_cuda.json         # some minutes
    python benchmark/runtimes.py --device cuda --models lss_r50 --compiled                         # with torch.compile

Random weights, statistics of one set of random images; six cameras. A call is ``Detector``'s: upload, calibration, network,
boxes. The ways run in turn in one process, milliseconds are medians of what the caller waits. ``moving``: every set has a new
calibration, as of a robot that drives; ``still``: it stays. ``ratio`` is the network's as written over theirs, ``stages`` are those
of ``moving``. ``score_difference`` is the greatest between the 50 best boxes' scores and theirs. The threshold lets those 50 pass.
``--keep`` leaves the checkpoints there, for `bevdistill bench`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result
from ring import ring
from ways import AS_WRITTEN, make_ways

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import StudentConfig
from bevdistill_ros.detector import Detector
from bevdistill_ros.models import build_network
from bevdistill_ros.runtime.staging import image_rows
from bevdistill_ros.training.config import find_config, load_config

MODELS = ("nano", "small", "lss_r50", "bevformer_r50")
BOXES = 50
MOVED_M = 1e-3
"""A rig that moves is so much further forward in every set."""


def random_checkpoint(config: StudentConfig, device: torch.device) -> Checkpoint:
    """With statistics of real activations, so that no precision meets numbers that trained weights would not give."""
    torch.manual_seed(0)
    network = build_network(config).to(device).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    K, ego_T_cam, mask = ring(1, config.image.height, config.image.width, device)
    with torch.no_grad():
        network(torch.from_numpy(pictures(config))[None].to(device), K, ego_T_cam, mask)
    return Checkpoint(config, {name: value.cpu() for name, value in network.state_dict().items()}, (), {})


def pictures(config: StudentConfig) -> np.ndarray:
    """(6, H, W, 3) uint8."""
    size = (6, config.image.height, config.image.width, 3)
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def measure(detectors: dict[str, Detector], repeats: int) -> dict[str, dict[str, Any]]:
    """Figures by way."""
    config, device = detectors[AS_WRITTEN].config, detectors[AS_WRITTEN].device
    images = image_rows(pictures(config).shape, device)
    images[:] = pictures(config)
    K, pose = (value[0].numpy() for value in ring(1, config.image.height, config.image.width, torch.device("cpu"))[:2])
    best = {name: detector(images, K, pose).scores[:BOXES] for name, detector in detectors.items()}
    threshold = float(best[AS_WRITTEN][-1])
    taken: dict[str, dict[str, list[float]]] = {name: {"moving": [], "still": []} for name in detectors}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in detectors}
    for turn in range(repeats + 2):
        for name, detector in detectors.items():
            moved = pose.copy()
            moved[:, 0, 3] += (turn + 1) * MOVED_M
            for what in ("moving", "still"):  # the second call has the calibration of the first
                begin = time.perf_counter()
                detector(images, K, moved, score_threshold=threshold)
                if turn > 1:
                    taken[name][what].append(1e3 * (time.perf_counter() - begin))
                    if what == "moving":
                        stages[name].append(dict(detector.stage_times))
    figures = {}
    for name, detector in detectors.items():
        medians = {what: statistics.median(values) for what, values in taken[name].items()}
        count = min(len(best[name]), len(best[AS_WRITTEN]))
        figures[name] = {
            "runs": detector.backend,
            **{f"{what}_ms": round(value, 3) for what, value in medians.items()},
            **{
                f"{what}_ratio": round(statistics.median(taken[AS_WRITTEN][what]) / value, 2)
                for what, value in medians.items()
            },
            "stages": {
                stage: round(statistics.median(one[stage] for one in stages[name]), 3) for stage in stages[name][0]
            },
            "score_difference": round(float(np.abs(best[name][:count] - best[AS_WRITTEN][:count]).max()), 6),
        }
    return figures


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--compiled", action="store_true", help="on CUDA also by torch.compile: minutes a model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the checkpoints there")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
    if options.device != "cpu":
        backends = torch.backends
        figures["tf32"] = {"matmul": backends.cuda.matmul.allow_tf32, "convolution": backends.cudnn.allow_tf32}
    figures["models"] = {}
    for name in options.models:
        checkpoint = random_checkpoint(load_config(find_config(name)).model, torch.device(options.device))
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            save_checkpoint(options.keep / f"{name}.safetensors", checkpoint)
        figures["models"][name] = found = measure(
            make_ways(checkpoint, options.device, options.compiled), options.repeats
        )
        for way, row in found.items():
            print(
                f"{name}: {way}: {row['moving_ms']} ms ({row['moving_ratio']} times as fast), still {row['still_ms']} ms; "
                f"{row['runs']}; {row['stages']}; scores off by {row['score_difference']}",
                flush=True,
            )
        if options.json:  # after each, so that what takes too long leaves the rest
            write_result(options.json, figures)


if __name__ == "__main__":
    main()
