"""How benchmark/soak.py counts what became of the frames: whose fault it was that a camera is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmark"))
from soak import LATE_S, RETURN, account
from spoilt_rig import PERIOD

START = 1_700_000_000_000_000_000
FRAMES = RETURN + 20


def figures(late_s: dict[int, float], missing: dict[int, tuple[str, ...]], unanswered: tuple[int, ...] = ()) -> dict:
    """Of a rig that published the instants 0 ... FRAMES - 1 so late, and a node that answered them without those cameras."""
    sets = [
        SimpleNamespace(t_ref=START + instant * PERIOD, missing=missing.get(instant, ()), wrong="")
        for instant in range(FRAMES)
        if instant not in unanswered
    ]
    counts = {"sets": len(sets), "published": len(sets), "superseded sets": 0, "failed sets": 0, "pending sets": 0}
    bench = SimpleNamespace(
        start=START, sets=sets, statuses=[], health=[(0.0, SimpleNamespace(status=[]))], counts=lambda: counts
    )
    samples = [(2.0 * i, 100.0, 7) for i in range(10)]
    return account(bench, {instant: late_s.get(instant, 0.0) for instant in range(FRAMES)}, samples, [], 0.0)


def test_every_complete_frame_is_counted_once() -> None:
    found = figures({}, {}, unanswered=(25,))
    assert (found["complete"], found["answered"], found["lost"]) == (
        FRAMES - 1,
        FRAMES - 2,
        1,
    )  # from the second set on
    assert found["balance"]["exact"] and found["lost_as"][0].startswith("25 not answered")


@pytest.mark.parametrize("late", [0.0, LATE_S / 2, 2 * LATE_S])
def test_a_camera_is_missing_by_the_rigs_fault_only_if_the_rig_was_late(late) -> None:
    found = figures({25: late}, {25: ("cam_e", "cam_f")})
    assert (found["lost"], found["published_late"]) == ((0, 1) if late > LATE_S else (1, 0))
    assert found["answered"] == FRAMES - 2
    assert found["lost_as"] == [
        f"25 answered without cam_e, cam_f, 24 frames after a fault; its images left the rig up to {late * 1e3:.0f} ms too late"
    ]


def test_a_late_frame_that_is_answered_whole_is_answered() -> None:
    assert figures({25: 1.0}, {})["answered"] == FRAMES - 1
