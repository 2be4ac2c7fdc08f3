"""A dozen of benchmark/faults.py's faults against a node over DDS, and whether its judge would notice a node that lies."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmark"))
from fault_bench import Bench, Heard, run_fault  # noqa: E402
from fault_list import FAULTS, PARTIAL  # noqa: E402
from faults import MARK  # noqa: E402
from spoilt_rig import CAMERAS, FOCAL, MOUNT_Z, OFFSET, PERIOD, SPEED, Picture, Spoilt, code_of  # noqa: E402

from bevdistill_ros.msg import DetectedObject, DetectedObjectArray  # noqa: E402
from bevdistill_ros.node.messages import time_message  # noqa: E402

DEADLINE = 60.0
START = 1_700_000_000_000_000_000
BY_NAME = {fault.name: fault for fault in FAULTS}
SOME = (
    "driver ended",
    "frozen, the same stamp",
    "frozen, new stamps",
    "camera 400 ms late",
    "all images in pairs, the later one first",
    "standstill, then a burst",
    "other size mid-stream",
    "JPEG cut off",
    "CameraInfo with zero K",
    "calibration changed on the fly",
    "odometry gone",
    "odometry jumps",
    "odometry an hour ahead",
    "camera's clock an hour ahead",
    "all stamps jump back 64 s (a bag loops)",
    "network raises",
)


@pytest.fixture(scope="module")
def bench(ros_domain):
    # A busy machine may be late itself, but not so late as the faults are.
    with Bench(parameters={"deadline_ms": "250.0", "tf_timeout_ms": "500.0"}) as bench:
        yield bench


@pytest.mark.parametrize("name", SOME)
def test_fault_is_handled_and_recovered_from(bench, name) -> None:
    """How fast it recovers is for the benchmark: this machine may be busy."""
    row = run_fault(bench, BY_NAME[name], most_s=DEADLINE, recover_s=DEADLINE)
    assert not row["problems"] and row["recovery_s"] is not None, row


def test_a_node_that_believes_frozen_cameras_is_found_out(bench) -> None:
    assert bench.set_parameter("frozen_after", 0) == ""
    try:
        row = run_fault(bench, BY_NAME["frozen, new stamps"], most_s=2.0, recover_s=DEADLINE)
    finally:
        bench.set_parameter("frozen_after", 2)
    assert "not as expected" in row["problems"] and any("(stale)" in text for text in row["problems"]), row


def test_faults_are_many_and_different_and_do_something() -> None:
    assert len(BY_NAME) == len(FAULTS) >= 40
    for fault in FAULTS:
        spoilt = Spoilt()
        fault.spoil(spoilt)
        assert spoilt != Spoilt() or fault.network != "well" or fault.killed, fault.name
        re.compile(fault.says)
        assert bool(fault.without) == (fault.boxes == PARTIAL), fault.name


def test_the_page_lists_every_fault_as_handled() -> None:
    rows = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8").split(MARK)[1].splitlines()
    listed = {row.split(" | ")[0].removeprefix("| "): row for row in rows if row.startswith("| ")}
    listed.pop("fault")
    assert set(listed) == set(BY_NAME)
    for name, row in listed.items():
        assert BY_NAME[name].expected in row and "**" not in row and "never" not in row, row


# ------------------------------------------------------------------------------------------------------------ the judge


@pytest.mark.parametrize("camera", range(len(CAMERAS)))
def test_pictures_say_what_they_are(camera) -> None:
    import numpy as np

    rng = np.random.default_rng(camera)
    for code in range(0, 64, 7):
        picture = Picture.draw(code, camera, (352, 198), rng)
        assert Picture.read(picture[::5, ::5]) == (code, camera)
        half = picture.copy()
        half[99:] = 128
        assert Picture.read(half[::5, ::5]) != (code, camera)


def message(**changes) -> DetectedObjectArray:
    """What a right node says of the instant 5, with camera 2 the reference; changed as told: `{what}_{camera}=value`."""
    instant, missing = 5, changes.pop("missing", ())
    stamps = [START + instant * PERIOD + i * OFFSET for i in range(len(CAMERAS))]
    array = DetectedObjectArray(cameras=list(CAMERAS), used=[i not in missing for i in range(len(CAMERAS))])
    array.stamps = [time_message(0 if i in missing else stamp) for i, stamp in enumerate(stamps)]
    array.header.stamp = time_message(stamps[2])
    array.partial = bool(missing)
    for i in range(len(CAMERAS)):
        if i in missing:
            continue
        o = DetectedObject()
        o.pose.position.x, o.pose.position.y, o.pose.position.z = float(instant), float(i), 1.0
        o.size.x, o.size.y, o.size.z = FOCAL, MOUNT_Z, float(i)
        o.velocity.x = SPEED * (stamps[i] - stamps[2]) / 1e9
        array.objects.append(o)
    for name, value in changes.items():
        what, _, place = name.partition("_")
        if what == "partial":
            array.partial = value
        elif what == "unused":
            array.used[value] = False
        else:
            part = {"code": "pose.position.x", "camera": "pose.position.y", "read": "pose.position.z"} | {
                "focal": "size.x",
                "height": "size.y",
                "moved": "velocity.x",
            }
            first, *others = part[what].split(".")
            target = getattr(array.objects[int(place)], first)
            for attribute in others[:-1]:
                target = getattr(target, attribute)
            setattr(target, others[-1], float(value))
    return array


def judged(array: DetectedObjectArray) -> Heard:
    return Heard(array, START, (FOCAL,), (MOUNT_Z,))


def test_a_right_set_is_right() -> None:
    assert judged(message()).whole
    partial = judged(message(missing=(1,)))
    assert not partial.wrong and partial.missing == (CAMERAS[1],) and not partial.whole
    still = message()
    for o in still.objects:
        o.velocity.x = 0.0
    assert not judged(still).wrong and not judged(still).compensated


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"code_3": 4}, "mixed"),
        ({"code_3": 4}, "stale"),
        ({"camera_1": 2}, "a picture of cam_c"),
        ({"read_0": 0}, "none"),
        ({"focal_4": 90}, "focal length 90.0"),
        ({"height_4": 2}, "mounted 2.00 m"),
        ({"moved_5": 5}, "5.00 m ahead"),
        ({"partial": True}, "'partial'"),
        ({"unused": 3}, "'used'"),
        ({"missing": (2,)}, "header.stamp"),
    ],
)
def test_a_wrong_set_is_wrong(changes, text) -> None:
    assert text in judged(message(**changes)).wrong


def test_stamps_of_no_image_have_no_code() -> None:
    assert code_of(START + 70 * PERIOD + 2 * OFFSET, 2, START) == 6
    assert code_of(START + PERIOD // 2, 0, START) is None
