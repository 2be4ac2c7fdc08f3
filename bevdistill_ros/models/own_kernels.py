"""Whether this package's own CUDA kernels, which are written in Triton, can run."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor


def triton_can_run(*tensors: Tensor) -> bool:
    """Whether kernels can work on these: on CUDA, none of them float64, with triton installed and torch 2.4 or newer."""
    return (
        all(tensor.is_cuda and tensor.dtype != torch.float64 for tensor in tensors)
        and hasattr(torch.library, "custom_op")
        and importlib.util.find_spec("triton") is not None
    )
