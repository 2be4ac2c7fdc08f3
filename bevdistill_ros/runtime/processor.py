"""What the processor, and a GPU, calculate in."""

from __future__ import annotations

from pathlib import Path

import torch

BFLOAT16 = "avx512_bf16"
"""The instruction set by whose presence products in bfloat16 are fast, as torch and Linux call it.

Every x86 processor with AMX's bfloat16 has it, too. Without it torch converts to float32 and back, which is slower than float32.
Arm's is not here: nobody has timed this package's networks on it.
"""


def calculates_in_bfloat16() -> bool:
    """Whether products of this processor, by torch, are faster in bfloat16 than in float32."""
    return torch.backends.mkldnn.is_available() and BFLOAT16 in features()


def gpu_calculates_in_bfloat16(device: str) -> bool:
    """Whether a CUDA device has bfloat16: NVIDIA's have since Ampere. False, too, where it cannot be asked."""
    try:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    except (RuntimeError, AssertionError, ValueError):
        return False


def features() -> frozenset[str]:
    """Names of the processor's instruction sets: torch's, or Linux's on x86 where torch does not tell; none where neither does."""
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    return linux_features()


def linux_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What Linux lists as the first core's flags; none on other processors or systems."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
