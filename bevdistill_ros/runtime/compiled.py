"""torch.compile for a network in use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bevdistill_ros.errors import UserError, first_line
from bevdistill_ros.models.student import Student
from bevdistill_ros.runtime.backends import COMPILED, EAGER

COMPILER: str | Callable = "inductor"
"""Backend of ``torch.compile``."""


def compile_parts(network: Student, device: torch.device) -> None:
    """Have a network's parts of fixed shapes compiled, in place, when they first run; for each size that they meet.

    Raises:
        UserError: nothing can be compiled here.
    """
    try:  # something small, so that it is told now and in one line
        torch.compile(_probe, backend=COMPILER, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # of many classes, all of torch's own
        raise UserError(
            f"execution '{COMPILED}': torch.compile cannot compile for device '{device}' here ({first_line(error)[:200]}): it "
            f"needs a C++ compiler, and triton for CUDA; '{EAGER}' needs neither"
        ) from None
    for name in network.dense:
        part = getattr(network, name)
        if part is not None:
            part.compile(backend=COMPILER, dynamic=False)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x
