"""What stands in for a CUDA graph on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = (
    "lift_fresh", "nonzero", "_local_scalar_dense", "item", "masked_select", "unique", "repeat_interleave", "bincount", "equal",
)  # fmt: skip
"""Operators that bring numbers from Python to the device, or wait for the device: no CUDA graph can take them."""


class Tape(TorchDispatchMode):
    """A ``Recorder``: repeats the same operators on the same memory, and no Python that was between them.

    Attributes:
        recordings: how many were made.
        repetitions: of all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recordings = self.repetitions = 0
        self._operators: list[tuple] = []

    def __call__(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self._operators = operators = []
        with self:
            found = work()
        self.recordings += 1

        def repeat() -> Any:
            self.repetitions += 1
            with torch.autocast("cpu", enabled=False):  # what it casts was recorded
                for operator, args, kwargs, out in operators:
                    for old, new in zip(tree_leaves(out), tree_leaves(operator(*args, **kwargs)), strict=True):
                        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                            old.copy_(new)
            return found

        return repeat

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in REFUSED or by_mask:
            raise RuntimeError(f"operation not permitted when the tape runs: {name}")
        out = func(*args, **kwargs)
        self._operators.append((func, args, kwargs, out))
        return out
