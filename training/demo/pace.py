"""How fast a drive can be played so that this machine answers every set of images."""

from __future__ import annotations

from statistics import median
from time import perf_counter

from bevdistill_ros.detector import Detector
from bevdistill_ros.training.data.nuscenes import NuScenesSamples

RATES = (1.0, 0.5, 0.25, 0.1)

SHARE = 0.4
"""Of the time between two sets of images that the detector may take here, alone: player, recorder and DDS want theirs, too."""


def seconds_per_set(detector: Detector, samples: NuScenesSamples, repeats: int = 5) -> float:
    """Median time from a keyframe's picture files to its boxes, after one time to warm up."""
    taken = []
    for index in range(repeats + 1):
        begin = perf_counter()
        sample = samples[index % len(samples)]
        detector(sample.images, sample.K, sample.ego_T_cam, sample.mask)
        taken.append(perf_counter() - begin)
    return median(taken[1:])


def suitable_rate(seconds: float, period: float) -> float:
    """The fastest of ``RATES`` for a detector that takes ``seconds`` for a set, where sets are ``period`` seconds apart."""
    return next((rate for rate in RATES if seconds <= SHARE * period / rate), RATES[-1])
