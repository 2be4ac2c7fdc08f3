"""What a network would hold, without making it: a configuration may claim any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bevdistill_ros.config import ModelConfig
from bevdistill_ros.models import build_network


class _WithoutMemory(TorchFunctionMode):
    """Weights get no memory, and no random values, for which torch would load its compiler.

    What networks calculate for themselves when they are made is left as it is: ``config`` bounds its size.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if func in (torch.empty, torch.rand, torch.randn):
            return torch.empty(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def planned_state(config: ModelConfig) -> dict[str, Tensor]:
    """Names, shapes and kinds of the state of ``build_network(config)``, most of it as tensors that have no memory."""
    with _WithoutMemory():
        return build_network(config).state_dict()
