"""What PyTorch multiplies in, by backend."""

from __future__ import annotations

import torch

from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime.backends import TORCH, TORCH_BFLOAT16, TORCH_FLOAT16

DTYPES = {TORCH: torch.float32, TORCH_BFLOAT16: torch.bfloat16, TORCH_FLOAT16: torch.float16}


def backend_of(dtype: torch.dtype) -> str:
    """The backend that multiplies in ``dtype``."""
    return next(name for name, own in DTYPES.items() if own == dtype)


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raise UserError where a device is not meant for ``dtype``: on CPUs float16 is slower than float32 and less exact."""
    if dtype == torch.float16 and device.type != "cuda":
        raise UserError(
            f"backend '{TORCH_FLOAT16}' is for CUDA, not for device '{device}': '{TORCH_BFLOAT16}' is for either"
        )
