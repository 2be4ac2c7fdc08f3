"""Figures without some cameras: which are left out, and the means."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.evaluation_missing_cameras import CHOICES, camera_choices, camera_missing

CAMERAS = ("front", "front_right", "back_right", "back", "back_left", "front_left")


def test_each_camera_goes_once_and_choices_of_more_differ():
    assert camera_choices(CAMERAS, 1) == [(name,) for name in CAMERAS]
    for gone in (2, 3):
        choices = camera_choices(CAMERAS, gone)
        assert len({frozenset(choice) for choice in choices}) == CHOICES
        assert all(len(set(choice)) == gone for choice in choices)
        assert not set.intersection(*map(set, choices))  # no camera is gone in all of them
        assert choices == camera_choices(CAMERAS, gone)
    assert camera_choices(CAMERAS[:3], 2) == [
        ("front", "front_right"),
        ("front", "back_right"),
        ("front_right", "back_right"),
    ]


def result(value: float) -> SimpleNamespace:
    return SimpleNamespace(mAP=value, NDS=value / 2)


def test_rows_are_means_over_the_choices():
    """A detector that loses 0.1 with the front camera, and nothing with the others."""
    asked = []

    def without(gone: tuple[str, ...]) -> SimpleNamespace:
        asked.append(gone)
        return result(0.4 if "front" in gone else 0.5)

    rows = camera_missing(without, CAMERAS, result(0.5), most=2)
    assert rows["0"] == {"mAP": 0.5, "NDS": 0.25, "choices": 1}
    assert rows["1"] == pytest.approx({"mAP": 0.5 - 0.1 / 6, "NDS": 0.25 - 0.05 / 6, "choices": 6})
    hit = sum("front" in choice for choice in camera_choices(CAMERAS, 2))
    assert rows["2"]["mAP"] == pytest.approx(0.5 - 0.1 * hit / 6)
    assert asked == [*camera_choices(CAMERAS, 1), *camera_choices(CAMERAS, 2)] and list(rows) == ["0", "1", "2"]


def test_one_camera_has_to_stay():
    with pytest.raises(UserError, match="--missing-cameras 2: of 2 cameras, at most 1 may be gone"):
        camera_missing(lambda gone: result(0.5), CAMERAS[:2], result(0.5), most=2)
