"""Which of a scene's boxes become objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bevdistill_ros.geometry import Boxes

pytest.importorskip("stonesoup")

from bevdistill_ros.training.label.objects import Frame, doubtful_boxes, find_objects

NAMES = ("car", "truck", "pedestrian", "traffic_cone")
THRESHOLDS = {"car": 0.4, "truck": 0.4, "pedestrian": 0.3, "traffic_cone": 0.3}
SIZES = {
    "car": (4.4, 1.9, 1.6),
    "truck": (7.0, 2.5, 3.0),
    "pedestrian": (0.7, 0.7, 1.7),
    "traffic_cone": (0.4, 0.4, 1.0),
}

Row = tuple[str, float, float, float]
"""Class, x, y, score."""


def scene(*frames: Sequence[Row]) -> list[Frame]:
    result = []
    for i, rows in enumerate(frames):
        boxes = Boxes(
            [[x, y, 0.8] for _, x, y, _ in rows],
            [SIZES[name] for name, *_ in rows],
            np.zeros(len(rows)),
            np.zeros((len(rows), 2)),
            [score for *_, score in rows],
            [NAMES.index(name) for name, *_ in rows],
            NAMES,
        )
        result.append(Frame(i * 500_000_000, boxes))
    return result


def summary(frames: list[Frame]) -> tuple[list[tuple[str, list[int]]], dict[tuple[str, str], int]]:
    found = find_objects(frames, THRESHOLDS)
    return [(thing.name, thing.frames.tolist()) for thing in found.objects], dict(found.dropped)


def test_thresholds_are_of_the_class():
    rows = [("car", 0, 0, 0.35), ("pedestrian", 9, 0, 0.35)]
    objects, dropped = summary(scene(*[rows] * 4))
    assert objects == [("pedestrian", [0, 1, 2, 3])]
    assert dropped == {("car", "below the threshold, and no object goes on there"): 4}


def test_of_two_classes_in_one_place_one_is_left():
    both = [("truck", 0.3, 0, 0.5), ("car", 0, 0, 0.8), ("pedestrian", 9, 0, 0.5)]
    objects, dropped = summary(scene(*[both] * 3))
    assert objects == [("car", [0, 1, 2]), ("pedestrian", [0, 1, 2])]
    assert dropped == {("truck", "overlaps a stronger box"): 3}


def test_a_class_that_flickers_is_one_object():
    """The truck is called a car in one frame: it is one truck, of a truck's size, all the time."""
    truck, car = [("truck", 0, 0, 0.9)], [("car", 0, 0, 0.95)]
    found = find_objects(scene(truck, truck, car, truck, truck), THRESHOLDS)
    (thing,) = found.objects
    assert thing.name == "truck" and thing.frames.tolist() == [0, 1, 2, 3, 4] and thing.found.all()
    assert set(thing.boxes.names) == {"truck"}
    np.testing.assert_allclose(thing.boxes.sizes, np.tile(SIZES["truck"], (5, 1)))
    assert not found.dropped


def test_all_frames_say_together_what_a_thing_is():
    """Called a car most often, but never far from a truck; where it is clearly one or the other, a truck."""
    torn, clear = [("car", 0, 0, 0.5), ("truck", 0.2, 0, 0.45)], [("truck", 0, 0, 0.9)]
    objects, _ = summary(scene(torn, torn, clear, torn))
    assert objects == [("truck", [0, 1, 2, 3])]
    objects, _ = summary(scene(torn, torn, torn, torn))
    assert objects == [("car", [0, 1, 2, 3])]


def test_what_a_class_says_counts_in_thresholds():
    """0.45 of a class whose threshold is 0.3 is worth more than 0.5 of one whose threshold is 0.4."""
    here = [("car", 0, 0, 0.5), ("truck", 0.2, 0, 0.45)]
    (thing,) = find_objects(scene(*[here] * 4), {**THRESHOLDS, "truck": 0.3}).objects
    assert thing.name == "truck"


def test_what_is_there_for_doubt_alone_has_no_say():
    """Boxes below what any class counts from, which `--doubt` asks for, change no object."""
    car, truck, weak = ("car", 0, 0, 0.41), [("truck", 0.2, 0, 0.95)], ("truck", 0.2, 0, 0.22)
    objects, _ = summary(scene([car], [car], [car], truck))
    assert objects == [("car", [0, 1, 2, 3])]
    assert summary(scene([car, weak], [car, weak], [car, weak], truck))[0] == objects


def test_kinds_are_not_taken_for_one_another():
    """A cone where a car was is a cone: things of different kinds move differently."""
    objects, _ = summary(scene(*[[("car", 0, 0, 0.9)]] * 3, *[[("traffic_cone", 0, 0, 0.9)]] * 3))
    assert objects == [("car", [0, 1, 2]), ("traffic_cone", [3, 4, 5])]


def test_brief_objects_must_be_strong():
    brief_weak, brief_strong, long_weak = ("car", 0, 0, 0.45), ("car", 20, 0, 0.9), ("car", 40, 0, 0.45)
    first, later = [brief_weak, brief_strong, long_weak], [long_weak]
    objects, dropped = summary(scene(first, later, later))
    assert objects == [("car", [0]), ("car", [0, 1, 2])]
    assert dropped == {("car", "seen briefly and weakly"): 1}


def test_nothing_found_is_no_objects():
    assert summary(scene([], [], [])) == ([], {})


def test_every_box_above_the_threshold_is_in_an_object_or_counted():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(8):
        names = rng.choice(NAMES, 40)
        frames.append([(str(name), *rng.uniform(-12, 12, 2), rng.uniform(0.4, 1)) for name in names])
    found = find_objects(scene(*frames), THRESHOLDS)
    assert sum(len(thing.detections) for thing in found.objects) + found.dropped.total() == 8 * 40
    assert {reason for _, reason in found.dropped} >= {"overlaps a stronger box", "seen briefly and weakly"}


def test_what_became_no_object_is_doubtful():
    """Above a share of its threshold, on no written box, and not where its own class is written."""
    rows = [
        ("car", 0, 0, 0.9),
        ("truck", 1.0, 0, 0.39),
        ("car", 20, 0, 0.25),
        ("car", 30, 0, 0.15),
        ("traffic_cone", 9, 9, 0.9),
    ]
    rows += [("traffic_cone", 9.7, 9, 0.2), ("pedestrian", 9.7, 9, 0.2)]
    (frame,) = scene(rows)
    written = frame.boxes[[0, 4]]
    found = doubtful_boxes(frame, written, THRESHOLDS, 0.5)
    assert list(zip(found.names, found.centers[:, 0])) == [("car", 20.0), ("pedestrian", 9.7)]
    assert len(doubtful_boxes(frame, frame.boxes[[]], THRESHOLDS, 0.5)) == 6
    assert len(doubtful_boxes(frame, frame.boxes[[]], THRESHOLDS, 0.3)) == 7
    assert len(doubtful_boxes(scene([])[0], written, THRESHOLDS, 0.5)) == 0
