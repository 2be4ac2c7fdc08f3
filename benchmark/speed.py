"""How fast the detector is on this machine, beside the straightforward way: benchmark/results/speed_cpu.json and docs/speed.md.

    python benchmark/speed.py --json benchmark/results/speed_cpu.json --docs docs/speed.md     # about five minutes
    python benchmark/speed.py --device cuda --json benchmark/results/speed_cuda.json
    python benchmark/speed.py --from benchmark/results/speed_cpu.json --docs docs/speed.md     # the page's table again, unmeasured

Everything is measured by `bevdistill bench`'s own code: `stages` and `floor_ratio` in process, the ratios against the
straightforward path with both run in turn, in random order, in one process, `over_dds` with processes of their own: the detector
node and a node of the usual parts (stock_node.py), each `--rounds` times, in random order, at 12 sets of six JPEGs a second, and
the detector at 10. Without a ROS 2 environment `over_dds` is left out. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from results_file import write_result

from bevdistill_ros.bench import command, report
from bevdistill_ros.bench.end_to_end import Answerer, detector, over_dds
from bevdistill_ros.bench.publish import camera_names
from bevdistill_ros.detector import choose_device
from bevdistill_ros.paths import DEFAULT_MODEL, model_path
from bevdistill_ros.runtime.backends import AUTO, BACKENDS, EXECUTIONS

MARK = "<!-- the tables are written by benchmark/speed.py -->\n"
RATE_HZ, CALM_HZ = 12.0, 10.0


def in_process(options: argparse.Namespace) -> dict[str, Any]:
    """Stages and comparison."""
    words = ["--model", options.model, "--device", options.device, "--threads", str(options.threads), "--compare"]
    words += ["--sets", str(options.sets), "--seed", str(options.seed), "--backend", options.backend]
    words += ["--execution", options.execution]
    words += source_words(options)
    return command.run(command.make_parser().parse_args(words))


def source_words(options: argparse.Namespace) -> list[str]:
    """Options of `bench` that name the pictures."""
    return [] if options.data is None else ["--data", str(options.data.absolute())]


def on_dds(options: argparse.Namespace, report_line: Callable[[str], None]) -> dict[str, Any] | None:
    """The detector and the stock node in random order, at the cameras' usual rate, then the detector at a calm one; None without
    ROS 2."""
    try:
        import rclpy  # noqa: F401
    except ImportError:
        report_line("over DDS: left out, there is no ROS 2 environment here")
        return None
    source = ["--seed", str(options.seed), *source_words(options)]
    sets, _ = command.read_sets(command.make_parser().parse_args(source), ())
    with tempfile.TemporaryDirectory(prefix="bevdistill_speed_") as folder:
        logs = Path(folder)
        parameters = {"torch_threads": options.threads, "backend": options.backend, "execution": options.execution}
        ours = detector(model_path(options.model), options.device, camera_names(sets[0]), logs, **parameters)
        stock_words = ["--model", str(model_path(options.model).absolute()), "--device", choose_device(options.device)]
        stock_words += ["--threads", str(options.threads), "--", *source]
        program = (sys.executable, str(Path(__file__).resolve().with_name("stock_node.py")))
        stock = Answerer("stock_node", stock_words, program)
        ways = {
            "ours": partial(over_dds, ours, source, RATE_HZ, options.seconds, logs, report_line),
            "stock": partial(over_dds, stock, source, RATE_HZ, options.seconds, logs, report_line),
            "ours_10hz": partial(over_dds, ours, source, CALM_HZ, 2 * options.seconds, logs, report_line),
        }
        return by_turns(ways, options.rounds, options.seed, report_line)


def by_turns(
    ways: dict[str, Callable[[], dict[str, Any]]], rounds: int, seed: int, report_line: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Runs of ``over_dds`` by name, ``rounds`` of each in random order, told one by one, as ``median_run``."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    turns = list(ways) * rounds
    random.Random(seed).shuffle(turns)
    for name in turns:
        found[name].append(ways[name]())
        report_line(report.over_dds(found[name][-1]))
    return {name: median_run(runs) for name, runs in found.items()}


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs alike: sums of the counts, medians of the rest."""

    def of(pick: Callable[[dict[str, Any]], float]) -> float:
        return round(statistics.median(pick(run) for run in runs), 3)

    return {
        "rate_hz": runs[0]["rate_hz"],
        "runs": len(runs),
        "published": sum(run["published"] for run in runs),
        "answered": sum(run["answered"] for run in runs),
        "sets_a_second": of(lambda run: run["sets_a_second"]),
        **{name: of(lambda run, name=name: run["latency"][name]) for name in runs[0]["latency"]},
        "p99_over_median": of(lambda run: run["p99_over_median"]),
        "stages": {name: of(lambda run, name=name: run["stages"][name]) for name in runs[0]["stages"]},
    }


