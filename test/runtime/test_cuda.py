"""What only a GPU can do: CUDA graphs, float16, kernels that are compiled, page-locked memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes, make_transform
from bevdistill_ros.models import bevformer
from bevdistill_ros.runtime.cuda_graph import CudaGraphs
from bevdistill_ros.runtime.onnx_export import make_rig
from bevdistill_ros.runtime.recorded_run import KEPT, RecordedRun
from bevdistill_ros.runtime.staging import image_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

NAMES = ("nano", "simulated_nano", "bevformer_nano")
DTYPES = {"torch": torch.float32, "torch_bfloat16": torch.bfloat16, "torch_float16": torch.float16}


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def detector_of(network, device: str = "cuda", **how) -> Detector:
    return Detector(Checkpoint(network.config, network.state_dict(), (), {}), device, **how)


def rig_of(detector: Detector, count: int = 4, seed: int = 0) -> tuple[np.ndarray, ...]:
    return tuple(value[0].numpy().copy() for value in make_rig(detector.config, count, seed))


def assert_near(found: Boxes, expected: Boxes, scores: float) -> None:
    count = min(len(found), len(expected))
    assert count > 0 and abs(len(found) - len(expected)) <= 0.1 * len(expected)
    assert np.abs(found.scores[:count] - expected.scores[:count]).max() <= scores


def changes(detector: Detector) -> list[tuple]:
    """Arguments of calls: cameras moved, zoomed, missing, seeing nothing; and as at first."""
    images, K, ego_T_cam = rig_of(detector)
    moved, away, zoomed = ego_T_cam.copy(), ego_T_cam.copy(), K.copy()
    moved[1] = make_transform(np.eye(3), (1.5, -2.0, 0.4)) @ moved[1]
    away[:, 2, 3] += 500.0
    zoomed[:, :2] *= 1.3
    some = np.array([True, False, True, True])
    return [
        (images, K, ego_T_cam), (images[:, ::-1], K, ego_T_cam), (images, K, moved), (images, zoomed, ego_T_cam, some),
        (images, zoomed, ego_T_cam, ~some), (images, K, away), (images, K, ego_T_cam),
    ]  # fmt: skip


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_graphs_give_what_single_operators_give(student, name: str, backend: str) -> None:
    eager, graph = (detector_of(student(name), dtype=DTYPES[backend], execution=way) for way in ("eager", "graph"))
    # Sums of index_add and of other kernels may come in another order, and so may ties.
    tolerance = 1e-4 if backend == "torch" else 0.02
    for arguments in changes(eager):
        assert_near(graph(*arguments), eager(*arguments), tolerance)
    assert (eager.backend, graph.backend) == (backend, f"{backend}, CUDA graph")
    assert all(value >= 0 for value in graph.stage_times.values()) and graph.stage_times["network"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_what_the_cpu_gives(student, name: str) -> None:
    cpu, gpu = detector_of(student(name), "cpu"), detector_of(student(name), execution="auto")
    assert gpu.backend == "torch, CUDA graph"
    for arguments in changes(cpu):
        assert_near(gpu(*arguments), cpu(*arguments), 2e-3)


@pytest.mark.parametrize("backend", ["torch_bfloat16", "torch_float16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_near(student, name: str, backend: str) -> None:
    exact, rounded = detector_of(student(name)), detector_of(student(name), dtype=DTYPES[backend])
    rig = rig_of(exact)
    difference = np.abs(rounded(*rig).scores[:10] - exact(*rig).scores[:10]).max()
    assert 0 < difference < 0.05


def test_graphs_of_more_sizes_than_are_kept(student) -> None:
    eager, graph = (detector_of(student("nano"), execution=way) for way in ("eager", "graph"))
    for count in (1, 2, 1, *range(3, KEPT + 3), 1, 2):
        rig = rig_of(eager, count, seed=count)
        assert_near(graph(*rig), eager(*rig), 1e-4)
    assert graph.backend == "torch, CUDA graph"


def test_lists_of_cells_that_grow(student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bevformer, "STEP", 16)
    eager, graph = (detector_of(student("bevformer_nano"), execution=way) for way in ("eager", "graph"))
    for arguments in changes(eager):
        assert_near(graph(*arguments), eager(*arguments), 1e-4)
    assert graph.backend == "torch, CUDA graph"


def test_what_cannot_be_recorded_runs_all_the_same_and_the_gpu_goes_on(student) -> None:
    images = torch.arange(6.0, device="cuda").view(2, 3)
    before = torch.cuda.current_stream()
    for work in (
        lambda images, _: images[images > 3],
        lambda images, _: images * images.sum().item(),
        lambda images, _: images + images.new_tensor([1.0, 2.0, 3.0]),
    ):
        run = RecordedRun(work, CudaGraphs(images.device))
        for _ in range(2):
            assert torch.equal(run(images, ()), work(images, ()))
        assert run.refusal
    assert torch.cuda.current_stream() == before
    run = RecordedRun(lambda images, _: images * 2, CudaGraphs(images.device))
    assert torch.equal(run(images, ()), images * 2) and not run.refusal
    assert torch.equal(run(images + 1, ()), images * 2 + 2)
    graph = detector_of(student("nano"), execution="graph")
    assert len(graph(*rig_of(graph))) and graph.backend == "torch, CUDA graph"


def test_page_locked_rows_are_read_before_the_detector_returns(student) -> None:
    detector = detector_of(student("nano"), execution="graph")
    images, K, ego_T_cam = rig_of(detector)
    rows = image_rows(images.shape, detector.device)
    assert torch.from_numpy(rows).is_pinned() and not rows.any()
    expected = [detector(pixels, K, ego_T_cam) for pixels in (images, images[:, ::-1])]
    for _ in range(20):
        for pixels, wanted in zip((images, images[:, ::-1]), expected, strict=True):
            rows[:] = pixels  # at once after the last call
            np.testing.assert_allclose(detector(rows, K, ego_T_cam).scores, wanted.scores, atol=1e-4)


def test_compiled_kernels_give_the_same(student) -> None:
    torch.compiler.reset()
    eager = detector_of(student("nano"), dtype=torch.bfloat16)
    compiled = detector_of(student("nano"), dtype=torch.bfloat16, execution="compiled")
    for arguments in changes(eager):
        assert_near(compiled(*arguments), eager(*arguments), 0.02)
    assert compiled.backend == "torch_bfloat16, compiled, CUDA graph"
