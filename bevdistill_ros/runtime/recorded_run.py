"""A network's run on memory that stays: recorded once, repeated on whatever was copied there since."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from torch import Tensor

from bevdistill_ros.errors import first_line
from bevdistill_ros.models.outputs import CenterOutputs, QueryOutputs

Found: TypeAlias = CenterOutputs | QueryOutputs

Recorder: TypeAlias = Callable[[Callable[[], Found]], Callable[[], Found]]
"""Takes work that always reads the same memory, and gives what does it again when it is called, on what that memory then holds.

It may do the work several times. What the repetition gives is the same memory each time. It raises RuntimeError where the work is
of a kind that it cannot record.
"""

KEPT = 4
"""Recordings, of different sizes; each has memory of its own for what it reads and gives."""


class RecordedRun:
    """Does what ``run`` does, by recordings.

    Images and calibration are what it takes. They are copied to where the recording reads them, the calibration only when it is
    another one, so nothing is recorded again when a camera moves; that happens where sizes change, those of images or of the
    calibration's tensors. Where nothing can be recorded, ``run`` itself runs, and a warning is logged.

    Args:
        run: takes images, and a calibration of ``Student.padded``; it depends on nothing else that changes.

    Attributes:
        refusal: why nothing is recorded, in words; empty where nothing has spoken against it so far.
    """

    def __init__(self, run: Callable[[Tensor, Any], Found], recorder: Recorder) -> None:
        self._run, self._recorder = run, recorder
        self._recordings: dict[tuple, _Recording] = {}
        self.refusal = ""

    def __call__(self, images: Tensor, calibration: Any) -> Found:
        """What ``run`` gives; it holds until the next call, which may write to the same memory."""
        if self.refusal:
            return self._run(images, calibration)
        sizes = tuple(tensor.shape for tensor in tensors_of((images, calibration)))
        recording = self._recordings.pop(sizes, None)
        if recording is None:
            if len(self._recordings) == KEPT:
                del self._recordings[next(iter(self._recordings))]  # the one that was not used for the longest time
            try:
                recording = _Recording(self._run, self._recorder, images, calibration)
            except RuntimeError as error:
                self._recordings.clear()
                self.refusal = first_line(error)
                logging.getLogger(__name__).warning("the network runs without a CUDA graph: %s", self.refusal)
                return self._run(images, calibration)
        self._recordings[sizes] = recording
        return recording(images, calibration)


class _Recording:
    """Of inputs of one size."""

    def __init__(
        self, run: Callable[[Tensor, Any], Found], recorder: Recorder, images: Tensor, calibration: Any
    ) -> None:
        # The recorded work knows these and not this object: it would be kept alive by itself until Python looks for such cycles.
        own_images, own_calibration = images.clone(), copy.deepcopy(calibration)
        self._images, self._calibration, self._copied = own_images, own_calibration, calibration
        self._repeat = recorder(lambda: run(own_images, own_calibration))

    def __call__(self, images: Tensor, calibration: Any) -> Found:
        self._images.copy_(images)
        if calibration is not self._copied:
            for ours, theirs in zip(self._calibration, calibration, strict=True):
                if ours is not None:
                    ours.copy_(theirs)
            self._copied = calibration
        return self._repeat()


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in tuples and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors_of(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))
