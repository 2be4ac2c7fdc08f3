"""What the tests of the benchmark share."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bevdistill_ros.bench.pipeline import Pipeline
from bevdistill_ros.bench.rig_sets import RigSet, synthetic_sets
from bevdistill_ros.detector import Detector
from bevdistill_ros.models.student import Student


@pytest.fixture(scope="session")
def tiny_detector(tiny_checkpoint) -> Detector:
    """A lift-splat student of random weights, for images of 64x32."""
    return Detector.from_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_network(tiny_checkpoint) -> Student:
    """Its network, as it was written."""
    return Detector.from_checkpoint(tiny_checkpoint).network


@pytest.fixture
def pipeline(tiny_detector, tiny_network):
    made = Pipeline(tiny_detector, 2, tiny_network)
    yield made
    made.close()


@pytest.fixture(scope="session")
def small_sets() -> list[RigSet]:
    """Made-up pictures of 400x225."""
    return synthetic_sets(2, size=(400, 225))


@pytest.fixture(scope="session")
def smooth_set(small_sets) -> RigSet:
    """Pictures without detail, which every way of making them smaller gives alike, saved without loss."""
    rng = np.random.default_rng(3)
    coarse = [rng.integers(60, 200, (3, 4, 3), dtype=np.uint8) for _ in small_sets[0].names]
    pictures = [cv2.resize(grid, (400, 225), interpolation=cv2.INTER_CUBIC) for grid in coarse]
    encoded = tuple(cv2.imencode(".png", picture)[1].tobytes() for picture in pictures)
    return RigSet(small_sets[0].names, encoded, small_sets[0].cameras, small_sets[0].ego_T_cam)
