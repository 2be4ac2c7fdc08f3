"""The figures of a benchmark, as JSON and as a table. docs/speed.md explains them."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from bevdistill_ros.bench.parts import BACKBONE, BEV_ENCODER, HEAD, LIFT, PARTS
from bevdistill_ros.bench.peaks import Peaks
from bevdistill_ros.bench.pipeline import (
    BOXES,
    CALIBRATE,
    DECODE,
    MESSAGES,
    NETWORK,
    PREPROCESS,
    UPLOAD,
    WARP,
    Measured,
    Pipeline,
)
from bevdistill_ros.bench.rig_sets import RigSet
from bevdistill_ros.bench.timing import summary
from bevdistill_ros.bench.work import Work
from bevdistill_ros.hardware import hardware

TITLES = {
    PREPROCESS: "preprocess",
    DECODE: "  decode JPEG",
    WARP: "  undistort, resize",
    UPLOAD: "upload",
    CALIBRATE: "new calibration",
    NETWORK: "network",
    BACKBONE: "  backbone",
    LIFT: "  lift",
    BEV_ENCODER: "  BEV encoder",
    HEAD: "  head",
    BOXES: "decode, suppress",
    MESSAGES: "messages",
}
"""What people are told, of the stages and (indented) their parts."""


def figures(
    pipeline: Pipeline,
    sets: Sequence[RigSet],
    source: str,
    measured: Measured,
    memory: Mapping[str, float],
    works: Mapping[str, Work],
    peaks: Peaks,
) -> dict[str, Any]:
    """What ``--json`` writes.

    Args:
        source: of the pictures, in words.
        memory: of ``peak_memory``, before anything but the pipeline was measured.
        works: by part, of those for which it is known.
    """
    detector = pipeline.detector
    parts = {**measured.picture_parts, **measured.network_parts}
    medians = {name: summary(values) for name, values in {**measured.stages, **parts}.items()}
    floors = {name: _floor(work, peaks) for name, work in works.items()}
    if known := [name for name in PARTS if name in works]:
        # One part runs after the other: what they take at least adds up.
        total = _floor(sum((works[name] for name in known), Work()), peaks)
        floors[NETWORK] = {**total, "floor_ms": round(sum(floors[name]["floor_ms"] for name in known), 4)}
    stages = {}
    for name in TITLES:
        if name in medians:
            stages[name] = {**medians[name], **floors.get(name, {})}
            if name in floors:
                stages[name]["floor_ratio"] = round(medians[name]["median_ms"] / floors[name]["floor_ms"], 2)
    size = sets[0].cameras[0]
    return {
        "model": detector.config.name,
        "device": str(detector.device),
        "backend": detector.backend,
        "backend_note": detector.backend_note,
        "precision": str(pipeline.dtype).removeprefix("torch."),
        "hardware": hardware(),
        "threads": {"torch": torch.get_num_threads(), "pictures": pipeline.threads, "opencv": cv2.getNumThreads()},
        "input": {
            "source": source,
            "cameras": list(sets[0].names),
            "picture_size": [size.width, size.height],
            "kilobytes_a_set": round(sum(one.encoded_bytes for one in sets) / len(sets) / 1e3, 1),
            "different_sets": len(sets),
        },
        "sets": len(measured.whole),
        "boxes_a_set": round(sum(measured.boxes) / len(measured.boxes), 1),
        "whole": summary(measured.whole),
        "sets_a_second": round(1e3 * len(measured.whole) / sum(measured.whole), 2),
        "stages": stages,
        "floor_ratio": stages[NETWORK].get("floor_ratio"),
        "peaks": {
            "matmul_gflops": round(peaks.matmul / 1e9, 1),
            "convolution_gflops": round(peaks.convolution / 1e9, 1),
            "memory_gb_s": round(peaks.memory / 1e9, 1),
            "cache_gb_s": round(peaks.cache / 1e9, 1),
        },
        "memory": dict(memory),
        **_tf32(detector.device),
    }


def _tf32(device: torch.device) -> dict[str, Any]:
    """Whether a GPU rounds the inputs of float32 products to 10 bits, as torch is set."""
    if device.type != "cuda":
        return {}
    return {"tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}}


def _floor(work: Work, peaks: Peaks) -> dict[str, Any]:
    return {"flops": work.flops, "bytes": work.bytes, "floor_ms": round(peaks.floor_ms(work.flops, work.bytes), 4)}


def peak_memory(device: torch.device) -> dict[str, float]:
    """Megabytes at the most so far: ``resident_mb`` of this process, ``cuda_mb`` of its tensors on the GPU."""
    try:
        status = Path("/proc/self/status").read_text()
        kilobytes = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
    except (OSError, StopIteration):  # not Linux, where what getrusage tells may be of who started this process
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = peak / 1024 if sys.platform == "darwin" else peak
    found = {"resident_mb": round(kilobytes / 1e3, 1)}
    if device.type == "cuda":
        found["cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def table(figures: Mapping[str, Any]) -> str:
    """The stages."""
    head = f"{'stage':20} {'median':>8} {'p90':>8} {'p99':>8}  {'GFLOP':>7} {'MB':>7} {'floor':>7} {'x floor':>7}"
    lines = [head + "    ms"]
    for name, row in figures["stages"].items():
        lines.append(_line(TITLES[name], row))
    lines.append(_line("whole", figures["whole"]))
    return "\n".join(line.rstrip() for line in lines)


def _line(title: str, row: Mapping[str, float]) -> str:
    text = f"{title:20} {row['median_ms']:8.2f} {row['p90_ms']:8.2f} {row['p99_ms']:8.2f}"
    if "floor_ms" in row:
        text += (
            f"  {row['flops'] / 1e9:7.2f} {row['bytes'] / 1e6:7.1f} {row['floor_ms']:7.2f} {row['floor_ratio']:7.1f}"
        )
    return text


def text(figures: Mapping[str, Any]) -> str:
    """All that people are told."""
    threads, given, peaks, held = (figures[key] for key in ("threads", "input", "peaks", "memory"))
    width, height = given["picture_size"]
    lines = [
        f"{figures['model']} by {figures['backend']} on {figures['device']}: {figures['hardware']}; threads: torch "
        f"{threads['torch']}, pictures {threads['pictures']}, OpenCV {threads['opencv']}",
        f"{given['source']}: {len(given['cameras'])} cameras of {width}x{height}, {given['kilobytes_a_set']:.0f} kB a set; "
        f"{figures['sets']} sets, {figures['boxes_a_set']:g} boxes each",
        "",
        table(figures),
        "",
        f"{figures['sets_a_second']:g} sets a second; {held['resident_mb']:.0f} MB resident at the most"
        + (f", {held['cuda_mb']:.0f} MB on the GPU" if "cuda_mb" in held else ""),
        f"floors by what this device was seen to do: {max(peaks['matmul_gflops'], peaks['convolution_gflops']):g} GFLOP/s, "
        f"{peaks['cache_gb_s']:g} GB/s in the caches, {peaks['memory_gb_s']:g} GB/s beyond",
    ]
    if figures["backend_note"]:
        lines.append(f"{figures['backend']} was chosen: {figures['backend_note']}")
    if BACKBONE not in figures["stages"]:
        lines.append("the network's parts and floors are left out: an exported model cannot be taken apart")
    if MESSAGES not in figures["stages"]:
        lines.append("messages are left out: there is no ROS 2 here, or no build of this package")
    if "compare" in figures:
        lines += ["", comparison(figures["compare"])]
    if "end_to_end" in figures:
        lines += ["", over_dds(figures["end_to_end"])]
    return "\n".join(lines)


def comparison(figures: Mapping[str, Any]) -> str:
    """The ratios."""
    lines = [f"{'against the straightforward path':32} {'ratio':>6}    ms"]
    for name, ratio in figures["ratios"].items():
        medians = figures["median_ms"].get(name, {})
        lines.append(f"{name:32} {ratio:6.2f}    " + ", ".join(f"{way} {ms:g}" for way, ms in medians.items()))
    return "\n".join(line.rstrip() for line in lines)


def over_dds(figures: Mapping[str, Any]) -> str:
    """What came of the cameras' images over DDS."""
    latency = figures["latency"]
    lines = [
        f"over DDS, {figures['rate_hz']:g} sets of images a second for {figures['seconds']:g} s: {figures['answered']} of "
        f"{figures['published']} answered, {figures['sets_a_second']:g} a second",
        f"ms from the cameras' stamp to the boxes: median {latency['median_ms']:.1f}, p90 {latency['p90_ms']:.1f}, "
        f"p99 {latency['p99_ms']:.1f}, which is {figures['p99_over_median']:g} times the median",
    ]
    if figures["stages"]:
        lines.append(
            "the node's own stages, medians: " + ", ".join(f"{k} {v:.1f}" for k, v in figures["stages"].items())
        )
    return "\n".join(lines)