def figures_of(bench: dict[str, Any], dds: dict[str, Any] | None) -> dict[str, Any]:
    """What the results file holds."""
    compare = bench.pop("compare")
    ratios = dict(compare["ratios"])
    ratios[f"pipeline_{bench['model']}"] = ratios.pop("pipeline")
    return {
        **ratios,
        "compare_median_ms": compare["median_ms"],
        "stage_median_ms": {name: stage["median_ms"] for name, stage in bench["stages"].items()},
        **bench,
        "over_dds": dds,
    }


def page(result: dict[str, Any]) -> str:
    """The tables of docs/speed.md."""
    figures = result["figures"]
    threads, given = figures["threads"], figures["input"]
    lines = [
        f"`{figures['model']}` by {figures['backend']} on {figures['device']}: {result['hardware']}; torch {threads['torch']} "
        f"threads, pictures {threads['pictures']}; {given['source']}, {len(given['cameras'])} cameras of "
        f"{given['picture_size'][0]}x{given['picture_size'][1]}, {given['kilobytes_a_set']:.0f} kB a set; {figures['sets']} sets. "
        f"Commit {result['commit'][:7]}, {result['date'][:10]}.",
        "",
        "| stage | median ms | p90 | p99 | GFLOP | MB moved | floor ms | times the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in {**figures["stages"], "whole": figures["whole"]}.items():
        title = report.TITLES.get(name, name)
        title = f"&nbsp;&nbsp;{title.strip()}" if title.startswith(" ") else title
        cells = [f"{row[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")]
        if "floor_ms" in row:
            cells += [
                f"{row['flops'] / 1e9:.2f}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['floor_ms']:.2f}",
                f"{row['floor_ratio']:.1f}",
            ]
        lines.append(f"| {title} | {' | '.join(cells + [''] * (7 - len(cells)))} |")
    peaks, memory = figures["peaks"], figures["memory"]
    lines += [
        "",
        f"Peaks measured in the same run: matrix product {peaks['matmul_gflops']:g} GFLOP/s, convolution "
        f"{peaks['convolution_gflops']:g} GFLOP/s; copying {peaks['cache_gb_s']:g} GB/s in the caches, {peaks['memory_gb_s']:g} "
        f"GB/s beyond. {memory['resident_mb']:.0f} MB resident at the most. {figures['sets_a_second']:g} sets a second in process.",
        "",
        "| against the straightforward path | times its speed | medians, ms |",
        "|---|---|---|",
    ]
    for name, medians in figures["compare_median_ms"].items():
        key = f"pipeline_{figures['model']}" if name == "pipeline" else name
        ratio = f"{figures[key]:.2f}"
        if f"{name}_normalised" in figures:
            ratio += f" ({figures[f'{name}_normalised']:.2f} with ours normalised, too)"
        lines.append(f"| `{key}` | {ratio} | {', '.join(f'{way} {ms:g}' for way, ms in medians.items())} |")
    if figures["over_dds"]:
        lines += [
            "",
            "| over DDS | sets a second in | answered | median ms | p90 | p99 | p99 / median |",
            "|---|---|---|---|---|---|---|",
        ]
        titles = {"ours": "detector node", "stock": "stock synchroniser, cv_bridge", "ours_10hz": "detector node"}
        for name, row in figures["over_dds"].items():
            cells = [
                f"{row['rate_hz']:g}",
                f"{row['sets_a_second']:.2f} a second, {row['answered']} of {row['published']}",
            ]
            cells += [f"{row[key]:.1f}" for key in ("median_ms", "p90_ms", "p99_ms")] + [
                f"{row['p99_over_median']:.2f}"
            ]
            lines.append(f"| {titles[name]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None, report_line: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="of the lift-splat kind (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--backend", choices=BACKENDS, default=AUTO, help="of the detector (default: %(default)s)")
    parser.add_argument("--execution", choices=EXECUTIONS, default=AUTO, help="likewise (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: one a core")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="pictures of a dataset, not made-up ones")
    parser.add_argument("--sets", type=int, default=100, help="to time in process (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each node over DDS (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of each round, twice that at 10 Hz (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="replace what is below the mark in this page")
    parser.add_argument("--from", type=Path, dest="known", metavar="FILE", help="measure nothing, take these figures")
    options = parser.parse_args(argv)
    if options.known is None:
        report_line(f"in process: {options.sets} sets, then the comparison")
        bench = in_process(options)
        report_line(report.text(bench))
        dds = on_dds(options, report_line)
        figures = figures_of(bench, dds)
        with tempfile.TemporaryDirectory() as folder:
            path = options.json or Path(folder) / "speed.json"
            write_result(path, figures)
            result = json.loads(path.read_text())
    else:
        result = json.loads(options.known.read_text())
    if options.docs:
        text = options.docs.read_text(encoding="utf-8")
        options.docs.write_text(text[: text.index(MARK) + len(MARK)] + "\n" + page(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
