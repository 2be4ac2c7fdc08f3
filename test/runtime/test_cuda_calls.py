"""What is asked of CUDA, in which order, by a stand-in, for a GPU is not everywhere; test_cuda.py has the real one."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bevdistill_ros import detector
from bevdistill_ros.runtime.cuda_graph import WARM_UP, CudaGraphs
from bevdistill_ros.runtime.staging import image_rows


class FakeCuda:
    """Writes down what is called; streams are names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.current = "main"
        graph_arguments = inspect.signature(torch.cuda.graph)

        @contextmanager
        def on(stream: SimpleNamespace):
            before, self.current = self.current, stream.name
            yield
            self.current = before

        @contextmanager
        def graph(*arguments, **named):
            bound = graph_arguments.bind(*arguments, **named).arguments
            assert bound["pool"] == "pool" and bound["capture_error_mode"] == "thread_local"
            self.current = "recording"
            self.calls.append("begin")
            yield  # as torch's own, it leaves its stream in place where the work fails
            self.calls.append("end")
            self.current = "main"

        def stream(name: str) -> SimpleNamespace:
            return SimpleNamespace(
                name=name, wait_stream=lambda other: self.calls.append(f"{name} waits for {other.name}")
            )

        def set_stream(stream: SimpleNamespace) -> None:
            self.current = stream.name

        stand_ins = {
            "graph_pool_handle": lambda: "pool",
            "device": lambda device: on(SimpleNamespace(name=self.current)),
            "current_stream": lambda device=None: stream(self.current),
            "set_stream": set_stream,
            "Stream": lambda: stream("aside"),
            "stream": on,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.calls.append("replay")),
            "graph": graph,
        }
        for name, stand_in in stand_ins.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, stand_in)


def test_work_is_warmed_up_aside_and_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    found = object()

    def work() -> object:
        cuda.calls.append(f"work on {cuda.current}")
        return found

    repeat = CudaGraphs(torch.device("cuda"))(work)
    warmed = ["aside waits for main", *["work on aside"] * WARM_UP, "main waits for aside"]
    assert cuda.calls == [*warmed, "begin", "work on recording", "end"]
    assert repeat() is found and repeat() is found
    assert cuda.calls[-3:] == ["end", "replay", "replay"] and cuda.current == "main"


def test_a_recording_that_fails_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)

    def work() -> None:
        if cuda.current == "recording":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(torch.device("cuda"))(work)
    assert cuda.current == "main" and cuda.calls[-1] == "begin"


def test_laps_of_a_gpu_are_between_marks_in_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at, self.waited = None, False
            made.append(self)

        def record(self, stream: str) -> None:
            assert stream == "main"
            self.at = len(made) ** 2

        def synchronize(self) -> None:
            self.waited = True

        def elapsed_time(self, end: Event) -> float:
            assert made[-1].waited
            return float(end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    clock = detector._GpuClock(torch.device("cuda"))
    clock.lap()
    clock.lap()
    assert not any(event.waited for event in made)
    assert clock.milliseconds() == [3.0, 5.0] and [event.waited for event in made] == [False, False, True]


def test_rows_for_a_gpu_are_page_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def zeros(shape: tuple[int, ...], **how) -> torch.Tensor:
        asked.update(how)
        return torch.from_numpy(np.zeros(shape, np.uint8))

    monkeypatch.setattr(torch, "zeros", zeros)
    rows = image_rows((2, 4, 6, 3), torch.device("cuda"))
    assert rows.shape == (2, 4, 6, 3) and asked == {"dtype": torch.uint8, "pin_memory": True}
