"""Weights in the precision that they are multiplied in: autocast would cast them again at every run."""

from __future__ import annotations

import torch
from torch import nn

from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.student import Student


def cast_weights(network: Student, dtype: torch.dtype) -> None:
    """Change a network in place so that under autocast to ``dtype`` it gives the same bits, with less work.

    Layers that give ``dtype`` there, and nothing else at other times, are cast. Which ones these are is seen when it runs, on one
    black image: a network has layers that it leaves out of autocast.
    """
    image, device = network.config.image, next(network.parameters()).device
    given: dict[nn.Module, set[torch.dtype]] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, out: given.setdefault(module, set()).add(out.dtype))
        for module in network.modules()
        if type(module) in (nn.Conv2d, nn.Linear)
    ]
    focal, x, y = image.width / 2, image.width / 2, image.height / 2
    K = torch.tensor([[[[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]]]], device=device)
    forward = [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]]
    ego_T_cam = torch.tensor([[forward]], device=device)
    images = torch.zeros((1, 1, image.height, image.width, 3), dtype=torch.uint8, device=device)
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype):
            network(images, K, ego_T_cam, all_present(images))
    finally:
        for hook in hooks:
            hook.remove()
    for module, dtypes in given.items():
        if dtypes == {dtype}:
            module.to(dtype)
