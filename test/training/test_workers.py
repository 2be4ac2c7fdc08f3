"""Jobs in processes of their own. (How they fail, the tests of the verb show.)"""

from __future__ import annotations

import os
from pathlib import Path

import fake_drive
import pytest

from bevdistill_ros.training.workers import Failure, run_jobs


def test_reports_come_with_their_jobs_from_as_many_processes():
    reports = list(run_jobs(fake_drive.report_twice, [1, 2, 3], workers=2))
    assert {job: [text for j, (text, _) in reports if j == job] for job in (1, 2, 3)} == {
        job: [f"{job} begins", f"{job} ends"] for job in (1, 2, 3)
    }
    pids = {job: {pid for j, (_, pid) in reports if j == job} for job in (1, 2, 3)}
    assert len(set().union(*pids.values())) == 3
    assert os.getpid() not in set().union(*pids.values())


def test_no_more_than_the_allowed_number_run_at_a_time():
    order = [(job, text.split()[1]) for job, (text, _) in run_jobs(fake_drive.report_twice, [1, 2, 3], workers=1)]
    assert order == [(job, word) for job in (1, 2, 3) for word in ("begins", "ends")]


def test_closing_the_iterator_stops_what_runs_and_lets_it_tidy_up(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    reports = run_jobs(fake_drive.hold_folder, folders, workers=2)
    pids = {next(reports)[1], next(reports)[1]}
    assert all(folder.is_dir() for folder in folders)
    reports.close()
    assert not any(folder.exists() for folder in folders)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_failure_is_the_last_report_of_its_job(capfd):
    reports = list(run_jobs(fake_drive.hold_folder, [Path("/no/such/place"), "no path"], workers=1))
    assert [(job, type(report)) for job, report in reports] == [(Path("/no/such/place"), Failure), ("no path", Failure)]
    assert reports[0][1].startswith("FileNotFoundError: ")
    assert "Traceback" in capfd.readouterr().err
