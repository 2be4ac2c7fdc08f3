"""Following objects of one kind through a scene: Kalman filter, global nearest neighbours and smoothing, all of them Stone Soup's.

States are (x, vx, y, vy, z) in the global frame: constant velocity seen from above, a random walk in height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
from stonesoup.dataassociator.tree import DetectionKDTreeGNN2D
from stonesoup.hypothesiser.distance import DistanceHypothesiser
from stonesoup.measures import Mahalanobis
from stonesoup.models.measurement.linear import LinearGaussian
from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity, RandomWalk
from stonesoup.predictor.kalman import KalmanPredictor
from stonesoup.smoother.kalman import KalmanSmoother
from stonesoup.types.detection import Detection
from stonesoup.types.hypothesis import SingleHypothesis
from stonesoup.types.prediction import GaussianStatePrediction
from stonesoup.types.state import State
from stonesoup.types.track import Track as FilteredTrack
from stonesoup.types.update import GaussianStateUpdate, Update
from stonesoup.updater.kalman import KalmanUpdater

from bevdistill_ros.geometry import Boxes
from bevdistill_ros.training.label.motion import Motion

X, VX, Y, VY, Z = range(5)
HEIGHT = 0.2
"""Standard deviation (m) of a detected height, and of how it changes over a second."""

GATE = 3.0
"""Mahalanobis distance beyond which a box is another object's."""

MAX_GAP_NS = 1_600_000_000
"""Time without a box after which an object is lost; three missed keyframes at 2 Hz are bridged no more."""

ANYWHERE = 10.0
"""Standard deviation (m) of a position before the first box; any that is large."""

_EPOCH = datetime(2000, 1, 1)


@dataclass(frozen=True, eq=False)
class Track:
    """One object, in every frame from the first to the last that it was found in.

    Attributes:
        first: index of the first frame.
        found: (n,) index of the object's box in each frame, -1 where none was found.
        centers: (n, 3) smoothed, global frame, m.
        velocities: (n, 2) smoothed, m/s.
    """

    first: int
    found: np.ndarray
    centers: np.ndarray
    velocities: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """(n,) indices of the frames."""
        return self.first + np.arange(len(self.found))


