"""Starting a training from the weights of another, as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.errors import UserError

SHOWN = 4
"""Tensors that a report names of each kind."""


def start_from(network: nn.Module, path: str | Path) -> str:
    """Take the tensors of a checkpoint that fit ``network`` by name and shape; the others stay as they are.

    Returns:
        What was taken and what was not, for people.

    Raises:
        UserError: the file is no checkpoint, or nothing of it fits.
    """
    given, own = load_checkpoint(path).state, network.state_dict()
    taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    parameters = {name: value.numel() for name, value in network.named_parameters()}
    share = sum(parameters.get(name, 0) for name in taken) / sum(parameters.values())
    if not share:
        raise UserError(f"--weights {path}: none of its {len(given)} tensors fits this model by name and shape")
    network.load_state_dict(taken, strict=False)
    lines = [f"{path}: starts {share:.1%} of the model's weights ({len(taken)} of {len(own)} tensors)"]
    for what, names in (
        (
            "of another shape there",
            [f"{n} {_size(own[n])}, not {_size(given[n])}" for n in own if _differs(n, own, given)],
        ),
        ("not there", [name for name in own if name not in given]),
        ("there, but not in this model", [name for name in given if name not in own]),
    ):
        if names:
            lines.append(f"  {what}: {_some(names)}")
    return "\n".join(lines)


def _differs(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return name in given and own[name].shape != given[name].shape


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
