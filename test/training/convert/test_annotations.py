"""Boxes from three kinds of messages, and between two of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bevdistill_ros.config import CLASS_NAMES
from bevdistill_ros.geometry import make_transform, rotation_z
from bevdistill_ros.training.convert.annotations import (
    CATEGORY_OF_CLASS,
    DETECTIONS,
    MARKERS,
    OBJECTS,
    Box,
    Classes,
    Message,
    at_keyframe,
    in_frame,
    read_boxes,
    stamp_of,
)
from bevdistill_ros.training.convert.bag import OBJECT_MSGS
from bevdistill_ros.training.convert.rig_file import Annotations
from bevdistill_ros.training.data.bags import typestore
from bevdistill_ros.training.data.messages import Messages
from bevdistill_ros.training.world.taxonomy import CATEGORIES

MS = 1_000_000
SIZE = np.array([4.0, 2.0, 1.5])


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    return make_transform(rotation_z(yaw), (x, y, 0.5))


def ros_pose(x: float, y: float, z: float, qz: float = 0.0, qw: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(
        position=SimpleNamespace(x=x, y=y, z=z), orientation=SimpleNamespace(x=0.0, y=0.0, z=qz, w=qw)
    )


def vector(x: float, y: float, z: float) -> SimpleNamespace:
    return SimpleNamespace(x=x, y=y, z=z)


def detection(label: str, score: float, identity: str, size=(4.0, 2.0, 1.5), pose=None) -> SimpleNamespace:
    hypothesis = SimpleNamespace(class_id=label, score=score)
    worse = SimpleNamespace(class_id="barrier", score=score / 2)
    return SimpleNamespace(
        results=[SimpleNamespace(hypothesis=worse), SimpleNamespace(hypothesis=hypothesis)],
        bbox=SimpleNamespace(center=pose or ros_pose(1.0, 2.0, 3.0), size=vector(*size)),
        id=identity,
    )


def test_every_detection_class_has_its_category():
    assert {CATEGORIES[category]: category for category in CATEGORY_OF_CLASS.values()} == {
        name: CATEGORY_OF_CLASS[name] for name in CLASS_NAMES
    }


def test_detections_have_their_best_hypothesis():
    array = SimpleNamespace(
        detections=[
            detection("truck", 0.9, "7"),
            detection("car", 0.1, "8"),
            detection("vehicle.car", 0.9, "9"),
            detection("spaceship", 0.9, "10"),
            detection("car", 0.9, "11", size=(4.0, 0.0, 1.0)),
            detection("car", 0.9, "12", pose=ros_pose(0, 0, 0, qz=float("nan"))),
        ]
    )
    config = Annotations("/x", min_score=0.5)
    classes = Classes(config)
    boxes = read_boxes(DETECTIONS, array, config, classes)
    assert [(box.identity, box.category) for box in boxes] == [("7", "vehicle.truck"), ("9", "vehicle.car")]
    assert boxes[0].pose[:3, 3].tolist() == [1.0, 2.0, 3.0] and boxes[0].size.tolist() == SIZE.tolist()
    assert classes.unknown == {"spaceship": 1} and classes.unusable == 2
    assert [box.identity for box in read_boxes(DETECTIONS, array, Annotations("/x", tracks=False), classes)][:2] == [
        "",
        "",
    ]


def test_markers_are_cubes_named_by_their_namespace():
    def marker(kind: int, action: int, ns: str, number: int) -> SimpleNamespace:
        stamp = SimpleNamespace(sec=12, nanosec=34)
        return SimpleNamespace(
            type=kind, action=action, ns=ns, id=number, pose=ros_pose(1, 2, 3, 1.0, 0.0), scale=vector(4, 2, 1.5),
            header=SimpleNamespace(stamp=stamp, frame_id="lidar"),
        )  # fmt: skip

    array = SimpleNamespace(
        markers=[marker(0, 3, "", 0), marker(1, 0, "bus", 5), marker(9, 0, "bus", 6), marker(1, 2, "bus", 7)]
    )
    config = Annotations("/x")
    (box,) = read_boxes(MARKERS, array, config, Classes(config))
    assert (box.identity, box.category) == ("bus/5", "vehicle.bus.rigid")
    assert np.allclose(box.pose[:3, :3], rotation_z(np.pi))
    assert stamp_of(MARKERS, b"", array, 99) == (12_000_000_034, "lidar")
    assert stamp_of(MARKERS, b"", SimpleNamespace(markers=[]), 99) == (99, "")


def test_own_objects_move_on_with_their_velocity():
    thing = SimpleNamespace(
        class_name="car",
        score=0.9,
        pose=ros_pose(10, 0, 1),
        size=vector(4, 2, 1.5),
        velocity=vector(5.0, float("nan"), 0),
    )
    config = Annotations("/x")
    boxes = read_boxes(OBJECTS, SimpleNamespace(objects=[thing, thing]), config, Classes(config))
    turned = tuple(in_frame(box, make_transform(rotation_z(np.pi / 2))) for box in boxes)
    found, lost = at_keyframe([Message(0, turned)], 40 * MS)
    assert lost == 0 and len(found) == 2
    assert np.allclose(found[0].pose[:3, 3], (0.0, 10.2, 1.0))


def test_between_two_messages_an_object_turns_the_shorter_way():
    before = Message(0, (Box("1", "vehicle.car", pose(0, 0, 3.0), SIZE),))
    after = Message(400 * MS, (Box("1", "vehicle.car", pose(4, 2, -3.0), SIZE),))
    for at, fraction in ((100, 0.25), (300, 0.75)):
        ((box,), lost) = at_keyframe([before, after], at * MS)
        yaw = 3.0 + fraction * (2 * np.pi - 6.0)
        assert np.allclose(box.pose[:3, :3], rotation_z(yaw)) and lost == 0
        assert np.allclose(box.pose[:3, 3], (4 * fraction, 2 * fraction, 0.5))


def test_an_object_in_one_message_counts_only_where_that_is_near():
    before = Message(0, (Box("1", "vehicle.car", pose(0, 0, 0), SIZE), Box("", "vehicle.car", pose(9, 0, 0), SIZE)))
    after = Message(400 * MS, (Box("2", "vehicle.car", pose(4, 0, 0), SIZE),))
    assert at_keyframe([before, after], 150 * MS) == ([], 2)
    found, lost = at_keyframe([before, after], 30 * MS)
    assert [box.pose[0, 3] for box in found] == [0.0, 9.0] and lost == 0
    found, lost = at_keyframe([before, after], 380 * MS)
    assert [box.identity for box in found] == ["2"] and lost == 0


def test_what_is_no_category_is_refused():
    with pytest.raises(ValueError, match=r"annotations\.classes\.PKW: 'automobile'"):
        Classes(Annotations("/x", classes={"PKW": "automobile"}))
    left_out = Classes(Annotations("/x", classes={"kangaroo": ""}))
    assert left_out.category("kangaroo") == "" and not left_out.unknown


def test_our_objects_definition_is_the_packages():
    """bag.py's against msg/, for bags that carry none."""
    folder = next((p / "msg" for p in Path(__file__).parents if (p / "msg" / "DetectedObject.msg").is_file()), None)
    if folder is None:
        pytest.skip("the message files are not beside the tests")
    for name, text in OBJECT_MSGS.items():
        lines = (folder / f"{name.rsplit('/', 1)[1]}.msg").read_text().splitlines()
        fields = [" ".join(line.split("#")[0].split()) for line in lines]
        ours = [line.replace("bevdistill_ros/", "") for line in text.splitlines()]
        assert ours == [field for field in fields if field]


def test_messages_of_a_bag_have_these_types():
    """The names that conversion goes by are those of a ROS 2 installation."""
    types = Messages(typestore()).types
    assert DETECTIONS in types and MARKERS in types
