"""Samples of a whole training, in order, augmented, as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from bevdistill_ros.threads import limit_opencv
from bevdistill_ros.training.augmentation import PixelChange, augment_geometry, change_pixels, draw_augmentation
from bevdistill_ros.training.class_balance import balanced_order, round_length, samples_of_classes
from bevdistill_ros.training.config import Config
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, Sample
from bevdistill_ros.training.image_supervision import ImageTargets, image_targets, latest_reading


@dataclass(frozen=True, eq=False)
class DrawnSample:
    """An augmented sample; its pixels are either changed already (``change`` None) or still to be gathered and changed on the
    device: those of sample ``index``, by ``change``. ``targets`` are there where the training asks for image supervision."""

    index: int
    sample: Sample
    change: PixelChange | None
    targets: ImageTargets | None = None


class AugmentedSamples(Dataset):
    """Augmented samples by (index, draw): the draw's number seeds its augmentation, so that a resumed run repeats none.

    Args:
        black_images: a control experiment, all pixels are black.
        on_device: leave the pixels to the device, see ``device_images.py``.
    """

    def __init__(
        self, samples: NuScenesSamples, config: Config, black_images: bool = False, on_device: bool = False
    ) -> None:
        self.samples, self.config, self.black_images, self.on_device = samples, config, black_images, on_device

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> DrawnSample:
        index, draw = key
        rng = np.random.default_rng([self.config.training.seed, draw])
        sample = self.samples.geometry(index)
        sample = replace(sample, points=self.samples.points(sample))
        width, height = self.samples.image_size
        drawn = draw_augmentation(self.config.training.augmentation, sample.mask, (width, height), rng)
        change = drawn.pixels
        if self.black_images:
            change = change._replace(visible=np.zeros_like(change.visible))
        changed = augment_geometry(sample, drawn, width)
        targets = self._image_targets(changed) if self.config.training.image_supervision.used else None
        if self.on_device:
            return DrawnSample(index, changed, change, targets)
        images = change_pixels(self.samples.images(index), change)
        return DrawnSample(index, replace(changed, images=images), None, targets)

    def _image_targets(self, sample: Sample) -> ImageTargets:
        width, height = self.samples.image_size
        lift = self.config.model.lift
        size = height // lift.stride, width // lift.stride
        return image_targets(
            latest_reading(sample.points),
            sample.boxes,
            sample.K,
            sample.ego_T_cam,
            sample.mask,
            lift,
            size,
            sample.doubtful,
        )


class StepSampler(Sampler):
    """(index, draw) for a whole training: one random order of the samples after another, from draw ``start`` on.

    With ``groups`` of samples, by class, the orders are those of ``balanced_order`` instead.

    Its length is that of the whole training even where it starts late, since Lightning counts the batches already done.
    """

    def __init__(
        self, count: int, draws: int, seed: int, start: int = 0, groups: Sequence[np.ndarray] | None = None
    ) -> None:
        self.count, self.draws, self.seed, self.start, self.groups = count, draws, seed, start, groups

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        length = self.count if self.groups is None else round_length(self.groups)
        order, current = np.arange(0), -1
        for draw in range(self.start, self.draws):
            if draw // length != current:
                current = draw // length
                rng = np.random.default_rng([self.seed, current, 1])
                order = rng.permutation(length) if self.groups is None else balanced_order(self.groups, rng)
            yield int(order[draw % length]), draw


class ProcessBatches(Sampler):
    """Batches of one process: its share of every step's ``batch_size`` draws of ``sampler``.

    No two processes load the same draw, and together they load what one process would.
    """

    def __init__(self, sampler: StepSampler, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.batches = BatchSampler(sampler, batch_size, drop_last=True)
        share = batch_size // processes
        self.own = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (batch[self.own] for batch in self.batches)


def collate(drawn: Sequence[DrawnSample], inputs: Sequence[str]) -> dict[str, Any]:
    """A batch, by name: boxes, doubtful boxes and tokens as lists, and the ``inputs``, those attributes of ``Sample`` that networks
    ask for.

    These are images (B, N, H, W, 3) uint8, or, for the device to gather them, index (B,) and change; K, ego_T_cam float32; mask
    bool; points a list of (n_i, POINT) float32. ``image_targets`` are there where the training asks for them.
    """
    samples = [d.sample for d in drawn]
    batch: dict[str, Any] = {
        "boxes": [s.boxes for s in samples],
        "doubtful": [s.doubtful for s in samples],
        "tokens": [s.token for s in samples],
    }
    changes = [d.change for d in drawn if d.change is not None]
    for name in inputs:
        values = [getattr(s, name) for s in samples]
        if name == "points":
            batch[name] = [torch.from_numpy(own) for own in values]
        elif name == "images" and changes:
            batch["index"] = torch.tensor([d.index for d in drawn])
            batch["change"] = PixelChange(*(_stack(parts) for parts in zip(*changes, strict=True)))
        else:
            batch[name] = _stack(values)
    targets = [d.targets for d in drawn if d.targets is not None]
    if targets:
        batch["image_targets"] = ImageTargets(*(_stack(parts) for parts in zip(*targets, strict=True)))
    return batch


def _stack(arrays: list[np.ndarray]) -> Tensor:
    stacked = np.stack(arrays)
    return torch.from_numpy(stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors move; boxes stay, their targets are drawn on the device."""

    def move(value: Any) -> Any:
        if isinstance(value, tuple):  # a NamedTuple
            return type(value)(*map(move, value))
        if isinstance(value, list):
            return [move(item) for item in value]
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in batch.items()}


def part_of(batch: dict[str, Any], samples: slice) -> dict[str, Any]:
    """The batch of some of its samples."""

    def take(value: Any) -> Any:
        if isinstance(value, tuple):  # a NamedTuple
            return type(value)(*map(take, value))
        return value[samples]

    return {name: take(value) for name, value in batch.items()}


def split_batch(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """A batch in so many parts of the same size, in its order."""
    size = len(batch["tokens"]) // parts
    return [part_of(batch, slice(i * size, (i + 1) * size)) for i in range(parts)]


def make_loader(
    dataset: AugmentedSamples, config: Config, start_step: int, inputs: Sequence[str], rank: int = 0, processes: int = 1
) -> DataLoader:
    """Batches of the whole training from ``start_step`` on, with the ``inputs`` of the networks that are to see them.

    Args:
        rank: of this process among the ``processes`` that train together.
    """
    training = config.training
    if training.workers:
        # Workers are forked. OpenCV's threads are not there in a child, which waits for them for ever, or crashes.
        limit_opencv()
    groups = None
    if training.class_balance:
        groups = samples_of_classes([dataset.samples.classes(i) for i in range(len(dataset))])
    size = training.batch_size
    sampler = StepSampler(len(dataset), training.steps * size, training.seed, start_step * size, groups)
    return DataLoader(
        dataset,
        batch_sampler=ProcessBatches(sampler, training.batch_size, rank, processes),
        num_workers=training.workers,
        collate_fn=partial(collate, inputs=tuple(inputs)),
        persistent_workers=training.workers > 0,
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
    )


def _one_thread(worker: int) -> None:
    """OpenCV would otherwise use all cores in every worker."""
    limit_opencv()
