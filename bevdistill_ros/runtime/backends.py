"""What may run a network, and how, by name. Here, and not where they are told apart: parsing options should not load PyTorch."""

from __future__ import annotations

AUTO, TORCH, TORCH_BFLOAT16, TORCH_FLOAT16, ONNXRUNTIME = BACKENDS = (
    "auto", "torch", "torch_bfloat16", "torch_float16", "onnxruntime",
)  # fmt: skip

EXPORTED_SUFFIX = ".onnx"
"""An exported model's file name ends in it."""

EAGER, GRAPH, COMPILED = "eager", "graph", "compiled"
EXECUTIONS = (AUTO, EAGER, GRAPH, COMPILED)
"""How PyTorch goes through a network: operator by operator; all of it at once, recorded as a CUDA graph; or by kernels that
torch.compile has made, which on CUDA are recorded, too. ``AUTO`` is ``GRAPH`` on CUDA and ``EAGER`` elsewhere."""
