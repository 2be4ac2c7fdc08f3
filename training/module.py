"""The Lightning module of a network that learns detection from boxes alone: a plain student, or a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import lightning
import torch
from torch import Tensor, nn

from bevdistill_ros.config import Config
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network
from bevdistill_ros.models.outputs import ImageFeatures
from bevdistill_ros.training.data.image_cache import ImageCache
from bevdistill_ros.training.device_images import DeviceImages
from bevdistill_ros.training.image_supervision import ImageTargets, image_losses
from bevdistill_ros.training.loader import to_device
from bevdistill_ros.training.losses import center_losses
from bevdistill_ros.training.schedule import learning_rate_factor
from bevdistill_ros.training.targets import center_targets


class DetectionModule(lightning.LightningModule):
    """Trains ``network`` on detection alone. Batches are of ``loader.collate``, with the network's ``inputs``.

    Args:
        cache: its pixels are held on the training's device, and batches bring only indices into them; None: batches bring images.
    """

    def __init__(self, config: Config, cache: ImageCache | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.model)
        self.image_classes: nn.Module | None = None
        if config.training.image_supervision.used:
            self.image_classes = nn.Conv2d(config.model.lift.channels, 1 + len(config.model.classes), 1)
        self._cache = cache
        self._device_images: DeviceImages | None = None
        self._batch: dict[str, Any] = {}

    def on_fit_start(self) -> None:
        """The device is known now."""
        if self._cache is not None:
            self._device_images = DeviceImages(self._cache, self.device)

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        """See ``to_device``."""
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Gather the images where the device has them."""
        if self._device_images is None:
            return batch
        return {**batch, "images": self._device_images.gather(batch["index"], batch["change"])}

    def on_train_batch_start(self, batch: dict, index: int) -> None:
        """The learning rate of this step; taken from the configuration alone, so that a resumed training may change it."""
        training = self.config.training
        rate = training.learning_rate * learning_rate_factor(training, self.global_step)
        for group in self.optimizers().param_groups:
            group["lr"], group["weight_decay"] = rate, training.weight_decay
        self.log("learning_rate", rate, batch_size=len(batch["boxes"]))

    def training_step(self, batch: dict, index: int) -> Tensor:
        """Losses of one batch, logged by name."""
        losses = self.losses(batch)
        total = sum(losses.values())
        if not total.isfinite():
            values = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items())
            self._stop(batch, f"the loss is not finite ({values})")
        size = len(batch["boxes"])
        self.log("loss", total.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f"loss/{name}": value.detach() for name, value in losses.items()}, batch_size=size)
        self._batch = batch
        return total

    def losses(self, batch: dict) -> dict[str, Tensor]:
        """Weighted losses by name, computed in float32 whatever the network runs in."""
        inputs = [batch[name] for name in self.network.inputs]
        training = self.config.training
        if self.global_step < training.image_supervision.alone_steps:
            return self._image_losses(self.network.describe_images(*inputs), batch)
        outputs = self.network(*inputs)
        with torch.autocast(self.device.type, enabled=False):
            own = replace(outputs, heatmap=outputs.heatmap.float(), codes=outputs.codes.float())
            targets = center_targets(batch["boxes"], self.config.model, training.loss, self.device)
            losses = center_losses(own, targets, training.loss)
        return losses if outputs.image is None else {**losses, **self._image_losses(outputs.image, batch)}

    def _image_losses(self, image: ImageFeatures, batch: dict) -> dict[str, Tensor]:
        if self.image_classes is None:
            return {}
        logits = self.image_classes(image.context.flatten(0, 1)).unflatten(0, image.context.shape[:2])
        with torch.autocast(self.device.type, enabled=False):
            return image_losses(image, logits, batch["image_targets"], self.config.training.image_supervision)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradient's norm, and log it as it was before."""
        limit = self.config.training.gradient_clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)
        # In float16 a gradient may overflow: its scaler then leaves the step out and scales less the next time.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if not norm.isfinite() and (scaler is None or scaler.get_scale() <= 1.0):
            self._stop(self._batch, f"the gradient's norm is not finite ({float(norm):g})")
        self.log("gradient_norm", norm, batch_size=len(self._batch["boxes"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; ``on_train_batch_start`` sets the learning rate."""
        training = self.config.training
        return torch.optim.AdamW(self.parameters(), training.learning_rate, weight_decay=training.weight_decay)

    def _stop(self, batch: dict, what: str) -> NoReturn:
        """End the training with the samples that may be to blame. Neither weights nor saved state have been touched."""
        tokens = batch["tokens"]
        alone = [token for i, token in enumerate(tokens) if not self._is_finite_alone(batch, i)]
        if len(alone) == len(tokens) > 1:
            which = (
                "each of them does it alone, so it is the weights rather than a sample: lower training.learning_rate"
            )
        elif alone:
            which = f"by itself {' and '.join(alone)} does it: look at its annotations and calibration"
        else:
            which = "none of them does it alone: lower training.learning_rate"
        raise UserError(
            f"step {self.global_step + 1}: {what}. Samples of the batch: {', '.join(tokens)}; {which}. "
            "Saved states are untouched: --resume goes on from the last"
        )

    def _is_finite_alone(self, batch: dict, i: int) -> bool:
        """Whether loss and gradient of sample ``i`` alone are finite."""
        own = {name: batch[name][i : i + 1] for name in (*self.network.inputs, "boxes")}
        if "image_targets" in batch:
            own["image_targets"] = ImageTargets(*(part[i : i + 1] for part in batch["image_targets"]))
        with torch.enable_grad():
            loss = sum(self.losses(own).values())
            gradients = torch.autograd.grad(loss, list(self.network.parameters()), allow_unused=True)
        return bool(loss.isfinite()) and all(g is None or bool(g.isfinite().all()) for g in gradients)
