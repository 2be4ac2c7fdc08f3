"""What may run a network, by name. Here, and not where they are told apart: parsing options should not load PyTorch."""

from __future__ import annotations

AUTO, TORCH, TORCH_BFLOAT16, ONNXRUNTIME = BACKENDS = ("auto", "torch", "torch_bfloat16", "onnxruntime")
