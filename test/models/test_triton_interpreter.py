"""The tests of the Triton kernels without a GPU, in Triton's interpreter: it has to be chosen before triton is imported, and so in
a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FILES = ["test_bev_pool_triton.py", "test_deformable_attention_triton.py"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="needs torch 2.4")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them")
def test_kernels_in_the_interpreter() -> None:
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *files]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in run.stdout:
        pytest.skip("the interpreter of this triton does not work with this numpy")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
    assert "passed" in run.stdout and "skipped" not in run.stdout, run.stdout[-1000:]
