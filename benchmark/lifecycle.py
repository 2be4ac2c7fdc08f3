"""Every transition of the detector node, a hundred times over, while six cameras deliver: does anything stay behind?

    python benchmark/lifecycle.py --cycles 5                                     # a try
    python benchmark/lifecycle.py --json benchmark/results/lifecycle.json        # 100 cycles with the shipped weights

The node is a process of its own and driven over its lifecycle services, as by a manager. A cycle: a configure that fails (there is
no model) and is mended, configure, activate, boxes come, deactivate, activate, boxes come, deactivate, cleanup. After each: the
node's resident memory, threads, open files, and the subscriptions to the cameras that are left. At the end shutdown, and SIGTERM.
Threads and open files are compared between the first and the last cycle after the warm-up (a fifth of the cycles): none may be
added. Memory must level off: `rss_growth_last_quarter_pct`, the median of the last quarter of the cycles against that of the
quarter before, must be under 1 %. `rss_mb` is the whole curve, the median of each tenth. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from fault_bench import OUT, PATIENCE_S, Bench, own_domain
from results_file import write_result
from soak import process_numbers
from spoilt_rig import CAMERAS


class _Manager:
    """Calls the node's services, as a lifecycle manager does."""

    def __init__(self, bench: Bench) -> None:
        from lifecycle_msgs.srv import ChangeState

        self._bench = bench
        self._change = bench.client(ChangeState, f"{OUT}/change_state")
        self.calls: dict[str, int] = {}

    def transition(self, name: str, succeeds: bool = True) -> None:
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        answer = self._bench.call(self._change, ChangeState.Request(transition=Transition(id=number)))
        if answer.success != succeeds:
            raise SystemExit(f"{name}: success is {answer.success}; the node said:\n{self._bench.said()[-3000:]}")
        word = name if succeeds else f"{name}, which fails"
        self.calls[word] = self.calls.get(word, 0) + 1


def run(cycles: int, model: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the cycles; returns the figures."""
    samples = []
    with Bench(parameters={"autostart": "false", "model": model}) as bench:
        manager, process = _Manager(bench), bench.node
        for cycle in range(cycles):
            bench.set_parameter("model", "")
            manager.transition("configure", succeeds=False)
            bench.set_parameter("model", model)
            manager.transition("configure")
            for _ in range(2):
                known = len(bench.statuses)
                manager.transition("activate")
                boxes = lambda known=known: any(m.published for _, m in bench.statuses[known:])  # noqa: E731
                if not bench.wait(boxes):
                    raise SystemExit(f"no boxes after activate; the node said:\n{bench.said()[-3000:]}")
                manager.transition("deactivate")
            manager.transition("cleanup")
            gone = lambda: not any(bench.subscribers(f"/{c}/image_raw/compressed") for c in CAMERAS)  # noqa: E731
            left = 0 if bench.wait(gone, 5.0) else 1
            memory, threads = process_numbers(process.pid)
            samples.append((memory, threads, len(os.listdir(f"/proc/{process.pid}/fd")), left))
            if cycle % 10 == 9:
                report(f"{cycle + 1} cycles: {memory:.1f} MB, {threads} threads, {samples[-1][2]} open files")
        manager.transition("unconfigured_shutdown")
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE_S)
        ended = time.monotonic() - begun
        said = bench.said()
        errors = said.count("Traceback")
        if errors:
            report(said[max(0, said.index("Traceback") - 500) :][:3000])
    warm = samples[len(samples) // 5 :]
    resident = [memory for memory, *_ in samples]
    before, last = (statistics.median(part) for part in _parts(resident, 4)[-2:])
    return {
        "cycles": cycles,
        "model": model,
        "transitions": manager.calls,
        "rss_mb": [round(statistics.median(part), 1) for part in _parts(resident, 10)],
        "rss_growth_last_quarter_pct": round((last / before - 1) * 100, 2),
        "threads": [warm[0][1], warm[-1][1]],
        "open_files": [warm[0][2], warm[-1][2]],
        "subscriptions_left": sum(s[3] for s in samples),
        "tracebacks": errors,
        "exit_status": status,
        "seconds_to_end": round(ended, 2),
    }


def _parts(values: list[float], count: int) -> list[list[float]]:
    """Parts of as equal length as can be; of fewer values than parts, each value is one."""
    count = min(count, len(values))
    return [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]


def main(argv: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--model", default="nano", help="shipped weights or a checkpoint file; 'telling': a stand-in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(argv)
    if options.cycles < 4:
        parser.error("--cycles must be at least 4: memory is compared by quarters")
    with own_domain():
        figures = run(options.cycles, options.model, report)
    for key, value in figures.items():
        report(f"{key}: {value}")
    if options.json:
        write_result(options.json, figures)
    constant = all(figures[key][0] >= figures[key][1] for key in ("threads", "open_files"))
    clean = not figures["subscriptions_left"] and not figures["tracebacks"] and figures["exit_status"] == 0
    return 0 if constant and clean and figures["rss_growth_last_quarter_pct"] < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
