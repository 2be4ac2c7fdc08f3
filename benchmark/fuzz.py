"""Feeds damaged and hostile inputs to whatever takes some from outside, and counts what is not refused as documented.

    python benchmark/fuzz.py --inputs 100000 --json benchmark/results/fuzz.json
    python benchmark/fuzz.py --target images --start 4711 --inputs 1            # one input again, with its traceback

Every input follows from --seed, its target and its number. An input fails if anything else is raised than the documented error, if
it takes more than ``TIME_LIMIT`` or more than ``MEMORY_LIMIT`` bytes, or if what is made of it cannot be worked with. Exit
status 1 if any does. A ROS 2 environment must be sourced.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from fuzz_targets import TARGETS, Target
from results_file import write_result

from bevdistill_ros.threads import limit_opencv

TIME_LIMIT = 20.0
"""Seconds of processor time, which a busy machine does not change."""

MEMORY_LIMIT = 4 << 30
"""What a picture of the largest size that is decoded takes several times over."""

SHOWN = 5
"""Failures of a kind that are told."""


@dataclass
class Outcome:
    """What became of a target's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    uncaught: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


def fuzz(name: str, target: Target, seed: int, start: int, inputs: int, log: Any) -> Outcome:
    """Run the inputs number ``start`` and on."""
    outcome, begun = Outcome(), time.perf_counter()
    for number in range(start, start + inputs):
        rng, before = random.Random(f"{seed}/{name}/{number}"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
        try:
            accepted = target.run(rng)
        except target.refusals:
            accepted = False
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of an extension in Rust is no Exception
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            kind = f"{type(error).__name__} at {place}"
            outcome.uncaught += 1
            outcome.failures[kind] += 1
            if outcome.failures[kind] <= SHOWN:
                text = " ".join(str(error).split())[:300]
                print(f"{name} {number}: {kind}: {text}", file=log, flush=True)
                if inputs == 1:
                    traceback.print_exc(file=log)
            accepted = None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        outcome.inputs += 1
        outcome.accepted += accepted is True
        outcome.refused += accepted is False
        outcome.slowest_s = max(outcome.slowest_s, time.process_time() - before)
        if outcome.inputs % 10_000 == 0:
            rate = outcome.inputs / (time.perf_counter() - begun)
            print(
                f"{name}: {outcome.inputs} inputs, {outcome.uncaught} uncaught, {rate:.0f} a second",
                file=log,
                flush=True,
            )
    outcome.seconds = time.perf_counter() - begun
    return outcome


def _limit_memory() -> None:
    """What is allocated beyond the limit raises MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, most))


def _out_of_time(*_: object) -> None:
    raise TimeoutError(f"not done in {TIME_LIMIT:g} s")


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, metavar="N", help="of each target (default: %(default)s)")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="number of the first input")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts")
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore")  # NumPy's about overflows, which are what is looked for
    torch.set_num_threads(1)
    limit_opencv()
    # Decoders write a line about every damaged picture.
    log = os.fdopen(os.dup(2), "w")
    faulthandler.enable(log)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    signal.signal(signal.SIGPROF, _out_of_time)
    try:
        with tempfile.TemporaryDirectory(prefix="bevdistill_fuzz_") as folder:
            targets = {name: TARGETS[name](Path(folder)) for name in options.target}
            _limit_memory()
            outcomes = {
                name: fuzz(name, target, options.seed, options.start, options.inputs, log)
                for name, target in targets.items()
            }
    finally:
        os.dup2(log.fileno(), 2)
    for name, outcome in outcomes.items():
        print(
            f"{name}: {outcome.inputs} inputs, {outcome.accepted} accepted, {outcome.refused} refused, "
            f"{outcome.uncaught} uncaught, "
            f"slowest {outcome.slowest_s:.2f} s, {outcome.seconds:.0f} s in all"
        )
    if options.json:
        figures: dict[str, Any] = {
            what: {name: getattr(outcome, what) for name, outcome in outcomes.items()}
            for what in ("inputs", "uncaught", "accepted", "refused")
        }
        for what in ("slowest_s", "seconds"):
            figures[what] = {name: round(getattr(outcome, what), 3) for name, outcome in outcomes.items()}
        figures["seed"] = options.seed
        write_result(options.json, figures)
    return int(any(outcome.uncaught for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
