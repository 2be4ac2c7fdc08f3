"""Weights that are cast once, in place of at every run."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch

from bevdistill_ros.models.lift import all_present
from bevdistill_ros.runtime.cast import cast_weights
from bevdistill_ros.runtime.onnx_export import make_rig


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["nano", "simulated_nano", "bevformer_nano"])
def test_the_same_bits_of_smaller_weights(student, name: str, dtype: torch.dtype) -> None:
    network = student(name)
    cast = copy.deepcopy(network).requires_grad_(False)
    cast_weights(cast, dtype)
    rig = make_rig(network.config, 3, seed=4)
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        found, expected = (one.found(one(*rig, all_present(rig.K))) for one in (cast, network))
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a is None and b is None) or torch.equal(a, b), field.name
    weights = {key: value.dtype for key, value in cast.state_dict().items() if key.endswith("weight")}
    assert set(weights.values()) == {dtype, torch.float32} and weights["backbone.conv1.weight"] == dtype
    kept = (
        ("head.heatmap.1.weight",)
        if network.head is not None
        else ("queries.place.weight", "queries.classify.0.6.weight")
    )
    assert all(weights[key] == torch.float32 for key in kept)
    assert all(value.dtype != dtype for value in network.state_dict().values())
