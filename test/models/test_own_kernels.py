"""Where the package's own kernels can run."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from bevdistill_ros.models.own_kernels import triton_can_run


def test_when_the_triton_kernels_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def value(on_cuda: bool, dtype: torch.dtype) -> SimpleNamespace:
        return SimpleNamespace(is_cuda=on_cuda, dtype=dtype)

    on_gpu = value(True, torch.bfloat16), value(True, torch.float32)
    monkeypatch.setattr(torch.library, "custom_op", object(), raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else None)
    assert triton_can_run(*on_gpu)
    assert not triton_can_run(value(False, torch.float32), value(False, torch.float32))
    assert not triton_can_run(on_gpu[0], value(True, torch.float64))
    assert not triton_can_run(value(True, torch.float64), on_gpu[0])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not triton_can_run(*on_gpu)
    monkeypatch.undo()
    monkeypatch.delattr(torch.library, "custom_op", raising=False)
    assert not triton_can_run(*on_gpu)
