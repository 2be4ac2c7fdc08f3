"""torch.compile, without its compiler: what is handed to it, and what is said where it cannot be had."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.runtime import compiled
from bevdistill_ros.runtime.onnx_export import make_rig


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()


def test_its_parts_are_compiled_once_and_give_the_same(student, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def compiler(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        traced.append(module)
        return module.forward

    monkeypatch.setattr(compiled, "COMPILER", compiler)
    network = student("nano")
    checkpoint = Checkpoint(network.config, network.state_dict(), (), {})
    plain, detector = Detector(checkpoint), Detector(checkpoint, execution="compiled")
    assert detector.backend == "torch, compiled"
    assert len(traced) == 1  # something small, to see whether it can be done
    images, K, ego_T_cam = (value[0].numpy() for value in make_rig(network.config, 3, seed=0))
    before = None
    for mask in (np.ones(3, bool), np.array([True, False, True])):  # a camera that is missing changes no size
        found, expected = (one(images, K, ego_T_cam, mask) for one in (detector, plain))
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        before = before or len(traced)
        assert len(traced) == before == 1 + len(network.dense)
    assert (
        not hasattr(plain.network.backbone, "_compiled_call_impl") or plain.network.backbone._compiled_call_impl is None
    )


def test_where_nothing_can_be_compiled_it_is_one_line(student, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        raise RuntimeError("No working C++ compiler found\nin a long story")

    monkeypatch.setattr(compiled, "COMPILER", compiler)
    network = student("nano")
    with pytest.raises(UserError, match=r"execution 'compiled': torch.compile cannot .*'cpu' here .*C\+\+") as error:
        Detector(Checkpoint(network.config, network.state_dict(), (), {}), execution="compiled")
    assert "\n" not in str(error.value)
