"""Samples of a whole training, in order, augmented, as batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bevdistill_ros.config import Config
from bevdistill_ros.training.augmentation import PixelChange, augment_geometry, change_pixels, draw_augmentation
from bevdistill_ros.training.data.nuscenes import NuScenesCameras, Sample


@dataclass(frozen=True, eq=False)
class DrawnSample:
    """An augmented sample; its pixels are either changed already (``change`` None) or still to be gathered and changed on the
    device: those of sample ``index``, by ``change``."""

    index: int
    sample: Sample
    change: PixelChange | None


class AugmentedSamples(Dataset):
    """Augmented samples by (index, draw): the draw's number seeds its augmentation, so that a resumed run repeats none.

    Args:
        black_images: a control experiment, all pixels are black.
        on_device: leave the pixels to the device, see ``device_images.py``.
    """

    def __init__(
        self, samples: NuScenesCameras, config: Config, black_images: bool = False, on_device: bool = False
    ) -> None:
        self.samples, self.config, self.black_images, self.on_device = samples, config, black_images, on_device

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> DrawnSample:
        index, draw = key
        rng = np.random.default_rng([self.config.training.seed, draw])
        sample = self.samples.geometry(index) if self.on_device else self.samples[index]
        image = self.config.model.image
        drawn = draw_augmentation(self.config.training.augmentation, sample.mask, (image.width, image.height), rng)
        change = drawn.pixels
        if self.black_images:
            change = change._replace(visible=np.zeros_like(change.visible))
        changed = augment_geometry(sample, drawn, image.width)
        if self.on_device:
            return DrawnSample(index, changed, change)
        return DrawnSample(index, replace(changed, images=change_pixels(sample.images, change)), None)


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


def collate(drawn: list[DrawnSample]) -> dict[str, Any]:
    """A batch: K, ego_T_cam float32, mask bool; boxes and tokens as lists; and either images (B, N, H, W, 3) uint8 or, for the
    device to gather them, index (B,) and change."""
    samples = [d.sample for d in drawn]
    batch = {
        "K": _stack([s.K for s in samples]),
        "ego_T_cam": _stack([s.ego_T_cam for s in samples]),
        "mask": _stack([s.mask for s in samples]),
        "boxes": [s.boxes for s in samples],
        "tokens": [s.token for s in samples],
    }
    changes = [d.change for d in drawn if d.change is not None]
    if not changes:
        return {**batch, "images": _stack([s.images for s in samples])}
    change = PixelChange(*(_stack(values) for values in zip(*changes, strict=True)))
    return {**batch, "index": torch.tensor([d.index for d in drawn]), "change": change}


def _stack(arrays: list[np.ndarray]) -> Tensor:
    stacked = np.stack(arrays)
    return torch.from_numpy(stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors move; boxes stay, their targets are drawn on the device."""

    def move(value: Any) -> Any:
        if isinstance(value, PixelChange):
            return PixelChange(*map(move, value))
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in batch.items()}


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
