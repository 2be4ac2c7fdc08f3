"""The Lightning module of a network that learns detection: a student, distilled or not, or a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import lightning
import torch
from torch import Tensor, nn

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.errors import UserError
from bevdistill_ros.models import build_network
from bevdistill_ros.models.outputs import ImageFeatures, Outputs
from bevdistill_ros.training.config import Config
from bevdistill_ros.training.data.image_cache import ImageCache
from bevdistill_ros.training.device_images import DeviceImages
from bevdistill_ros.training.distill.distillation import Distillation
from bevdistill_ros.training.image_supervision import image_losses
from bevdistill_ros.training.loader import part_of, split_batch, to_device
from bevdistill_ros.training.losses import center_losses
from bevdistill_ros.training.query_losses import auxiliary_loss, box_count, query_losses
from bevdistill_ros.training.schedule import learning_rate_factor
from bevdistill_ros.training.targets import CenterTargets, center_targets

COMPILER: str | Callable = "inductor"
"""Backend of ``torch.compile``."""


class LossCounts(NamedTuple):
    """What the losses of a part of a step are divided by.

    Attributes:
        centers: (2,) see ``CenterTargets.counts``.
        boxes: () see ``box_count``.
        pixels: (2,) see ``ImageTargets.counts``.
        parts: of the step, for what is a mean over samples.
    """

    centers: Tensor
    boxes: Tensor
    pixels: Tensor
    parts: int


class DetectionModule(lightning.LightningModule):
    """Trains ``network``. Batches are of ``loader.collate``, with ``inputs``.

    Args:
        cache: its pixels are held on the training's device, and batches bring only indices into them; None: batches bring images.
        teacher: of ``load_teacher``, where ``config.training.distill`` is there.

    Attributes:
        inputs: names of what the network sees, and the teacher.
    """

    def __init__(self, config: Config, cache: ImageCache | None = None, teacher: Checkpoint | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.model)
        if config.training.compile:
            for part in (getattr(self.network, name) for name in self.network.dense):
                if part is not None:
                    part.compile(backend=COMPILER)  # in place: names of weights stay
        self.image_classes: nn.Module | None = None
        if config.training.image_supervision.used:
            self.image_classes = nn.Conv2d(config.model.lift.channels, 1 + len(config.model.classes), 1)
        self.distillation: Distillation | None = None
        self.inputs = self.network.inputs
        if config.training.distill is not None:
            self.distillation = Distillation(config.training.distill, self.network, teacher)
            self.inputs = self.distillation.inputs
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
        """Gather the images where the device has them, in parts as the network will see them."""
        if self._device_images is None:
            return batch
        parts = split_batch(batch, self.config.training.accumulate)
        gathered = [self._device_images.gather(part["index"], part["change"]) for part in parts]
        return {**batch, "images": torch.cat(gathered)}

    def on_train_batch_start(self, batch: dict, index: int) -> None:
        """The learning rate of this step; taken from the configuration alone, so that a resumed training may change it."""
        training = self.config.training
        rate = training.learning_rate * learning_rate_factor(training, self.global_step)
        for group in self.optimizers().param_groups:
            group["lr"], group["weight_decay"] = rate * group["share"], training.weight_decay
        self.log("learning_rate", rate, batch_size=len(batch["boxes"]))

    def training_step(self, batch: dict, index: int) -> Tensor:
        """Losses of one batch, logged by name, in ``training.accumulate`` parts; Lightning does the last one's backward pass."""
        parts = split_batch(batch, self.config.training.accumulate)
        parts = [{**part, "targets": self._targets(part)} for part in parts]
        counts = self._counts(parts)
        self.optimizers().zero_grad()
        sums: dict[str, Tensor] = {}
        for part in parts:
            losses = self.losses(part, counts)
            total = sum(losses.values())
            sums = {name: value.detach() + sums.get(name, 0.0) for name, value in losses.items()}
            if part is not parts[-1]:
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(total, None)
        self._log_losses(sums, batch)
        self._batch = batch
        return total

    def optimizer_zero_grad(self, *_: Any) -> None:
        """Lightning would do it after ``training_step``, which has done it before its first part."""

    def losses(self, batch: dict, counts: LossCounts | None = None) -> dict[str, Tensor]:
        """Weighted losses by name, computed in float32 whatever the network runs in.

        Args:
            counts: what to divide by, where the batch is a part of a step's; None: its own counts.
        """
        inputs = [batch[name] for name in self.network.inputs]
        if self._images_alone():
            return self._image_losses(self.network.describe_images(*inputs), batch, counts)
        outputs = self.network(*inputs)
        losses = self._detection_losses(outputs, batch, counts)
        if outputs.image is not None:
            losses.update(self._image_losses(outputs.image, batch, counts))
        if self.distillation is not None:
            share = 1 if counts is None else counts.parts
            taught = self.distillation.losses(outputs, batch)
            losses.update({name: loss / share for name, loss in taught.items()})
        return losses

    def _detection_losses(self, outputs: Outputs, batch: dict, counts: LossCounts | None) -> dict[str, Tensor]:
        training, grid, boxes = self.config.training, self.config.model.grid, batch["boxes"]
        centers, count = (None, None) if counts is None else (counts.centers, counts.boxes)
        losses: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            if outputs.center is not None:
                targets = batch["targets"] if "targets" in batch else self._targets(batch)
                losses.update(center_losses(outputs.center, targets, training.loss, centers))
            if outputs.queries is not None:
                losses.update(query_losses(outputs.queries, boxes, grid, training.queries, count))
            if outputs.auxiliary is not None:
                losses.update(auxiliary_loss(outputs.auxiliary, boxes, grid, training.queries, count))
        return losses

    def _image_losses(self, image: ImageFeatures, batch: dict, counts: LossCounts | None) -> dict[str, Tensor]:
        if self.image_classes is None:
            return {}
        logits = self.image_classes(image.context.flatten(0, 1)).unflatten(0, image.context.shape[:2])
        own = None if counts is None else counts.pixels
        with torch.autocast(self.device.type, enabled=False):
            return image_losses(image, logits, batch["image_targets"], self.config.training.image_supervision, own)

    def _images_alone(self) -> bool:
        return self.global_step < self.config.training.image_supervision.alone_steps

    def _targets(self, batch: dict) -> CenterTargets | None:
        """Of the centre head; None without one, and as long as it does not run."""
        if self.config.model.head is None or self._images_alone():
            return None
        model, loss = self.config.model, self.config.training.loss
        return center_targets(batch["boxes"], model, loss, self.device, batch["doubtful"])

    def _counts(self, parts: list[dict]) -> LossCounts:
        """What the losses of a step are divided by: counts over all of its parts and processes, at least 1.

        Gradients are averaged over the processes, so each divides by its share of them.
        """
        none = torch.zeros(2, device=self.device)
        centers = sum((part["targets"].counts() for part in parts if part["targets"] is not None), none)
        pixels = sum((part["image_targets"].counts() for part in parts if "image_targets" in part), none)
        boxes = none.new_tensor([sum(box_count(part["boxes"], self.config.model.grid) for part in parts)])
        total = torch.cat([centers, pixels, boxes])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        total = total.clamp(min=1) / self.trainer.world_size
        return LossCounts(total[:2], total[4], total[2:4], len(parts))

    def _log_losses(self, own: dict[str, Tensor], batch: dict) -> None:
        """Log the losses of the step, over all processes; end the training where they are not finite."""
        values = torch.stack(list(own.values()))
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(values)
            values /= self.trainer.world_size
        losses = dict(zip(own, values, strict=True))
        if not values.isfinite().all():
            text = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
            self._stop(batch, f"the loss is not finite ({text})")
        size = len(batch["boxes"])
        self.log("loss", values.sum(), prog_bar=True, batch_size=size)
        self.log_dict({f"loss/{name}": value for name, value in losses.items()}, batch_size=size)

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
        slower = list(self.network.backbone.parameters()) if training.backbone_rate != 1 else []
        known = {id(parameter) for parameter in slower}
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        groups: list[dict[str, Any]] = [{"params": others, "share": 1.0}]
        if slower:
            groups.append({"params": slower, "share": training.backbone_rate})
        return torch.optim.AdamW(groups, training.learning_rate, weight_decay=training.weight_decay)

    def _stop(self, batch: dict, what: str) -> NoReturn:
        """End the training with the samples that may be to blame. Neither weights nor saved state have been touched.

        All processes come here in the same step.
        """
        tokens = batch["tokens"]
        alone = []
        if self.trainer.world_size == 1:
            alone = [token for i, token in enumerate(tokens) if not self._is_finite_alone(batch, i)]
        else:
            everywhere: list[list[str]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(everywhere, tokens)
            tokens = [token for own in everywhere for token in own]
        if self.trainer.world_size > 1:
            which = "--resume with one process (--devices 1, the same batch_size) tells which of them does it"
        elif len(alone) == len(tokens) > 1:
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
        with torch.enable_grad():
            loss = sum(self.losses(part_of(batch, slice(i, i + 1))).values())
            trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return bool(loss.isfinite()) and all(g is None or bool(g.isfinite().all()) for g in gradients)
