"""Every backend finds the same boxes, follows the calibration, and takes any cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, make_transform
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.models.outputs import CenterOutputs
from bevdistill_ros.runtime.onnx_export import make_rig

NAMES = ("nano", "simulated_nano", "bevformer_nano")
METRES, SCORES = 1e-3, 1e-4
"""Greatest differences between backends."""


def inputs(detector: Detector, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(value[0].numpy() for value in make_rig(detector.config, count, seed))


def as_written(detector: Detector, network, rig: tuple[np.ndarray, ...]) -> Boxes:
    """Boxes of the network itself, in eager float32."""
    with torch.no_grad():
        outputs = network(*(torch.from_numpy(value)[None] for value in rig))
    return network.decode(outputs)[0]


def assert_same(found: Boxes, expected: Boxes) -> None:
    """The same boxes, whatever the order of those whose scores are nearly the same."""
    assert len(found) == len(expected) > 0
    assert np.abs(found.scores - expected.scores).max() <= SCORES
    for box in range(min(len(expected), 20)):
        alike = (found.labels == expected.labels[box]) & (np.abs(found.scores - expected.scores[box]) <= SCORES)
        distances = np.abs(found.centers - expected.centers[box]).max(axis=1) + np.abs(
            found.sizes - expected.sizes[box]
        ).max(axis=1)
        assert distances[alike].min() <= METRES


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def backend(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=NAMES)
def detector(request, backend: str, exported) -> Detector:
    return Detector.from_checkpoint(exported(request.param).checkpoint, backend=backend)


@pytest.fixture
def network(detector: Detector, student):
    return next(student(name) for name in NAMES if student(name).config == detector.config)


def test_it_says_what_runs(detector: Detector, backend: str) -> None:
    assert detector.backend == {"torch": "torch", "onnxruntime": "onnxruntime, CPUExecutionProvider"}[backend]
    assert detector.training == {"steps": 3} and detector.cameras == ("front", "left")
    assert (detector.network is None) == (backend == "onnxruntime")


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_the_same_boxes_for_any_number_of_cameras(detector: Detector, network, count: int) -> None:
    rig = inputs(detector, count, seed=count)
    assert_same(detector(*rig), as_written(detector, network, rig))


def test_a_masked_camera_is_an_absent_one(detector: Detector, network) -> None:
    images, K, ego_T_cam = inputs(detector, 4)
    present = np.array([True, False, True, True])
    expected = as_written(detector, network, (images[present], K[present], ego_T_cam[present]))
    K[1] = np.nan
    assert_same(detector(images, K, ego_T_cam, present), expected)


def test_another_calibration_is_followed_and_the_first_one_again(detector: Detector, network) -> None:
    images, K, ego_T_cam = inputs(detector, 3)
    first = detector(images, K, ego_T_cam)
    moved = ego_T_cam.copy()
    moved[1] = make_transform(np.eye(3), (1.5, -2.0, 0.4)) @ moved[1]
    zoomed = K.copy()
    zoomed[0, :2] *= 1.3
    for changed in ((images, K, moved), (images, zoomed, ego_T_cam)):
        expected = as_written(detector, network, changed)
        found = detector(*changed)
        assert_same(found, expected)
        assert len(found) != len(first) or np.abs(found.scores - first.scores).max() > 3 * SCORES
    again = detector(images, K, ego_T_cam)
    assert np.array_equal(again.scores, first.scores) and np.array_equal(again.centers, first.centers)


def test_cameras_that_see_nothing_of_the_grid(detector: Detector, network) -> None:
    images, K, ego_T_cam = inputs(detector, 2)
    far = (make_transform(np.eye(3), (0.0, 0.0, 500.0)) @ ego_T_cam).astype(np.float32)
    found, expected = detector(images, K, far), as_written(detector, network, (images, K, far))
    # The map is empty then, and all places are alike: which ones of them are the best is a matter of rounding.
    assert np.abs(found.scores - expected.scores).max() <= SCORES


def test_no_camera_no_boxes(detector: Detector) -> None:
    assert len(detector(*inputs(detector, 2), mask=np.zeros(2, bool))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(student, name: str) -> None:
    network = student(name)
    checkpoint = Checkpoint(network.config, network.state_dict(), (), {})
    exact, rounded = Detector(checkpoint), Detector(checkpoint, dtype=torch.bfloat16)
    assert (exact.backend, rounded.backend) == ("torch", "torch_bfloat16")
    rig = inputs(exact, 3)
    found, expected = rounded(*rig), exact(*rig)
    difference = np.abs(np.sort(found.scores)[-10:] - np.sort(expected.scores)[-10:]).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_what_boxes_are_read_from_is_not_rounded_to_bfloat16(student, name: str) -> None:
    network = student(name)
    detector = Detector(Checkpoint(network.config, network.state_dict(), (), {}), dtype=torch.bfloat16)
    rig = make_rig(network.config, 3, seed=0)
    found = detector.runtime(*rig)
    logits = found.heatmap if isinstance(found, CenterOutputs) else found.logits
    for values in (logits, found.codes):
        assert values.dtype == torch.float32
        assert (values != values.bfloat16().float()).float().mean() > 0.5
    # Scores are hardly ever tied: bfloat16 would have about a hundred steps for those of a random network.
    scores = detector(*(value[0].numpy() for value in rig)).scores
    assert len(np.unique(scores)) > 0.9 * len(scores)


def test_bfloat16_follows_cameras_that_come_and_go(student) -> None:
    """Sizes that were not there before are worked out anew, and give what they gave."""
    network = student("nano")
    detector = Detector(Checkpoint(network.config, network.state_dict(), (), {}), dtype=torch.bfloat16)
    images, K, ego_T_cam = inputs(detector, 4)
    present = np.array([True, False, True, True])
    whole = detector(images, K, ego_T_cam)
    fewer = detector(images, K, ego_T_cam, present)
    expected = detector(images[present], K[present], ego_T_cam[present])
    assert np.array_equal(fewer.scores, expected.scores) and np.array_equal(fewer.centers, expected.centers)
    again = detector(images, K, ego_T_cam)
    assert np.array_equal(again.scores, whole.scores) and np.array_equal(again.centers, whole.centers)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_run_under_a_calibration_that_is_known(student, name: str) -> None:
    network = student(name)
    rig = make_rig(network.config, 4, seed=2)
    mask = torch.tensor([[True, True, False, True]])
    size = tuple(rig.images.shape[2:4])
    with torch.no_grad():
        for arguments in ((mask,), ()):
            calibration = network.calibrate(rig.K, rig.ego_T_cam, *(arguments or (all_present(rig.K),)), size)
            found, expected = network.run(rig.images, calibration), network(*rig, *arguments)
            assert_equal_tensors(found, expected)
            other = torch.flip(rig.images, (2,))
            assert_equal_tensors(network.run(other, calibration), network(other, *rig[1:], *arguments))


def assert_equal_tensors(found, expected) -> None:
    for field in dataclasses.fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(b):
            assert_equal_tensors(a, b)
        else:
            assert (a is None and b is None) or torch.equal(a, b)


def test_unknown_providers_and_devices_are_refused(exported, student) -> None:
    with pytest.raises(UserError, match="onnx_providers: 'NoSuchProvider' is not in this onnxruntime, which has .*CPU"):
        Detector.from_checkpoint(exported("nano").onnx, providers=("NoSuchProvider",))
    network = student("nano")
    checkpoint = Checkpoint(network.config, network.state_dict(), (), {})
    for match, values in (
        ("backend 'torch_float16' is for CUDA, not for device 'cpu'", {"dtype": torch.float16}),
        ("execution 'graph' is for CUDA, not for device 'cpu'", {"execution": "graph"}),
    ):
        with pytest.raises(UserError, match=match) as error:
            Detector(checkpoint, **values)
        assert "\n" not in str(error.value)
    for execution in ("graph", "compiled"):
        with pytest.raises(UserError, match=rf"model\.onnx: execution '{execution}' is PyTorch's"):
            Detector.from_checkpoint(exported("nano").onnx, execution=execution)
    assert Detector(checkpoint, execution="auto").backend == "torch"