class Tracker:
    """Kalman filter and association for things that move alike.

    Args:
        motion: of theirs.
        thresholds: score, by label, from which on a box may begin a track; weaker ones only continue one. None: any may.
    """

    def __init__(self, motion: Motion, thresholds: Sequence[float] | None = None) -> None:
        self.thresholds = thresholds
        # A velocity of exactly 0 for ever would make covariances singular.
        self._speed, self._drift = max(motion.speed, 1e-3), max(motion.drift, 1e-3)
        walk = ConstantVelocity(max(motion.change, 1e-4) ** 2)
        transition = _remembering(CombinedLinearGaussianTransitionModel([walk, walk, RandomWalk(HEIGHT**2)]))
        self._noise = np.diag([motion.position**2, motion.position**2, HEIGHT**2])
        self._measurement = LinearGaussian(5, (X, Y, Z), self._noise)
        predictor = KalmanPredictor(transition)
        self._updater = KalmanUpdater(self._measurement)
        self._associator = DetectionKDTreeGNN2D(
            DistanceHypothesiser(predictor, self._updater, Mahalanobis(), missed_distance=GATE),
            predictor,
            self._updater,
            max_distance=GATE * (motion.position + max(motion.speed, motion.drift)),
        )
        self._smoother = KalmanSmoother(transition)

    def __call__(self, frames: Sequence[Boxes], stamps: Sequence[int]) -> list[Track]:
        """Tracks, in the order in which they begin.

        Args:
            frames: boxes of each frame, in the global frame.
            stamps: their times, ns, rising.
        """
        tracks: list[FilteredTrack] = []
        active: list[FilteredTrack] = []
        for number, (boxes, stamp) in enumerate(zip(frames, stamps, strict=True)):
            time = _EPOCH + timedelta(microseconds=(stamp - stamps[0]) // 1000)
            detections = [
                Detection(center[:, None], time, self._measurement, metadata={"frame": number, "box": index})
                for index, center in enumerate(boxes.centers)
            ]
            active = [track for track in active if stamp - stamps[_found(track)[-1]] <= MAX_GAP_NS]
            # Objects whose velocity is known choose first: a new one, whose velocity may be anything, would take their boxes.
            known = [track for track in active if len(_found(track)) > 1]
            new = [track for track in active if len(_found(track)) == 1]
            for group in (known, new):
                taken = self._associate(group, detections, time)
                detections = [detection for detection in detections if detection not in taken]
            for detection in detections:
                index = detection.metadata["box"]
                if self.thresholds is None or boxes.scores[index] >= self.thresholds[boxes.labels[index]]:
                    active.append(FilteredTrack([self._begin(detection, boxes.yaws[index])]))
                    tracks.append(active[-1])
        return [self._smoothed(track) for track in tracks]

    def _associate(self, tracks: list[FilteredTrack], detections: list[Detection], time: datetime) -> list[Detection]:
        """Continue tracks, with a box or without; returns the boxes used."""
        if not tracks:
            return []
        taken = []
        for track, hypothesis in self._associator.associate(tracks, detections, time).items():
            if hypothesis:
                track.append(self._updater.update(hypothesis))
                taken.append(hypothesis.measurement)
            else:
                track.append(hypothesis.prediction)
        return taken

    def _begin(self, detection: Detection, yaw: float) -> GaussianStateUpdate:
        """State after an object's first box: it moves forth or back along its heading, if at all."""
        x, y, z = np.asarray(detection.state_vector, float)[:, 0]
        heading = np.array([np.cos(yaw), np.sin(yaw)])
        covariance = np.diag([ANYWHERE**2, 0.0, ANYWHERE**2, 0.0, ANYWHERE**2])
        covariance[np.ix_((VX, VY), (VX, VY))] = self._drift**2 * np.eye(2) + (
            self._speed**2 - self._drift**2
        ) * np.outer(heading, heading)
        prior = GaussianStatePrediction([x, 0.0, y, 0.0, z], covariance, timestamp=detection.timestamp)
        return self._updater.update(SingleHypothesis(prior, detection))

    def _smoothed(self, track: FilteredTrack) -> Track:
        """Without what follows the last box."""
        frames = [_frame(state) for state in track]
        last = max(index for index, frame in enumerate(frames) if frame is not None)
        track.states = track.states[: last + 1]
        states = np.array([np.asarray(state.state_vector, float)[:, 0] for state in self._smoother.smooth(track)])
        found = [state.hypothesis.measurement.metadata["box"] if _frame(state) is not None else -1 for state in track]
        return Track(frames[0], np.array(found), states[:, (X, Y, Z)], states[:, (VX, VY)])


def _remembering(model: CombinedLinearGaussianTransitionModel) -> CombinedLinearGaussianTransitionModel:
    """The model with its matrices remembered by time interval: all tracks of a frame share them, and putting them together takes
    most of a prediction's time."""
    for name in ("matrix", "covar"):
        calculate = lru_cache(maxsize=64)(getattr(model, name))
        setattr(model, name, lambda time_interval, calculate=calculate, **_: calculate(time_interval=time_interval))
    return model


def _frame(state: State) -> int | None:
    """The frame whose box a state has taken; None for one that is predicted alone."""
    return state.hypothesis.measurement.metadata["frame"] if isinstance(state, Update) else None


def _found(track: FilteredTrack) -> list[int]:
    """The frames that an object was found in."""
    return [frame for state in track if (frame := _frame(state)) is not None]


def smooth_series(values: np.ndarray, times: np.ndarray, noise: float, change: float) -> np.ndarray:
    """A smoothed series (n,): constant rate, Kalman filter and smoother.

    Args:
        values: (n,) measured; NaN where unknown, but for the first.
        times: (n,) s, rising.
        noise: standard deviation of a value.
        change: standard deviation of how the rate changes over one second.
    """
    transition = ConstantVelocity(change**2)
    measurement = LinearGaussian(2, (0,), np.array([[noise**2]]))
    predictor, updater = KalmanPredictor(transition), KalmanUpdater(measurement)
    prior = np.diag([(10 * noise) ** 2, change**2])
    state = GaussianStatePrediction([values[0], 0.0], prior, timestamp=_EPOCH)
    track = FilteredTrack()
    for value, time in zip(values, times, strict=True):
        if len(track):
            state = predictor.predict(track[-1], timestamp=_EPOCH + timedelta(seconds=float(time - times[0])))
        if not np.isnan(value):
            detection = Detection([value], state.timestamp, measurement)
            state = updater.update(SingleHypothesis(state, detection))
        track.append(state)
    return np.array([float(state.state_vector[0]) for state in KalmanSmoother(transition).smooth(track)])
