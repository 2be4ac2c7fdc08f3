"""The processes that train together: one a device, started here by Lightning, or outside by torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from bevdistill_ros.detector import choose_device
from bevdistill_ros.errors import UsageError, UserError
from bevdistill_ros.training.config import Config

PATIENCE = timedelta(hours=2)
"""So long the others wait for a process, as for the first one when it validates."""


@dataclass(frozen=True)
class Processes:
    """What a training runs on.

    Attributes:
        device: "cpu" or "cuda".
        devices: processes on each machine.
        nodes: machines.
        started_outside: by torchrun, not by the first process.
    """

    device: str
    devices: int = 1
    nodes: int = 1
    started_outside: bool = False

    @property
    def count(self) -> int:
        """All of them."""
        return self.devices * self.nodes

    def check(self, config: Config) -> None:
        """Raise UserError unless a step's batch can be divided among them."""
        training = config.training
        parts = self.count * training.accumulate
        if training.batch_size % parts:
            raise UserError(
                f"training.batch_size {training.batch_size} is that of all processes together and must be a multiple of {parts} "
                f"({self.count} processes, training.accumulate {training.accumulate})"
            )

    def trainer_options(self, config: Config) -> dict[str, Any]:
        """Arguments of ``lightning.Trainer``."""
        strategy: str | DDPStrategy = "auto"
        if self.count > 1:
            # Where LiDAR teaches the images alone at first, or nothing of their classes, a step does not use all weights.
            supervision = config.training.image_supervision
            unused = supervision.used and (supervision.alone_steps > 0 or not supervision.classes)
            strategy = DDPStrategy(timeout=PATIENCE, find_unused_parameters=unused)
        return {
            "accelerator": "gpu" if self.device == "cuda" else self.device,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": strategy,
            # PyTorch has no synchronised batch normalisation on the CPU.
            "sync_batchnorm": self.count > 1 and self.device == "cuda",
        }


def choose_processes(device: str, devices: int | None, nodes: int | None) -> Processes:
    """What the options --device, --devices and --nodes mean; torchrun's own numbers need not be repeated.

    Raises:
        UserError: there are no such devices.
        UsageError: torchrun says otherwise.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu, or install a PyTorch with CUDA")
    device = choose_device(device)
    outside = torch.distributed.is_torchelastic_launched()
    if outside:
        own = int(os.environ["LOCAL_WORLD_SIZE"])
        all_nodes = int(os.environ["WORLD_SIZE"]) // own
        if (devices or own, nodes or all_nodes) != (own, all_nodes):
            raise UsageError(
                f"--devices {devices or own} --nodes {nodes or all_nodes}: torchrun started {own} processes on each of {all_nodes} "
                "machines; leave these options out"
            )
        devices, nodes = own, all_nodes
    chosen = Processes(device, devices or 1, nodes or 1, outside)
    if device == "cuda" and chosen.devices > torch.cuda.device_count():
        raise UserError(f"--devices {chosen.devices}: PyTorch finds {torch.cuda.device_count()} CUDA devices")
    return chosen


def is_first_process() -> bool:
    """Whether this process writes files and tells people."""
    return rank_zero_only.rank == 0
