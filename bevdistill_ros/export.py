"""The verb ``export``: a student's checkpoint as one ONNX file, which other runtimes run, and ours faster than PyTorch on a CPU."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import model_path
from bevdistill_ros.runtime.backends import EXPORTED_SUFFIX


def main(argv: Sequence[str]) -> int:
    """Export, check, and only then put the file in its place."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    path = model_path(arguments.model)
    output = arguments.output or path.with_suffix(EXPORTED_SUFFIX)
    if output.suffix != EXPORTED_SUFFIX:
        parser.error(f"--output {output}: an exported model's name ends in {EXPORTED_SUFFIX}")

    import torch  # takes seconds: not for --help

    from bevdistill_ros.checkpoint import load_checkpoint
    from bevdistill_ros.detector import camera_config, load_network
    from bevdistill_ros.runtime.onnx_export import OPSET, TOLERANCE, check_export, export_onnx
    from bevdistill_ros.runtime.onnx_file import read_onnx

    checkpoint = load_checkpoint(path)
    config = camera_config(checkpoint, str(path))
    network = load_network(checkpoint, torch.device("cpu"), str(path))
    print(f"{path}: exporting '{config.name}', which takes up to some minutes", flush=True)
    started = time.monotonic()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    content = export_onnx(checkpoint.card, config, network, digest, arguments.for_tensorrt)
    checks = check_export(content, config, network)
    for check in checks:
        print(
            f"against PyTorch, float32, {check.cameras} camera{'s' if check.cameras > 1 else ''}: {check}", flush=True
        )
    if not all(check.holds for check in checks):
        raise UserError(
            f"{path}: the exported model differs from PyTorch by more than the tolerance {TOLERANCE:g}; nothing is written"
        )
    write_atomically(output, content)
    model = read_onnx(output)
    print(f"{output}: {len(model.content) / 1e6:.1f} MB, opset {OPSET}, within the tolerance {TOLERANCE:g}")
    if arguments.json is not None:
        report = {
            "model": str(path),
            "output": str(output),
            "bytes": len(model.content),
            "weights_sha256": model.weights_sha256,
            "opset": OPSET,
            "tolerance": TOLERANCE,
            "checks": [check.to_json() for check in checks],
            "wall_s": round(time.monotonic() - started, 1),
        }
        write_atomically(arguments.json, json.dumps(report, indent=2, allow_nan=False) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill export",
        description="Make an ONNX file of a student's checkpoint, for any number of cameras, and check it against PyTorch. "
        "The detector node runs it on a CPU where it lies beside the checkpoint. docs/export.md tells its inputs and outputs.",
        epilog="example: bevdistill export runs/nano/model.safetensors --output model.onnx",
    )
    parser.add_argument(
        "model", metavar="CHECKPOINT", help="a model.safetensors of `bevdistill train`, or the name of shipped weights"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: beside the checkpoint, its name ending in .onnx)"
    )
    parser.add_argument(
        "--for-tensorrt",
        action="store_true",
        help="without what TensorRT refuses; slower by ONNX Runtime (docs/export.md)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write what was found there (docs/export.md: the keys)"
    )
    return parser
