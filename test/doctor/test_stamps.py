"""Stamps, rates, clocks and offsets: one fault at a time."""

from dataclasses import replace

import pytest

from bevdistill_ros.doctor.stamps import duration

MS = 1_000_000
S = 1000 * MS


def test_a_healthy_rig_has_no_errors_and_a_line_for_each_camera(rig, bad, finding):
    facts = rig()
    assert bad(facts) == []
    assert finding(facts, "camera", "left").what == (
        "10.0 Hz, 320x192 jpeg, 90 degrees wide, looks 100 degrees to the left from 1.20 m up, 30.0 ms old at arrival"
    )
    assert "front 0.0, left 10.0, right 20.0 ms of a period of 100.0 ms" in finding(facts, "offsets", "time").what


def test_zero_stamps(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals([0] * 30))])
    assert bad(facts) == [("error", "stamps", "left")]
    assert "zero in 30 of 30" in finding(facts, "stamps", "left").what


def test_repeated_stamps(rig, bad, finding):
    stamps = rig.stamps(offset_ms=10)
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(stamps[:20] + stamps[19:29]))])
    assert bad(facts) == [("warning", "stamps", "left")]
    assert finding(facts, "stamps", "left").what.startswith("1 of 30 images repeat")


def test_stamps_that_run_backwards(rig, bad, finding):
    stamps = rig.stamps(offset_ms=10)
    stamps[10], stamps[11] = stamps[11], stamps[10]
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(stamps))])
    assert bad(facts) == [("warning", "stamps", "left")]
    assert "backwards 1 times, by up to 100.0 ms" in finding(facts, "stamps", "left").what


def test_a_loop_of_a_bag_counts_as_no_loss(rig, bad):
    cameras = []
    for i, name in enumerate(("front", "left", "right")):
        stamps = rig.stamps(80, 10.0 * i)
        cameras.append(rig.camera(name, arrivals=rig.arrivals(stamps[60:] + stamps[:10])))
    assert bad(rig(cameras=cameras)) == [("warning", "stamps", name) for name in ("front", "left", "right")]


def test_jitter_of_one_camera(rig, bad, finding):
    stamps = [stamp + (i % 2) * 18 * MS for i, stamp in enumerate(rig.stamps(31, 10))]
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(stamps))])
    assert ("warning", "jitter", "left") in bad(facts)
    assert "18.0 ms of jitter" in finding(facts, "jitter", "left").what
    assert "tolerance_ms" in finding(facts, "jitter", "left").advice


def test_jitter_between_cameras_names_the_tolerance_to_set(rig, bad, finding):
    stamps = [stamp + (i % 2) * 5 * MS for i, stamp in enumerate(rig.stamps(offset_ms=10))]
    facts = rig({"tolerance_ms": 4.0}, [rig.camera("left", arrivals=rig.arrivals(stamps))])
    assert bad(facts) == [("warning", "jitter", "time")]
    assert finding(facts, "jitter", "time").advice == "set tolerance_ms: 10 or more"


def test_bursts(rig, bad):
    arrivals = rig.arrivals(rig.stamps(offset_ms=10))
    late = tuple(replace(a, now_ns=a.now_ns + 150 * MS) if i % 5 == 0 else a for i, a in enumerate(arrivals))
    assert bad(rig(cameras=[rig.camera("left", arrivals=late)])) == [("warning", "latency", "left")]
    assert bad(rig({"deadline_ms": 200.0}, [rig.camera("left", arrivals=late)])) == []


def test_one_image_is_no_rate(rig, bad):
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(rig.stamps(1)))])
    assert bad(facts) == [("warning", "rate", "left")]


def test_slow_cameras(rig, bad):
    def slow(name):
        arrivals = rig.camera(name).arrivals
        return rig.camera(name, arrivals=tuple(replace(a, steady_ns=10 * a.steady_ns) for a in arrivals))

    facts = rig(cameras=[slow(name) for name in ("front", "left", "right")])
    assert bad(facts) == [("warning", "rate", name) for name in ("front", "left", "right")]


def test_losses_are_counted_by_stamps(rig, bad, finding):
    stamps = [stamp for i, stamp in enumerate(rig.stamps(40, 10)) if i % 4 != 1]
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(stamps))])
    assert bad(facts) == [("warning", "rate", "left")]
    assert finding(facts, "rate", "left").what == "10 of 40 images are missing, by their stamps"
    assert "fastdds_large_segment.xml" in finding(facts, "rate", "left").advice


@pytest.mark.parametrize(
    ("behind", "text"), [(3 * S, "3.0 s behind"), (-2 * S, "2.0 s ahead of"), (90_000 * S, "1.0 days behind")]
)
def test_a_camera_with_a_clock_of_its_own(rig, bad, finding, behind, text):
    stamps = [stamp - behind for stamp in rig.stamps(offset_ms=10)]
    facts = rig(cameras=[rig.camera("left", arrivals=rig.arrivals(stamps, delay=30 * MS + behind))])
    assert bad(facts) == [("error", "clock", "left")]
    assert text in finding(facts, "clock", "left").what


@pytest.mark.parametrize(("delay", "text"), [(2 * S, "2.0 s behind now"), (-80 * MS, "80.0 ms ahead of now")])
def test_all_cameras_against_now(rig, bad, finding, delay, text):
    cameras = [rig.camera(n, arrivals=rig.arrivals(rig.camera(n).stamps, delay)) for n in ("front", "left", "right")]
    facts = rig({"fixed_frame": ""}, cameras)
    assert bad(facts) == [("warning", "clock", "time")]
    assert finding(facts, "clock", "time").what == f"stamps are {text}"


def test_simulated_time(rig, bad):
    assert bad(rig(clock_publishers=1)) == [("warning", "clock", "time")]
    assert bad(rig(sim_time=True)) == [("error", "clock", "time")]
    assert bad(rig(sim_time=True, clock_publishers=1)) == []


def test_offsets_that_cannot_be_learnt(rig, bad, finding):
    cameras = [
        rig.camera(name, arrivals=rig.arrivals(rig.stamps(30, 100 / 3 * i)))
        for i, name in enumerate(("front", "left", "right"))
    ]
    assert bad(rig(cameras=cameras)) == [("error", "offsets", "time")]
    assert "give camera_offsets_ms" in finding(rig(cameras=cameras), "offsets", "time").advice
    assert bad(rig({"camera_offsets_ms": (0.0, 33.3, 66.7)}, cameras)) == []


def test_offsets_given_wrong(rig, bad, finding):
    assert bad(rig({"camera_offsets_ms": (5.0, 15.0, 25.0)})) == []
    facts = rig({"camera_offsets_ms": (0.0, 10.0, 45.0)})
    assert bad(facts) == [("error", "offsets", "right")]
    assert "25.0 ms before what camera_offsets_ms says beside 'front'" in finding(facts, "offsets", "right").what


def test_too_few_stamps_to_learn_from_is_a_note(rig, finding):
    cameras = [rig.camera(n, arrivals=rig.camera(n).arrivals[:5]) for n in ("front", "left", "right")]
    assert finding(rig(cameras=cameras), "offsets", "time").severity == "note"


def test_durations_have_a_unit_that_suits():
    assert [duration(ns) for ns in (300_000, -5 * MS, 90 * S, 7200 * S, 400 * 86_400 * S)] == [
        "0.3 ms", "-5.0 ms", "90.0 s", "2.0 h", "1.1 years",
    ]  # fmt: skip
