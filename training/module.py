"""The Lightning module of a plain student, its data and its checkpoints."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bevdistill_ros.config import Config
from bevdistill_ros.geometry import Boxes
from bevdistill_ros.models import build_network
from bevdistill_ros.training.augmentation import augment
from bevdistill_ros.training.data.nuscenes import NuScenesCameras, Sample
from bevdistill_ros.training.losses import center_losses
from bevdistill_ros.training.targets import center_targets


class StudentModule(lightning.LightningModule):
    """Trains ``network`` on detection alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.model)

    def training_step(self, batch: dict, index: int) -> Tensor:
        """Losses of one batch, logged by name."""
        outputs = self.network(batch["images"], batch["K"], batch["ego_T_cam"], batch["mask"])
        targets = center_targets(batch["boxes"], self.config.model, self.config.training.loss, self.device)
        losses = center_losses(outputs, targets, self.config.training.loss)
        total = sum(losses.values())
        size = len(batch["boxes"])
        self.log("loss", total.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f"loss/{name}": value.detach() for name, value in losses.items()}, batch_size=size)
        return total

    def configure_optimizers(self) -> dict:
        """AdamW; linear warm-up, then half a cosine to zero."""
        training = self.config.training
        optimizer = torch.optim.AdamW(self.parameters(), training.learning_rate, weight_decay=training.weight_decay)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(training.warmup_steps, 1))
            return warm * 0.5 * (1 + math.cos(math.pi * min(step / training.steps, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        """Tensors move; boxes stay, their targets are drawn on the device."""
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }


class AugmentedSamples(Dataset):
    """Augmented samples by (index, draw): the draw's number seeds its augmentation, so that a resumed run repeats none."""

    def __init__(self, samples: NuScenesCameras, config: Config, black_images: bool = False) -> None:
        self.samples, self.config, self.black_images = samples, config, black_images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, draw = key
        rng = np.random.default_rng([self.config.training.seed, draw])
        sample = augment(self.samples[index], self.config.training.augmentation, rng)
        return replace(sample, images=np.zeros_like(sample.images)) if self.black_images else sample


class StepSampler(Sampler):
    """(index, draw) for a whole training: one random order of the samples after another, from draw ``start`` on.

    Its length is that of the whole training even where it starts late, since Lightning counts the batches already done.
    """

    def __init__(self, count: int, draws: int, seed: int, start: int = 0) -> None:
        self.count, self.draws, self.seed, self.start = count, draws, seed, start

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, current = np.arange(0), -1
        for draw in range(self.start, self.draws):
            if draw // self.count != current:
                current = draw // self.count
                order = np.random.default_rng([self.seed, current, 1]).permutation(self.count)
            yield int(order[draw % self.count]), draw


def collate(samples: list[Sample]) -> dict[str, Tensor | list[Boxes] | list[str]]:
    """A batch: images (B, N, H, W, 3) uint8, K, ego_T_cam float32, mask bool; boxes and tokens as lists."""
    return {
        "images": torch.from_numpy(np.stack([s.images for s in samples])),
        "K": torch.from_numpy(np.stack([s.K for s in samples]).astype(np.float32)),
        "ego_T_cam": torch.from_numpy(np.stack([s.ego_T_cam for s in samples]).astype(np.float32)),
        "mask": torch.from_numpy(np.stack([s.mask for s in samples])),
        "boxes": [s.boxes for s in samples],
        "tokens": [s.token for s in samples],
    }


def make_loader(dataset: AugmentedSamples, config: Config, start_step: int) -> DataLoader:
    """Batches of the whole training from ``start_step`` on."""
    training = config.training
    sampler = StepSampler(
        len(dataset), training.steps * training.batch_size, training.seed, start_step * training.batch_size
    )
    return DataLoader(
        dataset,
        training.batch_size,
        sampler=sampler,
        num_workers=training.workers,
        collate_fn=collate,
        persistent_workers=training.workers > 0,
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
    )


def _one_thread(worker: int) -> None:
    """OpenCV would otherwise use all cores in every worker."""
    cv2.setNumThreads(0)


class AtomicCheckpoint(lightning.Callback):
    """Writes the training state to ``path`` every so many steps and at the end; a kill at any moment leaves a whole file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        """After every ``every``-th step."""
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """After the last step, or the one that ``StopOnSignal`` ends with."""
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write, then rename."""
        temporary = self.path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.path)


class StopOnSignal(lightning.Callback):
    """On Ctrl-C or SIGTERM the training ends after the step it is in, so that its saved state is that of a step; a second signal
    ends it at once."""

    def __init__(self) -> None:
        self._before: dict[int, object] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Signals can be caught in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: object) -> None:
            if trainer.should_stop:
                raise KeyboardInterrupt
            trainer.should_stop = True

        self._before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """What was there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class RunClock(lightning.Callback):
    """Seconds that a training took, on the wall and of this process's CPU time, with those before a resume."""

    def __init__(self) -> None:
        self._before = {"wall_s": 0.0, "cpu_s": 0.0}
        self._start = {"wall_s": time.monotonic(), "cpu_s": time.process_time()}

    @property
    def wall_s(self) -> float:
        """Wall seconds."""
        return self._before["wall_s"] + time.monotonic() - self._start["wall_s"]

    @property
    def cpu_s(self) -> float:
        """CPU seconds, of all threads."""
        return self._before["cpu_s"] + time.process_time() - self._start["cpu_s"]

    def state_dict(self) -> dict[str, float]:
        """Saved with the training state."""
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Goes on from there."""
        self._before = dict(state_dict)
