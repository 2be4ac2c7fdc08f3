"""The detector node with one checkpoint and another: what a model costs on the robot, from the cameras' stamps to boxes received.

    python benchmark/node_models.py plain.safetensors simulated.safetensors --json benchmark/results/simulated_node.json

The nodes run by turns, in random order, `--rounds` times each, as processes of their own, at the same rate of six JPEGs
(docs/speed.md, "over DDS"); the figures are medians over the rounds, the ratios are to the first checkpoint. Needs a ROS 2
environment. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result
from speed import by_turns

from bevdistill_ros.bench import command
from bevdistill_ros.bench.end_to_end import detector, over_dds
from bevdistill_ros.bench.publish import camera_names
from bevdistill_ros.checkpoint import load_checkpoint


def main(argv: list[str] | None = None, report_line: Callable[[str], None] = print) -> int:
    """Run all, print a line a run, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints; the others are compared with the first")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--rate", type=float, default=10.0, help="sets of images a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(argv)
    source = ["--seed", str(options.seed)]
    sets, _ = command.read_sets(command.make_parser().parse_args(source), ())
    with tempfile.TemporaryDirectory(prefix="bevdistill_models_") as folder:
        ways = {}
        for index, path in enumerate(options.models):
            logs = Path(folder) / str(index)
            logs.mkdir()
            node = detector(path, options.device, camera_names(sets[0]), logs)
            ways[str(index)] = partial(over_dds, node, source, options.rate, options.seconds, logs, report_line)
        medians = list(by_turns(ways, options.rounds, options.seed, report_line).values())
    plain = medians[0]
    figures = [
        {
            "model": load_checkpoint(path).config.name,
            **median,
            "ratio_latency": round(median["median_ms"] / plain["median_ms"], 3),
            "ratio_network": round(median["stages"]["network"] / plain["stages"]["network"], 3),
        }
        for path, median in zip(options.models, medians)
    ]
    for row in figures:
        report_line(
            f"{row['model']:20} {row['median_ms']:8.1f} ms {row['ratio_latency']:6.3f} {row['ratio_network']:6.3f}"
        )
    if options.json:
        write_result(options.json, {"device": options.device, "models": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
