"""Exponential moving average of a network's weights over the steps of its training."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn


class WeightAverage(lightning.Callback):
    """Averages ``module.network`` after every step; saved with the training's state.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th step, so that the random weights of
    the start are soon forgotten. Statistics of batch normalisation are averaged alike; what is not floating-point is copied. With a
    decay of 0 the average is the weights themselves.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self._average: dict[str, Tensor] = {}

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict to export: the average, or the network's own before the first step and with a decay of 0."""
        return dict(self._average) if self.decay and self._average else network.state_dict()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start from the network as it is, or go on with what was resumed."""
        if self.decay:
            current = module.network.state_dict()
            self._average = {
                name: self._average.get(name, value).detach().to(value.device, copy=True)
                for name, value in current.items()
            }

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        """One step more."""
        if self.decay:
            self.count += 1
            self.update(module.network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the weights of step ``count`` into the average."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Saved with the training state."""
        return {"count": self.count, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.count, self._average = state_dict["count"], dict(state_dict["average"])
