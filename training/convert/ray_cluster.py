"""Jobs on a Ray cluster, a task each. An optional extra: scheduling, transport and retries are Ray's."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.workers import Failure, Report

Job = TypeVar("Job")


def run_on_cluster(
    work: Callable[[Job, Report], None], jobs: Iterable[Job], address: str, cores: int
) -> Iterator[tuple[Job, Any]]:
    """Call ``work(job, report)`` for all jobs on the cluster; the last that each reports comes as (job, report).

    Of a job that failed that is a ``Failure``. Closing the iterator cancels what still runs. Files that jobs name must be
    where they say on all machines, and this package must be installed there.

    Args:
        address: of the cluster, as ``ray.init`` takes it: 'auto', 'ray://HOST:PORT'; 'local' starts one here.
        cores: that a job needs.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--ray needs the Python module 'ray', which is not installed: pip install ray") from None
    try:
        ray.init(address=address, include_dashboard=False if address == "local" else None, log_to_driver=False)
    except Exception as error:  # Ray's own kinds, and those of what it connects with
        reason = " ".join(str(error).split())
        raise UserError(f"--ray {address}: no Ray cluster can be used there ({reason})") from None
    task = ray.remote(num_cpus=cores)(_last_report)
    waiting = {task.remote(work, job): job for job in jobs}
    try:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                report = ray.get(ready)
            except ray.exceptions.RayError as error:  # the machine or the process is gone
                report = Failure(f"its Ray task ended: {' '.join(str(error).split())}")
            yield job, report
    finally:
        for running in waiting:
            ray.cancel(running, force=True)
        ray.shutdown()


def _last_report(work: Callable[[Job, Report], None], job: Job) -> Any:
    reports: list[Any] = [None]
    try:
        work(job, lambda report: reports.__setitem__(0, report))
    except UserError as error:
        return Failure(error)
    except Exception as error:
        traceback.print_exc()
        return Failure(f"{type(error).__name__}: {error}")
    return reports[0]
