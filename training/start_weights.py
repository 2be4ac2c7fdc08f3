"""Starting a training from the weights of another, or from those of an image backbone, as far as they fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bevdistill_ros.checkpoint import FORMAT, load_checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.models.bev_network import BevNetwork

SHOWN = 4
"""Tensors that a report names of each kind."""

PICKLED = (".pth", ".pt")
"""Endings of files that ``torch.save`` wrote; they are read without running what a pickle may hold."""


def start_from(network: BevNetwork, paths: Sequence[str | Path]) -> str:
    """Take the tensors of files that fit ``network`` by name and shape; the others stay as they are.

    Each file gives what those before it did not. It is a checkpoint of ours, or the weights of an image backbone: a ResNet of
    torchvision or timm, or a detector of mmdetection with one, such as FCOS3D, see ``backbone_name``. Of ``network.twins`` those
    that no file has start as copies.

    Returns:
        What was taken and what was not, for people.

    Raises:
        UserError: a file cannot be read, or nothing of it fits.
    """
    own = network.state_dict()
    parameters = {name: value.numel() for name, value in network.named_parameters()}
    taken: dict[str, Tensor] = {}
    lines = []
    for path in paths:
        given = read_weights(Path(path), network)
        fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
        if not any(name in parameters for name in fitting):
            raise UserError(f"--weights {path}: none of its {len(given)} tensors fits this model by name and shape")
        new = {name: value for name, value in fitting.items() if name not in taken}
        taken.update(new)
        share = sum(parameters.get(name, 0) for name in new) / sum(parameters.values())
        lines.append(f"{path}: starts {share:.1%} of the model's weights ({len(new)} of {len(own)} tensors)")
        lines += _unused(own, given)
    copied = _twins(network, taken)
    taken.update(copied)
    network.load_state_dict(taken, strict=False)
    if copied:
        lines.append(f"copied: {_some([f'{part} from {of}' for part, of in network.twins.items()])}")
    missing = [name for name in own if name not in taken]
    if missing:
        lines.append(f"not started: {_some(missing)}")
    return "\n".join(lines)


def _unused(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Lines on what of a file the model does not take."""
    differing = [name for name in own if name in given and own[name].shape != given[name].shape]
    lines = []
    for what, names in (
        ("of another shape there", [f"{name} {_size(own[name])}, not {_size(given[name])}" for name in differing]),
        ("there, but not in this model", [name for name in given if name not in own]),
    ):
        if names:
            lines.append(f"  {what}: {_some(names)}")
    return lines


def _twins(network: BevNetwork, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the parts that are to be copies, see ``BevNetwork.twins``."""
    copies = {}
    for part, of in network.twins.items():
        if not any(name.startswith(f"{part}.") for name in taken):
            copies.update({part + name.removeprefix(of): t for name, t in taken.items() if name.startswith(f"{of}.")})
    return copies


def read_weights(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, by the names that they would have in ``network``.

    Raises:
        UserError: the file cannot be read as weights.
    """
    if path.suffix in PICKLED:
        foreign = _read_pickled(path)
    elif _is_foreign(path):
        foreign = safetensors.torch.load_file(path)
    else:
        return load_checkpoint(path).state
    own = network.state_dict()
    return {backbone_name(name, own): tensor for name, tensor in foreign.items()}


def backbone_name(name: str, own: Mapping[str, Tensor]) -> str:
    """What a tensor of another project is called here: ``backbone.`` and torchvision's name of it, or timm's in ``TimmBackbone``.

    mmdetection's prefixes ``backbone.`` and ``img_backbone.`` and its elder name of deformable convolutions' offsets are known, and
    the prefix of ``DistributedDataParallel``. Where ``own`` has no such tensor, the name stays, for the report.
    """
    bare = name.removeprefix("module.")
    for prefix in ("backbone.", "img_backbone."):
        bare = bare.removeprefix(prefix)
    of_resnet = "backbone." + bare.replace(".conv2_offset.", ".conv2.conv_offset.")
    of_timm = "backbone.network." + bare
    flattened = "backbone.network." + re.sub(
        r"^(\w+)\.(\d+)\.", r"\1_\2.", bare
    )  # layers.0. of Swin is layers_0. there
    return next((mapped for mapped in (of_resnet, of_timm, flattened) if mapped in own), name)


def _is_foreign(path: Path) -> bool:
    """Whether a file is safetensors, but no checkpoint of ours."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format") != FORMAT
    except (safetensors.SafetensorError, OSError):
        return False  # ``load_checkpoint`` says what is wrong with it


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a state dict, which may be wrapped as ``state_dict`` or ``model``."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--weights {path}: no such file") from None
    except pickle.UnpicklingError as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"--weights {path}: holds more than weights, or is damaged, and is not read, since a pickle may run any program; "
            f"save its state_dict alone ({text})"
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        text = " ".join(str(error).split())[:200]
        raise UserError(f"--weights {path}: cannot be read, it is damaged or of another kind ({text})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"--weights {path}: holds no weights by name; save a state_dict")
    return tensors


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
