"""What happens around a training's steps: its state is saved, signals end it, time is counted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bevdistill_ros.errors import UserError


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
        """All processes come here in the same step; the first one writes, see ``AtomicCheckpointIO``."""
        trainer.save_checkpoint(self.path)


class AtomicCheckpointIO(TorchCheckpointIO):
    """How Lightning writes a state: beside the file first, onto the disk, and only then in its place."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """A kill or a full disk at any moment leaves the old file or the new one; what is left of the other is overwritten later.

        Raises:
            UserError: it cannot be written.
        """
        partial = Path(path).with_suffix(".partial")
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by either
            partial.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: the training's state cannot be written ({reason}); the last one is as it was"
            ) from None


class StopOnSignal(lightning.Callback):
    """On Ctrl-C or SIGTERM the training ends after the step it is in, so that its saved state is that of a step; a second signal
    ends it at once. It is enough that one of several processes gets it."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, object] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Signals can be caught in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: object) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        self._before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        """All processes end after the same step."""
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer.should_stop = True

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


class SameSamples(lightning.Callback):
    """Refuses to resume on other samples, cameras or pixels than those that the saved state was trained on, since the command line
    names them again."""

    def __init__(self, tokens: Sequence[str], cameras: Sequence[str], black_images: bool) -> None:
        content = json.dumps([list(tokens), list(cameras), black_images])
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def state_dict(self) -> dict[str, str]:
        """Saved with the training state."""
        return {"digest": self.digest}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Compare."""
        if state_dict["digest"] != self.digest:
            raise UserError(
                "--resume: the training was on other samples; give the same --data, --version, --split or --scenes, --cameras "
                "and --black-images as before, or start anew in another --output"
            )


class Throughput(lightning.Callback):
    """Logs samples a second over the last steps, loading and everything else included."""

    def __init__(self, batch_size: int, window: int = 20) -> None:
        self.batch_size = batch_size
        self._ends: deque[float] = deque(maxlen=window + 1)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object) -> None:
        """From the second step on."""
        self._ends.append(time.monotonic())
        if len(self._ends) > 1:
            steps_a_second = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)
            module.log("samples_per_second", self.batch_size * steps_a_second, batch_size=self.batch_size)
