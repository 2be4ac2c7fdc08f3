"""Boxes become codes and boxes again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bevdistill_ros.geometry import Boxes, wrap_angle
from bevdistill_ros.models.box_code import BOX_CODE, decode_boxes, encode_boxes

CLASSES = ("car", "pedestrian")


def test_boxes_come_back() -> None:
    rng = np.random.default_rng(0)
    boxes = Boxes(
        centers=rng.uniform(-50, 50, (20, 3)),
        sizes=rng.uniform(0.1, 20, (20, 3)),
        yaws=rng.uniform(-4, 4, 20),
        velocities=rng.normal(size=(20, 2)),
        scores=rng.uniform(size=20),
        labels=rng.integers(0, 2, 20),
        class_names=CLASSES,
    )
    codes = encode_boxes(boxes)
    assert codes.shape == (20, BOX_CODE)
    again = decode_boxes(codes, boxes.scores, boxes.labels, CLASSES)
    for name in ("centers", "sizes", "velocities", "scores", "labels"):
        assert np.allclose(getattr(again, name), getattr(boxes, name), rtol=1e-12)
    assert np.allclose(wrap_angle(again.yaws - boxes.yaws), 0.0, atol=1e-12) and again.class_names == CLASSES


def test_a_code_by_hand() -> None:
    box = Boxes([[1, 2, 3]], [[math.e, 1, math.e**2]], [math.pi / 6], [[np.nan, 4]], [1], [0], CLASSES)
    assert encode_boxes(box)[0] == pytest.approx([1, 2, 3, 1, 0, 2, 0.5, 0.75**0.5, np.nan, 4], nan_ok=True)


def test_sizes_do_not_overflow_and_no_boxes_are_none() -> None:
    huge = decode_boxes(np.array([[0, 0, 0, 1e4, -1e4, 0, 0, 0, 0, 0.0]]), np.ones(1), np.zeros(1, int), CLASSES)
    assert np.isfinite(huge.sizes).all() and (huge.sizes > 0).all() and np.isfinite(huge.yaws).all()
    empty = Boxes.empty(CLASSES)
    assert encode_boxes(empty).shape == (0, BOX_CODE)
    assert len(decode_boxes(encode_boxes(empty), empty.scores, empty.labels, CLASSES)) == 0
