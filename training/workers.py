"""Jobs in processes of their own: one process a job, so that a crash inside a driver ends that job and no other."""

from __future__ import annotations

import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from bevdistill_ros.errors import UserError

Job = TypeVar("Job")
Report = Callable[[Any], None]

GRACE = 10.0
"""Seconds in which a process that is told to stop may tidy up."""


class Failure(str):
    """Why a job failed; the last thing that is heard of it."""


def run_jobs(work: Callable[[Job, Report], None], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Any]]:
    """Call ``work(job, report)`` for all jobs, at most ``workers`` at a time; what they report comes as (job, report).

    After the last report of a job that failed comes a ``Failure``. Closing the iterator stops what still runs.
    ``work`` and the jobs are pickled: processes are spawned, because graphics and threads do not survive a fork.
    """
    context = get_context("spawn")
    waiting = deque(jobs)
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_call, args=(work, job, theirs), daemon=True)
                running[ours] = (job, process)
                _start(process)
                theirs.close()
            for ready in wait(list(running)):
                job, process = running[ready]
                try:
                    report = ready.recv()
                except (EOFError, OSError):  # OSError: killed in the middle of a report
                    del running[ready]
                    ready.close()
                    process.join()
                    if process.exitcode:
                        yield job, Failure(f"its process ended with {_exit_name(process.exitcode)}")
                else:
                    yield job, report
    finally:
        _stop([process for _, process in running.values()])


def _call(work: Callable[[Job, Report], None], job: Job, connection: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    try:
        work(job, connection.send)
    except BrokenPipeError:  # nobody is left to report to
        sys.exit(1)
    except UserError as error:
        connection.send(Failure(error))
    except Exception as error:
        traceback.print_exc()
        connection.send(Failure(f"{type(error).__name__}: {error}"))


def _leave(*_: object) -> None:
    """Stop by way of the context managers, which remove what is unfinished."""
    raise SystemExit(1)


def _start(process: BaseProcess) -> None:
    """A Ctrl-C goes to all processes of a terminal. These leave it to the one that started them, which stops them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(processes: list[BaseProcess]) -> None:
    alive = [process for process in processes if process.pid is not None]
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(GRACE)
        if process.exitcode is None:
            process.kill()
            process.join()


def _exit_name(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
