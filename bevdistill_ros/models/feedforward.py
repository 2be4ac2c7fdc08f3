"""The layers of a transformer that act on every query by itself."""

from __future__ import annotations

from torch import nn


def make_feedforward(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    """(..., channels) to the same shape, through ``hidden`` channels, of which ``dropout`` is left out in training."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(True), nn.Dropout(dropout), nn.Linear(hidden, channels))
