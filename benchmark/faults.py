"""Every fault of fault_list.py against a running detector node: what it does, and how soon it is well again.

    python benchmark/faults.py                                           # all, about five minutes; a table
    python benchmark/faults.py --only frozen --only odometry             # those whose names hold such a word
    python benchmark/faults.py --json benchmark/results/faults.json --docs docs/faults.md

Node and rig are processes of their own and talk over DDS; a stand-in for the network tells which pictures it was given, the
rest is the real node. Every set of boxes is held against what its stamps demand: one instant, no stale picture, the right
calibration and mounts, the robot's motion. `recovery_s` is the time from the fault's end to the arrival of the first complete,
right set. Exit status 1 if any fault was not handled as expected, or took longer than a second to recover from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from fault_bench import Bench, own_domain, run_fault
from fault_list import FAULTS, Fault
from results_file import write_result

MARK = "<!-- the table is written by benchmark/faults.py -->\n"


def run(faults: list[Fault], report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run faults, those of one setup on one and the same node; returns the rows."""
    rows = []
    for setup, group in groupby(sorted(faults, key=lambda fault: fault.setup), key=lambda fault: fault.setup):
        with Bench(setup) as bench:
            for fault in group:
                row = run_fault(bench, fault)
                row.pop("problems")
                rows.append(row)
                recovery = "-" if row["recovery_s"] is None else f"{row['recovery_s']:.2f} s"
                report(f"{'ok ' if row['ok'] else 'NOT'} {recovery:>7}  {fault.name}: {row['seen']}")
                if bench.node.poll() is not None:
                    report(bench.said()[-3000:])
                    break
    order = {fault.name: i for i, fault in enumerate(FAULTS)}
    return sorted(rows, key=lambda row: order[row["name"]])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| fault | expected | seen | recovered after |", "|---|---|---|---|"]
    for row in rows:
        recovery = "never" if row["recovery_s"] is None else f"{row['recovery_s']:.2f} s"
        seen = row["seen"].replace("|", "\\|")
        seen = seen if row["ok"] else f"**{seen}**"
        lines.append(f"| {row['name']} | {row['expected']} | {seen} | {recovery} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None, report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="faults whose name holds the word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="replace the table below its mark in this page")
    options = parser.parse_args(argv)
    faults = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if not faults:
        parser.error(f"no fault's name holds {', '.join(options.only)}")
    with own_domain():
        rows = run(faults, report)
    good = len(rows) == len(faults) and all(row["ok"] for row in rows)
    slowest = max((row["recovery_s"] for row in rows if row["recovery_s"] is not None), default=None)
    report(f"{sum(row['ok'] for row in rows)} of {len(faults)} as expected; slowest recovery {slowest} s")
    if options.json:
        write_result(options.json, {"faults": rows, "slowest_recovery_s": slowest})
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        options.docs.write_text(page[: page.index(MARK) + len(MARK)] + "\n" + table(rows), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
