"""Which threads compute: a crew does every job once, on its own thread and others; counts follow the cores there are."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from bevdistill_ros import hardware, threads
from bevdistill_ros.threads import Crew

DEADLINE = 30.0


@pytest.fixture
def crew():
    """``crew(threads)``; ended after the test."""
    made: list[Crew] = []

    def make(count: int) -> Crew:
        made.append(Crew(count))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("jobs", [0, 1, 6])
def test_every_job_is_done_once_and_told_in_its_order(crew, count: int, jobs: int) -> None:
    calls: list[int] = []

    def job(i: int) -> int:
        calls.append(i)
        if i == 3:
            raise ValueError("three")
        return i * i

    team = crew(count)
    for _ in range(20):
        calls.clear()
        outcomes = team.run([lambda i=i: job(i) for i in range(jobs)])
        assert sorted(calls) == list(range(jobs))
        assert [outcome if i != 3 else str(outcome) for i, outcome in enumerate(outcomes)] == [
            i * i if i != 3 else "three" for i in range(jobs)
        ]


def test_jobs_run_side_by_side_the_callers_thread_among_them(crew) -> None:
    together = threading.Barrier(3)  # opens only when three are at work at once

    def job() -> int:
        together.wait(DEADLINE)
        return threading.get_ident()

    found = crew(3).run([job] * 3)
    assert len(set(found)) == 3 and threading.get_ident() in found


def test_one_thread_is_the_callers(crew) -> None:
    assert crew(1).run([threading.get_ident] * 4) == [threading.get_ident()] * 4
    with pytest.raises(ValueError, match="at least one"):
        Crew(0)


def test_two_callers_at_once_do_not_mix_their_jobs(crew) -> None:
    team, found = crew(2), {}
    callers = [
        threading.Thread(target=lambda n=n: found.update({n: team.run([lambda i=i: (n, i) for i in range(50)])}))
        for n in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE)
    assert found == {n: [(n, i) for i in range(50)] for n in range(3)}


def test_a_job_that_is_going_on_is_waited_for(crew) -> None:
    """Its row of the batch must not be written once the network reads it."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(DEADLINE)
        ended.set()

    def quick() -> None:
        assert begun.wait(DEADLINE)
        threading.Timer(0.05, go.set).start()

    for jobs in ([slow, quick], [quick, slow]):  # the caller takes either
        for event in (begun, go, ended):
            event.clear()
        assert crew(2).run(jobs) == [None, None] and ended.is_set()


@pytest.mark.parametrize(("cores", "cameras", "expected"), [(1, 6, 1), (2, 6, 2), (4, 6, 4), (64, 6, 6), (4, 0, 1)])
def test_as_many_pictures_at_a_time_as_cameras_and_cores_allow(monkeypatch, cores, cameras, expected) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert threads.picture_threads(cameras) == expected


@pytest.mark.parametrize(
    ("given", "own", "cores", "environment", "expected"),
    [
        (3, 8, 4, "", 3),  # what is asked for
        (0, 8, 4, "", 4),  # PyTorch does not know of the quota
        (0, 4, 64, "", 4),  # its own choice
        (0, 8, 4, "8", None),  # the user's
    ],
)
def test_libraries_are_limited(monkeypatch, given, own, cores, environment, expected) -> None:
    asked: list[int] = []
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    torch = SimpleNamespace(get_num_threads=lambda: own, set_num_threads=asked.append)
    monkeypatch.setitem(threads.sys.modules, "torch", torch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        threads.limit_libraries(given)
        assert cv2.getNumThreads() == 1 and asked == ([] if expected is None else [expected])
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"": "max 100000"}, None),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a/b": "max 100000", "a": "200000 100000"}, 2.0),  # the container's, above the program's own
        ({"a/b": "400000 100000", "a": "200000 100000"}, 2.0),
        ({"a/b": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, monkeypatch, quotas, expected) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "mount"
    membership.write_text("1:cpu:/other\n0::/a/b\n")
    (mount / "a/b").mkdir(parents=True)
    for group, text in quotas.items():
        (mount / group / "cpu.max").write_text(text + "\n")
    assert hardware.cpu_quota(membership, mount) == expected
    monkeypatch.setattr(hardware, "cpu_quota", lambda: expected)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert hardware.available_cores() == {None: 8, 1.5: 2, 2.0: 2}[expected]


def test_no_quota_where_the_kernel_tells_of_none(tmp_path: Path) -> None:
    assert hardware.cpu_quota(tmp_path / "missing", tmp_path) is None
    (tmp_path / "cgroup").write_text("4:cpu,cpuacct:/docker/1\n")
    assert hardware.cpu_quota(tmp_path / "cgroup", tmp_path) is None
