"""Scores of a training on its way, on samples that it does not see."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.training.average import WeightAverage
from bevdistill_ros.training.data.nuscenes import NuScenesSamples
from bevdistill_ros.training.evaluate import evaluate
from bevdistill_ros.training.teacher import make_detector

FIGURES = ("mAP", "NDS", "mAP_present", "NDS_present", "ap_2m")


class Validation(lightning.Callback):
    """Evaluates the weights that would be exported, every ``every`` steps (0: never on the way) and after the last one.

    They are logged as validation/NAME; ``figures`` are those after the latest step scored, by name,
    as far as they are defined.
    """

    def __init__(
        self, samples: NuScenesSamples, every: int, average: WeightAverage, black_images: bool = False
    ) -> None:
        self.samples, self.every, self.average, self.black_images = samples, every, average, black_images
        self.figures: dict[str, float] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: dict, index: int
    ) -> None:
        """After every ``every``-th step, and after the last."""
        step = trainer.global_step
        if not trainer.is_global_zero:
            return  # the others wait for the first process at their next step
        if step != trainer.max_steps and (not self.every or step % self.every):
            return
        state = self.average.weights(module.network)
        # Making a network draws random numbers; the training's own stay what they were.
        with torch.random.fork_rng(devices=[]):
            checkpoint = Checkpoint(module.config.model, state, self.samples.cameras, {})
            detector = make_detector(checkpoint, module.device)
        result = evaluate(detector, self.samples, black_images=self.black_images)
        figures = {name: float(getattr(result, name)) for name in FIGURES}
        self.figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        trainer.logger.log_metrics({f"validation/{name}": value for name, value in self.figures.items()}, step=step)
        text = "  ".join(f"{name} {value:.3f}" for name, value in self.figures.items())
        print(f"step {step}: {text}", file=sys.stderr)
