"""The synchroniser's rules, on streams whose truth is known. No clock, no ROS: the tests say what time it is."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevdistill_ros.camera_offsets import AMBIGUOUS, LEARNED, LEARNING, estimate_offsets
from bevdistill_ros.errors import UserError
from bevdistill_ros.synchroniser import GIVEN, REASONS, CameraSet, InOrder, Synchroniser

MS = 1_000_000
START = 1_700_000_000_000_000_000
CAMERAS = ("front_left", "front", "front_right", "back_right", "back", "back_left")
NUSCENES = dict(zip(CAMERAS, (0, 7_616_000, 15_495_000, 23_049_000, 32_681_000, 42_579_000)))
EVEN = {camera: round(i * 16.6 * MS) for i, camera in enumerate(CAMERAS)}
RIGS = {"nuscenes": (83_333_333, NUSCENES), "even": (100 * MS, EVEN), "together": (33 * MS, dict.fromkeys(CAMERAS, 0))}
WAIT = 100 * MS  # the default deadline

few = settings(max_examples=40, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Image:
    """A simulated message; `instant` is the truth."""

    camera: str
    stamp: int
    arrival: int
    instant: int


def stream(
    period, offsets, frames, seed=0, loss=0.0, jitter=MS, transport=(5 * MS, 30 * MS), start=START, arrival_start=None
):
    """Images in order of arrival; those of one camera keep their order."""
    rng = random.Random(seed)
    images = []
    last_arrival = dict.fromkeys(offsets, 0)
    for instant in range(frames):
        for camera, offset in offsets.items():
            since_start = instant * period + offset + rng.randint(-jitter, jitter)
            arrival = (start if arrival_start is None else arrival_start) + since_start + rng.randint(*transport)
            arrival = last_arrival[camera] = max(arrival, last_arrival[camera] + 1)
            if rng.random() >= loss:
                images.append(Image(camera, start + since_start, arrival, instant))
    return sorted(images, key=lambda image: image.arrival)


def play(policy, images, finish=True):
    """Feed images, firing deadlines when they are due; checks what must hold for any input. Returns the sets."""
    sets = []

    def take(new):
        for item in new:
            assert item.sequence == len(sets)
            assert item.skew_ns <= 20 * MS
            sets.append(item)

    for image in images:
        deadline = policy.next_deadline_ns
        while deadline is not None and deadline <= image.arrival:
            take(policy.poll(deadline))
            assert policy.next_deadline_ns is None or policy.next_deadline_ns > deadline
            deadline = policy.next_deadline_ns
        take(policy.add(image.camera, image.stamp, image, image.arrival))
    if finish:
        take(policy.flush(images[-1].arrival + 10**9))
        assert not any(policy.waiting.values())
    check_balance(policy, sets)
    return sets


def increasing(values):
    return all(before < after for before, after in itertools.pairwise(values))


def check_balance(policy, sets):
    """Every message is accounted for, and none is in two sets."""
    counters = policy.counters
    waiting = policy.waiting
    for camera in policy.cameras:
        dropped = sum(counters.dropped[reason][camera] for reason in REASONS)
        assert counters.received[camera] == counters.used[camera] + dropped + waiting[camera]
        assert counters.missing[camera] == sum(camera not in item.messages for item in sets)
    messages = [id(message) for item in sets for message in item.messages.values()]
    assert len(messages) == len(set(messages)) == sum(counters.used.values())
    assert (counters.complete, counters.partial) == (
        sum(item.complete for item in sets),
        sum(not item.complete for item in sets),
    )


def instants(camera_set):
    return {message.instant for message in camera_set.messages.values()}


def complete_instants(images, cameras=CAMERAS):
    return [instant for instant, n in sorted(Counter(image.instant for image in images).items()) if n == len(cameras)]


def add(policy, camera, stamp_ms, now_ms=None, message=None):
    """Times in ms after START; the message arrives when it is exposed unless said otherwise."""
    now = START + (stamp_ms if now_ms is None else now_ms) * MS
    return policy.add(camera, START + stamp_ms * MS, message, now)


# ---- closed forms -------------------------------------------------------------------------------------------------


def test_a_complete_frame_is_emitted_with_its_last_image():
    policy = Synchroniser(CAMERAS, NUSCENES)
    messages = {camera: object() for camera in CAMERAS}
    for camera in CAMERAS[:-1]:
        assert policy.add(camera, START + NUSCENES[camera], messages[camera], START + NUSCENES[camera]) == []
    now = START + 60 * MS
    (got,) = policy.add("back_left", START + NUSCENES["back_left"], messages["back_left"], now)
    assert got == CameraSet(
        frame_ns=START,
        messages=messages,
        stamps={camera: START + offset for camera, offset in NUSCENES.items()},
        cameras=CAMERAS,
        sequence=0,
        skew_ns=0,
        waited_ns=60 * MS,
    )
    assert got.complete and got.mask == (True,) * 6 and got.missing == ()
    assert got.spread_ns == NUSCENES["back_left"]
    assert policy.next_deadline_ns is None and policy.offset_state == GIVEN


def test_mask_is_in_the_order_of_the_cameras_whatever_the_order_of_arrival():
    policy = Synchroniser(("a", "b", "c"), {"a": 0, "b": 0, "c": 0}, min_cameras=2)
    add(policy, "c", 0)
    add(policy, "a", 0)
    (got,) = policy.poll(START + WAIT)
    assert got.mask == (True, False, True) and got.missing == ("b",) and not got.complete


def test_deadline_counts_from_when_the_last_missing_camera_is_due_on_the_receiving_clock():
    policy = Synchroniser(("a", "b", "c"), {"a": 0, "b": 30 * MS, "c": 80 * MS}, min_cameras=1, deadline_ns=50 * MS)
    receiving = 5_000  # any clock: nothing to do with the stamps
    policy.add("a", START, None, receiving)
    assert policy.next_deadline_ns == receiving + 80 * MS + 50 * MS
    policy.add("c", START + 80 * MS, None, receiving + 75 * MS)  # over a faster way than a's
    assert policy.next_deadline_ns == receiving + 30 * MS + 50 * MS  # only b is missing now
    assert policy.poll(receiving + 80 * MS - 1) == []
    (got,) = policy.poll(receiving + 80 * MS)
    assert got.missing == ("b",) and got.waited_ns == 80 * MS


def test_what_came_while_the_receiver_was_held_up_is_taken_before_a_set_is_closed():
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0), min_cameras=1)
    add(policy, "a", 0)
    policy.catch_up(START + 300 * MS, 20 * MS)  # nobody looked when the deadline passed; the rest waits to be taken
    assert add(policy, "a", 100, 300) == [] and policy.next_deadline_ns == START + 320 * MS
    assert policy.poll(START + 300 * MS) == []
    assert add(policy, "b", 0, 310) == [] and policy.next_deadline_ns == START + 320 * MS
    (got,) = add(policy, "c", 0, 319)
    assert got.complete
    # Not for long: what is missing then has not come.
    for now_ms in (700, 719, 730, 751, 771):
        policy.catch_up(START + now_ms * MS, 20 * MS)
        assert policy.poll(START + now_ms * MS) == [] or now_ms == 771
    assert policy.next_deadline_ns is None and policy.counters.partial == 1


def test_catching_up_does_not_outlast_a_receiving_clock_that_jumps_back():
    policy = Synchroniser(("a", "b"), {"a": 0, "b": 0}, min_cameras=1)
    policy.add("a", START, None, 1000 * 10**9)
    policy.catch_up(1000 * 10**9 + 2 * WAIT, 20 * MS)
    assert policy.poll(5 * 10**9) == []
    assert len(policy.poll(5 * 10**9 + WAIT)) == 1


def test_a_missing_image_is_known_lost_when_its_camera_delivers_a_newer_one():
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0))
    add(policy, "a", 0)
    add(policy, "b", 0)
    assert add(policy, "a", 60) == []
    (partial,) = add(policy, "c", 60)
    assert partial.missing == ("c",) and partial.waited_ns == 60 * MS
    (whole,) = add(policy, "b", 60)
    assert whole.complete and whole.frame_ns == START + 60 * MS


def test_frames_may_overlap_in_time_of_arrival():
    """The last camera of a frame arrives after the first of the next one, as with 83 ms of stagger and slow
    transport."""
    policy = Synchroniser(CAMERAS, EVEN)
    images = stream(100 * MS, EVEN, 20, jitter=0, transport=(5 * MS, 60 * MS), seed=1)
    order = [(image.instant, image.camera) for image in images]
    assert any(order.index((k + 1, "front_left")) < order.index((k, "back_left")) for k in range(19))
    sets = play(policy, images)
    assert [instants(item) for item in sets] == [{k} for k in range(20)] and all(item.complete for item in sets)


def test_too_small_sets_are_dropped_and_counted():
    policy = Synchroniser(CAMERAS, NUSCENES)  # by default more than half: 4
    for camera in CAMERAS[:3]:
        policy.add(camera, START + NUSCENES[camera], None, START)
    assert policy.poll(START + 10**9) == []
    counters = policy.counters
    assert counters.too_few == 1 and sum(counters.dropped["too_few"].values()) == 3 and counters.emitted == 0
    assert policy.waiting == dict.fromkeys(CAMERAS, 0)


def test_what_is_dropped_is_counted_by_reason_and_camera():
    policy = Synchroniser(("a", "b"), {"a": 0, "b": 0}, min_cameras=1)
    policy.add("a", 0, None, START)
    policy.add("a", -5, None, START)
    add(policy, "a", 0)
    add(policy, "a", 0)  # the same image again
    add(policy, "a", 7)  # another stamp, but within the same frame
    assert len(add(policy, "b", 1)) == 1
    add(policy, "b", 1, 2)  # again, after its set is out
    add(policy, "b", -90, 3)  # older
    add(policy, "b", 10_000, 4)  # one camera alone, far ahead
    add(policy, "a", 100)
    add(policy, "b", 100)
    policy.reset()
    dropped = policy.counters.dropped
    assert {reason: dropped[reason] for reason in REASONS if any(dropped[reason].values())} == {
        "zero_stamp": {"a": 2, "b": 0},
        "duplicate": {"a": 1, "b": 1},
        "conflict": {"a": 1, "b": 0},
        "late": {"a": 0, "b": 1},
        "stray": {"a": 0, "b": 1},
    }
    assert policy.counters.complete == 2 and policy.counters.resets == 1


def test_image_of_an_instant_that_went_out_is_never_the_start_of_another_set():
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0), min_cameras=1)
    add(policy, "a", 0)
    assert len(policy.poll(START + WAIT)) == 1
    assert add(policy, "b", 5, 110) == [] and add(policy, "c", -5, 110) == []
    assert policy.flush(START + 10**9) == []
    assert sum(policy.counters.dropped["late"].values()) == 2


def test_open_frames_are_bounded_and_the_oldest_gives_way():
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0), min_cameras=1, max_open=4)
    sets = [item for k in range(10) for item in add(policy, "a", 40 * k, 0)]
    assert [item.frame_ns for item in sets] == [START + 40 * k * MS for k in range(6)]
    assert policy.waiting == {"a": 4, "b": 0, "c": 0}
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0), max_open=4)
    assert not any(add(policy, "a", 40 * k, 0) for k in range(10))
    assert policy.counters.too_few == 6


def test_frozen_camera_is_as_good_as_missing():
    """The same stamp over and over: never in a set again, and the sets say so."""
    policy = Synchroniser(("a", "b", "c"), dict.fromkeys("abc", 0))
    sets = []
    for k in range(30):
        for camera in "abc":
            sets += add(policy, camera, 0 if camera == "c" else 100 * k, 100 * k)
    assert sets[0].complete and all(item.missing == ("c",) for item in sets[1:]) and len(sets) >= 29
    assert policy.counters.dropped["duplicate"]["c"] == 29


def test_counters_are_a_copy():
    policy = Synchroniser(("a",), {"a": 0})
    policy.counters.received["a"] = 99
    assert policy.counters.received["a"] == 0


@pytest.mark.parametrize(
    "cameras, arguments, named",
    [
        ((), {}, "cameras"),
        (("a", "a"), {}, "cameras"),
        (("a", "b"), {"offsets_ns": {"a": 0}}, "check b"),
        (("a",), {"offsets_ns": {"a": 0, "z": 0}}, "check z"),
        (("a",), {"min_cameras": 2}, "min_cameras"),
        (("a",), {"min_cameras": 0}, "min_cameras"),
        (("a",), {"tolerance_ns": 0}, "tolerance_ns"),
        (("a",), {"deadline_ns": -1}, "deadline_ns"),
        (("a",), {"max_open": 0}, "max_open"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(cameras, arguments, named):
    with pytest.raises(UserError, match=named):
        Synchroniser(cameras, **arguments)


def test_unknown_camera_is_an_error_and_leaves_the_policy_usable():
    policy = Synchroniser(("a",), {"a": 0})
    with pytest.raises(KeyError):
        add(policy, "b", 0)
    assert len(add(policy, "a", 0)) == 1


# ---- whole streams ------------------------------------------------------------------------------------------------


@few
@given(
    rig=st.sampled_from(sorted(RIGS)),
    seed=st.integers(0, 10**6),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    error_ms=st.integers(0, 3),
    min_cameras=st.integers(1, 6),
)
def test_never_mixes_never_misses_a_complete_frame(rig, seed, loss, error_ms, min_cameras):
    period, offsets = RIGS[rig]
    images = stream(period, offsets, 60, seed, loss)
    rng = random.Random(seed)
    told = {camera: offset + rng.randint(-error_ms, error_ms) * MS for camera, offset in offsets.items()}
    policy = Synchroniser(CAMERAS, told, min_cameras=min_cameras)
    sets = play(policy, images)

    assert all(len(instants(item)) == 1 for item in sets)
    assert [k for item in sets if item.complete for k in instants(item)] == complete_instants(images)
    assert increasing(item.frame_ns for item in sets)
    # The mask is exactly what has been delivered, for every frame with enough cameras.
    delivered = Counter(image.instant for image in images)
    expected = {k: n for k, n in delivered.items() if n >= min_cameras}
    assert {next(iter(instants(item))): sum(item.mask) for item in sets} == expected


@few
@given(rig=st.sampled_from(sorted(RIGS)), order=st.permutations(CAMERAS), seed=st.integers(0, 1000))
def test_order_of_arrival_within_a_frame_does_not_matter(rig, order, seed):
    period, offsets = RIGS[rig]
    reference = None
    for cameras in (CAMERAS, tuple(order)):
        policy = Synchroniser(CAMERAS, offsets)
        rng = random.Random(seed)
        jitter = [{camera: rng.randint(-MS, MS) for camera in CAMERAS} for _ in range(5)]
        sets = []
        for k in range(5):
            for camera in cameras:
                stamp = START + k * period + offsets[camera] + jitter[k][camera]
                sets += policy.add(camera, stamp, k, START + k * period)
        summary = [(item.frame_ns, dict(item.stamps), item.mask) for item in sets]
        assert len(summary) == 5
        reference = reference or summary
        assert summary == reference


def test_common_shift_of_the_offsets_shifts_the_frame_time_only():
    images = stream(*RIGS["even"], 50, seed=3, loss=0.05)
    shifted = {camera: offset - 12_345_678 for camera, offset in EVEN.items()}
    plain, moved = (play(Synchroniser(CAMERAS, offsets), images) for offsets in (EVEN, shifted))
    assert [item.messages for item in plain] == [item.messages for item in moved]
    assert {b.frame_ns - a.frame_ns for a, b in zip(plain, moved)} == {12_345_678}


def test_lost_camera_gives_flagged_sets_that_soon_stop_waiting_for_it_and_it_returns():
    period, offsets = RIGS["nuscenes"]
    images = [
        image
        for image in stream(period, offsets, 120, seed=5)
        if not (image.camera == "back" and 30 <= image.instant < 90)
    ]
    policy = Synchroniser(CAMERAS, offsets)
    sets = play(policy, images)
    assert len(sets) == 120
    for item in sets[30:90]:
        assert item.missing == ("back",)
    # At its return one set may go out without it.
    assert [item.complete for item in sets[:30] + sets[91:]] == [True] * 59
    stagger = offsets["back_left"] + 32 * MS  # and transport
    assert all(item.waited_ns > stagger for item in sets[32:38])
    assert all(item.waited_ns <= stagger for item in sets[41:90])
    assert policy.absent == ()


def test_camera_that_never_comes_is_named_absent():
    images = [image for image in stream(*RIGS["even"], 30) if image.camera != "front"]
    policy = Synchroniser(CAMERAS, EVEN)
    sets = play(policy, images)
    assert len(sets) == 30 and policy.absent == ("front",)
    assert policy.counters.missing["front"] == 30


def test_camera_later_than_its_deadline_stops_delaying_the_others():
    """Its images come 400 ms too late: dropped and counted, and after a while nobody waits for them."""
    offsets = dict.fromkeys("abcd", 0)
    images = [
        Image(i.camera, i.stamp, i.arrival + (400 * MS if i.camera == "d" else 0), i.instant)
        for i in stream(100 * MS, offsets, 60, transport=(5 * MS, 6 * MS))
    ]
    policy = Synchroniser("abcd", offsets)
    sets = play(policy, sorted(images, key=lambda image: image.arrival))
    assert all(item.missing == ("d",) for item in sets[1:]) and len(sets) >= 59
    assert policy.counters.dropped["late"]["d"] >= 55
    assert all(item.waited_ns < 10 * MS for item in sets[20:])


def test_tolerance_never_exceeds_half_of_the_period():
    """At 60 Hz the default tolerance of 20 ms would span two instants."""
    offsets = dict.fromkeys(CAMERAS, 0)
    period = 16_666_667
    images = stream(period, offsets, 300, seed=2, loss=0.1, transport=(MS, 4 * MS))
    policy = Synchroniser(CAMERAS, offsets)
    sets = play(policy, images)
    settled = [item for item in sets if min(instants(item)) >= 5]
    assert all(len(instants(item)) == 1 for item in settled)
    assert policy.tolerance_ns <= 9 * MS and abs(policy.period_ns - period) < 2 * MS
    assert {k for item in sets if item.complete for k in instants(item)} >= {
        k for k in complete_instants(images) if k >= 5
    }


# ---- clocks -------------------------------------------------------------------------------------------------------


@few
@given(
    rig=st.sampled_from(sorted(RIGS)),
    seed=st.integers(0, 10**6),
    jump_s=st.floats(1.5, 10_000),
    gap_ms=st.integers(0, 100),
)
def test_bag_loop_loses_nothing(rig, seed, jump_s, gap_ms):
    """The stream starts again `jump_s` earlier, at once or after a little while, images of both passes interleaved
    on arrival."""
    period, offsets = RIGS[rig]
    first = stream(period, offsets, 25, seed, loss=0.02)
    after = START + 25 * period + gap_ms * MS
    again = stream(period, offsets, 25, seed + 1, 0.02, start=START - int(jump_s * 1e9), arrival_start=after)
    again = [Image(image.camera, image.stamp, image.arrival, image.instant + 100) for image in again]
    # One camera's images keep their order.
    last = {image.camera: image.arrival for image in first}
    again = [Image(i.camera, i.stamp, max(i.arrival, last[i.camera] + 1), i.instant) for i in again]
    images = sorted(first + again, key=lambda image: image.arrival)
    policy = Synchroniser(CAMERAS, offsets)
    sets = play(policy, images)
    assert all(len(instants(item)) == 1 for item in sets)
    assert policy.counters.resets == 1
    lost = set(complete_instants(images)) - {k for item in sets if item.complete for k in instants(item)}
    assert lost <= {24, 100}, "only the two frames at the seam may be torn"


def test_clean_bag_loop_tears_no_frame():
    offsets = EVEN
    policy = Synchroniser(CAMERAS, offsets)
    images = []
    for turn in range(4):
        one = stream(100 * MS, offsets, 30, seed=turn, arrival_start=START + turn * 3100 * MS)
        images += [Image(i.camera, i.stamp, i.arrival, i.instant + 1000 * turn) for i in one]
    sets = play(policy, images)
    assert len(sets) == 120 and all(item.complete and len(instants(item)) == 1 for item in sets)
    assert policy.counters.resets == 3


def test_jump_forward_is_followed_by_the_next_frame():
    offsets = NUSCENES
    first = stream(83 * MS, offsets, 20)
    ahead = stream(83 * MS, offsets, 20, start=START + 3600 * 10**9, arrival_start=START + 20 * 83 * MS)
    policy = Synchroniser(CAMERAS, offsets)
    sets = play(policy, sorted(first + ahead, key=lambda image: image.arrival))
    assert len(sets) == 40 and all(item.complete for item in sets) and policy.counters.resets == 0


@pytest.mark.parametrize("skew_s", [-3600.0, -0.7, -0.3, 0.3, 0.7, 3600.0])
@pytest.mark.parametrize("first", [True, False], ids=["bad_camera_first", "bad_camera_last"])
def test_one_wrong_clock_costs_only_its_own_images(skew_s, first):
    period, offsets = RIGS["nuscenes"]
    bad = "front_left" if first else "back_left"
    images = [
        Image(i.camera, i.stamp + int(skew_s * 1e9) * (i.camera == bad), i.arrival, i.instant)
        for i in stream(period, offsets, 60, seed=4)
    ]
    policy = Synchroniser(CAMERAS, offsets)
    sets = play(policy, images)
    settled = [item for item in sets if min(instants(item)) >= 2]
    assert {k for item in settled for k in instants(item)} == set(range(2, 60))
    assert all(item.missing == (bad,) and len(instants(item)) == 1 for item in settled)
    assert policy.counters.resets <= 1


def test_clock_that_creeps_away_leads_nobody_astray():
    """A camera whose stamps gain 300 ms each frame: always near to where it was, ever further from the others."""
    offsets = dict.fromkeys("abc", 0)
    images = [
        Image(i.camera, i.stamp + 300 * MS * max(0, i.instant - 9) * (i.camera == "a"), i.arrival, i.instant)
        for i in stream(100 * MS, offsets, 60, transport=(5 * MS, 6 * MS))
    ]
    policy = Synchroniser("abc", offsets)
    sets = play(policy, images)
    assert [k for item in sets for k in instants(item)] == list(range(60)) and policy.counters.resets == 0
    assert all(item.missing == ("a",) for item in sets[11:])


def test_after_a_stall_the_stream_goes_on_at_once():
    offsets = EVEN
    images = [image for image in stream(100 * MS, offsets, 100) if not 30 <= image.instant < 60]
    sets = play(Synchroniser(CAMERAS, offsets), images)
    assert [k for item in sets for k in instants(item)] == [*range(30), *range(60, 100)]
    assert all(item.complete for item in sets)


def test_burst_after_a_receiving_stall_is_sorted_out():
    """Five frames arrive at one moment, camera by camera, as when an executor was blocked."""
    offsets = NUSCENES
    images = stream(83 * MS, offsets, 5, jitter=0)
    now = START + 10**9
    policy = Synchroniser(CAMERAS, offsets)
    sets = []
    for camera in reversed(CAMERAS):
        for image in sorted(images, key=lambda image: image.stamp):
            if image.camera == camera:
                sets += policy.add(camera, image.stamp, image, now)
    assert [instants(item) for item in sets] == [{k} for k in range(5)] and all(item.complete for item in sets)


def test_receiving_clock_that_jumps_back_does_not_hold_the_deadline_up():
    """Simulated time starts again while a set waits: the deadline counts on the new time."""
    policy = Synchroniser(("a", "b"), {"a": 0, "b": 0}, min_cameras=1)
    policy.add("a", START, None, 1000 * 10**9)
    assert policy.poll(5 * 10**9) == []
    assert policy.next_deadline_ns == 5 * 10**9 + WAIT
    assert len(policy.poll(5 * 10**9 + WAIT)) == 1


def test_reset_starts_anew_anywhere_in_time_and_keeps_the_count():
    policy = Synchroniser(("a", "b"), {"a": 0, "b": 0})
    add(policy, "a", 5000)
    assert len(add(policy, "b", 5000)) == 1
    add(policy, "a", 5100)
    policy.reset()
    policy.reset()
    assert policy.next_deadline_ns is None
    assert policy.counters.dropped["reset"] == {"a": 1, "b": 0} and policy.counters.resets == 2
    add(policy, "a", 0)
    (got,) = add(policy, "b", 0)
    assert got.sequence == 1 and got.complete


# ---- hostile input ------------------------------------------------------------------------------------------------


@few
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CAMERAS),
            st.one_of(st.integers(-10, 3000), st.sampled_from([0, 10**6, -(10**6)])),  # ms
            st.integers(-50, 150),
        ),
        max_size=300,
    ),
    st.booleans(),
    st.integers(1, 6),
)
def test_any_input_keeps_the_books_the_order_and_the_memory(events, learn, min_cameras):
    policy = Synchroniser(CAMERAS, None if learn else NUSCENES, min_cameras=min_cameras, max_open=4)
    now = START
    sets = []
    for camera, stamp_ms, step_ms in events:
        now += step_ms * MS
        sets += policy.add(camera, START + stamp_ms * MS, object(), now)
        assert sum(policy.waiting.values()) <= (4 + 1) * len(CAMERAS)
        deadline = policy.next_deadline_ns
        assert deadline is None or deadline > now
    check_balance(policy, sets)
    assert [item.sequence for item in sets] == list(range(len(sets)))
    # The frame time grows, but for the resets.
    assert (
        sum(after.frame_ns <= before.frame_ns for before, after in itertools.pairwise(sets)) <= policy.counters.resets
    )
    assert all(sum(item.mask) >= min_cameras and item.skew_ns <= 20 * MS for item in sets)


@few
@given(seed=st.integers(0, 10**6), rig=st.sampled_from(["nuscenes", "even"]))
def test_recovers_within_three_frames_of_any_fault(seed, rig):
    """Twenty frames with stamps gone wild in some cameras, or all, then a normal stream."""
    period, offsets = RIGS[rig]
    rng = random.Random(seed)
    images = stream(period, offsets, 80, seed)
    wild_cameras = rng.sample(CAMERAS, rng.randint(1, 6))
    fault = rng.choice(["random", "ahead", "behind", "zero", "frozen", "twice"])
    faulty = []
    for image in images:
        if not (20 <= image.instant < 40 and image.camera in wild_cameras):
            faulty.append(image)
            continue
        stamp = {
            "random": image.stamp + rng.randint(-2000, 2000) * MS,
            "ahead": image.stamp + 10**9,
            "behind": image.stamp - 3600 * 10**9,
            "zero": 0,
            "frozen": START + 20 * period,
            "twice": image.stamp,
        }[fault]
        faulty += [Image(image.camera, stamp, image.arrival, image.instant)] * (1 + (fault == "twice"))
    policy = Synchroniser(CAMERAS, offsets)
    sets = [item for item in play(policy, faulty) if min(instants(item)) >= 43]
    assert all(item.complete and len(instants(item)) == 1 for item in sets)
    assert [k for item in sets for k in instants(item)] == list(range(43, 80))


# ---- learning the offsets -----------------------------------------------------------------------------------------


def stamps_of(period, offsets, frames=16, seed=0, loss=0.0, jitter=MS):
    stamps = {camera: [] for camera in offsets}
    for image in sorted(stream(period, offsets, frames, seed, loss, jitter), key=lambda image: image.stamp):
        stamps[image.camera].append(image.stamp)
    return stamps


@few
@given(
    gaps=st.lists(st.integers(0, 12), min_size=0, max_size=6),
    period_ms=st.sampled_from([33, 83, 100, 500]),
    order=st.randoms(use_true_random=False),
    shift_ms=st.integers(0, 400),
    seed=st.integers(0, 10**6),
)
def test_offsets_with_a_clear_pause_are_learnt_up_to_a_common_shift(gaps, period_ms, order, shift_ms, seed):
    scale = period_ms / 100
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap * scale)
    jitter = int(0.5 * MS * scale)
    pause, longest = 100 * scale - times[-1], max([gap * scale for gap in gaps], default=0)
    if pause - longest < 13 * scale + 8 * jitter / MS:
        return  # not a clear pause
    names = [f"camera{i}" for i in range(len(times))]
    order.shuffle(names)
    truth = {name: round(at * MS) for name, at in zip(names, times)}
    shifted = {name: at + shift_ms * MS for name, at in sorted(truth.items())}
    got = estimate_offsets(stamps_of(period_ms * MS, shifted, seed=seed, loss=0.05, frames=20, jitter=jitter))
    assert got.state == LEARNED, got.reason
    differences = [got.offsets_ns[name] - truth[name] for name in truth]
    assert max(differences) - min(differences) <= 4 * jitter
    assert abs(got.period_ns - period_ms * MS) <= 2 * jitter


@few
@given(count=st.integers(2, 8), period_ms=st.sampled_from([33, 83, 100]), seed=st.integers(0, 10**6))
def test_cameras_spread_evenly_over_the_period_are_refused(count, period_ms, seed):
    offsets = {f"camera{i}": round(i * period_ms * MS / count) for i in range(count)}
    got = estimate_offsets(stamps_of(period_ms * MS, offsets, seed=seed))
    assert got.state == AMBIGUOUS and not got.offsets_ns and "too much alike" in got.reason


def test_two_groups_with_equal_pauses_are_refused_and_with_unequal_ones_learnt():
    equal = {"a": 0, "b": 10 * MS, "c": 50 * MS, "d": 60 * MS}
    assert estimate_offsets(stamps_of(100 * MS, equal)).state == AMBIGUOUS
    unequal = {**equal, "c": 35 * MS, "d": 45 * MS}
    got = estimate_offsets(stamps_of(100 * MS, unequal, jitter=0))
    assert got.state == LEARNED and got.offsets_ns == unequal


def test_exact_streams_are_learnt_exactly():
    got = estimate_offsets(stamps_of(83 * MS, NUSCENES, jitter=0))
    assert got.offsets_ns == NUSCENES and got.period_ns == 83 * MS and got.jitter_ns == 0
    together = dict.fromkeys(CAMERAS, 0)
    assert estimate_offsets(stamps_of(100 * MS, together, jitter=0)).offsets_ns == together


def test_one_camera_needs_no_offset():
    assert estimate_offsets(stamps_of(100 * MS, {"a": 0})).offsets_ns == {"a": 0}


def test_reasons_name_the_camera():
    few_stamps = {**stamps_of(83 * MS, NUSCENES), "back": [START]}
    got = estimate_offsets(few_stamps)
    assert got.state == LEARNING and "'back' has delivered 1 of 8" in got.reason
    other_rate = {**stamps_of(83 * MS, NUSCENES), "back": [START + k * 50 * MS for k in range(16)]}
    got = estimate_offsets(other_rate)
    assert got.state == AMBIGUOUS and "'back' delivers every 50.0 ms" in got.reason
    far_away = [stamp + 10**12 for stamp in stamps_of(83 * MS, NUSCENES)["back"]]
    elsewhere = {**stamps_of(83 * MS, NUSCENES), "back": far_away}
    assert estimate_offsets(elsewhere).state == LEARNING
    wandering = {**stamps_of(83 * MS, NUSCENES), "back": [START + k * 85 * MS for k in range(16)]}
    got = estimate_offsets(wandering)
    assert got.state == AMBIGUOUS and "'back'" in got.reason
    assert estimate_offsets({}).state == LEARNING


def test_learning_emits_nothing_then_everything():
    period, offsets = RIGS["nuscenes"]
    images = stream(period, offsets, 100, seed=8, loss=0.02)
    policy = Synchroniser(CAMERAS)
    assert policy.offset_state == LEARNING and policy.offset_reason
    sets = play(policy, images)
    assert policy.offset_state == LEARNED and policy.offset_reason == ""
    errors = [policy.offsets_ns[camera] - offsets[camera] for camera in CAMERAS]
    assert max(errors) - min(errors) < 4 * MS
    assert all(len(instants(item)) == 1 for item in sets)
    first = min(k for item in sets for k in instants(item))
    assert first <= 12
    found = {k for item in sets if item.complete for k in instants(item)}
    assert found >= {k for k in complete_instants(images) if k > first}


def test_ambiguous_stream_is_refused_and_told():
    policy = Synchroniser(CAMERAS)
    even = {camera: round(i * 100 * MS / 6) for i, camera in enumerate(CAMERAS)}
    sets = play(policy, stream(100 * MS, even, 100))
    assert sets == [] and policy.offset_state == AMBIGUOUS and "too much alike" in policy.offset_reason
    assert sum(policy.counters.dropped["learning"].values()) == 600


@pytest.mark.parametrize("late", ["front_left", "back"])
@pytest.mark.parametrize("dead", [None, "front_right"])
def test_camera_that_comes_later_is_learnt_later(late, dead):
    """Also where another one has died meanwhile. The frame time does not shift by it."""
    period, offsets = RIGS["nuscenes"]
    images = [
        image
        for image in stream(period, offsets, 120)
        if not (image.camera == late and image.instant < 60) and not (image.camera == dead and image.instant >= 40)
    ]
    policy = Synchroniser(CAMERAS)
    sets = play(policy, images)
    assert set(policy.offsets_ns) == set(CAMERAS) and policy.counters.relearned == 0
    assert all(len(instants(item)) == 1 for item in sets)
    assert all(late in item.messages for item in sets if min(instants(item)) >= 80)
    assert {k for item in sets for k in instants(item)} >= set(range(25, 120))
    phases = [item.frame_ns - START - min(instants(item)) * period for item in sets]
    assert increasing(item.frame_ns for item in sets) and max(phases) - min(phases) < 6 * MS


def test_learning_waits_a_little_for_cameras_that_start_late():
    period, offsets = RIGS["nuscenes"]
    images = [image for image in stream(period, offsets, 60) if image.camera != "back" or image.instant >= 6]
    sets = play(Synchroniser(CAMERAS), images)
    assert all(item.complete for item in sets[1:]) and len(sets) >= 40


def test_learnt_offsets_stay_where_only_images_are_lost():
    period, offsets = RIGS["nuscenes"]
    images = [
        image
        for image in stream(period, offsets, 150)
        if image.instant < 30 or CAMERAS.index(image.camera) != image.instant % 6
    ]
    policy = Synchroniser(CAMERAS)
    sets = play(policy, images)
    assert policy.counters.relearned == 0
    assert [sum(item.mask) for item in sets if min(instants(item)) >= 30] == [5] * 120


def test_learnt_offsets_follow_a_camera_that_changed_its_phase():
    period, offsets = RIGS["nuscenes"]
    moved = {**offsets, "front": offsets["front"] + 30 * MS}
    first = stream(period, offsets, 50)
    second = stream(period, moved, 150, start=START + 50 * period)
    second = [Image(i.camera, i.stamp, i.arrival, i.instant + 50) for i in second]
    policy = Synchroniser(CAMERAS)
    sets = play(policy, first + second)
    assert policy.counters.relearned == 1 and policy.offset_state == LEARNED
    assert all(len(instants(item)) == 1 for item in sets)
    assert all(item.complete for item in sets if min(instants(item)) >= 100)


# ---- threads ------------------------------------------------------------------------------------------------------


def test_a_thread_a_camera_gives_every_set_once_and_in_order():
    frames = 200
    policy = Synchroniser(CAMERAS, NUSCENES)
    got, errors = [], []
    output = InOrder(got.append, errors.append, max_pending=frames)
    together = threading.Barrier(len(CAMERAS))

    def run(camera):
        for k in range(frames):
            together.wait(30)
            stamp = START + k * 83 * MS + NUSCENES[camera]
            output.put(policy.add(camera, stamp, object(), stamp))

    threads = [threading.Thread(target=run, args=(camera,)) for camera in CAMERAS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and [item.sequence for item in got] == list(range(frames))
    assert all(item.complete for item in got)
    assert increasing(item.frame_ns for item in got)
    check_balance(policy, got)


def test_unpaced_threads_keep_the_books_and_the_order():
    policy = Synchroniser(CAMERAS, NUSCENES, min_cameras=1)
    got, errors = [], []
    output = InOrder(got.append, errors.append, max_pending=10**6)

    def run(camera):
        for k in range(300):
            stamp = START + k * 83 * MS + NUSCENES[camera]
            output.put(policy.add(camera, stamp, object(), stamp))

    threads = [threading.Thread(target=run, args=(camera,)) for camera in CAMERAS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and [item.sequence for item in got] == list(range(len(got)))
    check_balance(policy, got)


def bare_set(sequence):
    return CameraSet(frame_ns=sequence, messages={}, stamps={}, cameras=(), sequence=sequence)


def test_in_order_waits_for_the_set_between():
    got = []
    output = InOrder(lambda item: got.append(item.sequence), lambda error: None)
    output.put([bare_set(1)])
    output.put([bare_set(2)])
    assert got == []
    output.put([bare_set(0)])
    assert got == [0, 1, 2]


def test_in_order_goes_on_after_a_callback_that_raises():
    got, errors = [], []

    def callback(item):
        got.append(item.sequence)
        if item.sequence == 1:
            raise RuntimeError("broken")

    output = InOrder(callback, errors.append)
    output.put([bare_set(k) for k in range(6)])
    assert got == list(range(6)) and [str(error) for error in errors] == ["broken"] and output.superseded == 0


def test_in_order_survives_an_interrupt():
    got = []

    def callback(item):
        if item.sequence == 0:
            raise KeyboardInterrupt
        got.append(item.sequence)

    output = InOrder(callback, lambda error: None)
    with pytest.raises(KeyboardInterrupt):
        output.put([bare_set(0), bare_set(1)])
    output.put([bare_set(2)])
    assert got == [1, 2]


def test_busy_callback_holds_no_lock_and_the_oldest_waiting_sets_give_way():
    got = []
    entered, leave = threading.Event(), threading.Event()

    def callback(item):
        got.append(item.sequence)
        if item.sequence == 0:
            entered.set()
            assert leave.wait(30)

    output = InOrder(callback, lambda error: got.append(error), max_pending=2)
    busy = threading.Thread(target=output.put, args=([bare_set(0)],))
    busy.start()
    assert entered.wait(30)
    for k in range(1, 6):
        output.put([bare_set(k)])  # returns at once
    assert got == [0]
    leave.set()
    busy.join(30)
    assert got == [0, 4, 5] and output.superseded == 3
