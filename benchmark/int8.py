"""What 8 bits would make of an exported model: figures on held-out drives and time, beside the same model in float32.

    python benchmark/int8.py weights/nano.safetensors --data FOLDER --json benchmark/results/int8.json

Static quantisation by onnxruntime.quantization, of convolutions and what lies between them, a scale a channel of weights; the
ranges of activations are the smallest and greatest of ``CALIBRATION`` samples of the drives with shuffled colours, which are not
scored. ``all``: the whole graph; ``images``: what comes before the pooling onto the grid; ``bev``: what comes after it. FOLDER and
times are as for benchmark/backends.py. Nothing of this is shipped: docs/export.md says why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it is not there under python -P
from backends import ALLOWED, make_detectors, make_parser, open_drives, times_ms
from results_file import write_result

from bevdistill_ros.detector import Detector
from bevdistill_ros.models.lift import all_present
from bevdistill_ros.runtime import graph
from bevdistill_ros.runtime.backends import ONNXRUNTIME
from bevdistill_ros.training.data.nuscenes import NuScenesSamples
from bevdistill_ros.training.evaluate import evaluate

CALIBRATION = 32
OPERATORS = ["Conv", "Add", "Relu", "MaxPool", "Resize"]


class Inputs(CalibrationDataReader):
    """A graph's inputs of samples, one by one."""

    def __init__(self, detector: Detector, samples: NuScenesSamples) -> None:
        self._make = graph.calibration_inputs(detector.config).make
        self._left = iter(range(min(len(samples), CALIBRATION)))
        self._samples = samples

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one's, by name; None after the last."""
        index = next(self._left, None)
        if index is None:
            return None
        sample = self._samples[index]
        K, ego_T_cam = (torch.from_numpy(np.asarray(value)).float()[None] for value in (sample.K, sample.ego_T_cam))
        inputs = self._make(K, ego_T_cam, all_present(K), sample.images.shape[1:3])
        return {graph.IMAGES: sample.images, **{name: value.numpy() for name, value in inputs.items()}}


def parts_left_out(path: Path) -> dict[str, list[str]]:
    """By variant, the names of the operators that stay in float32."""
    nodes = onnx.load(path).graph.node
    pooling = next(i for i, node in enumerate(nodes) if node.op_type == "ScatterND")
    before, after = [node.name for node in nodes[:pooling]], [node.name for node in nodes[pooling:]]
    return {"all": [], "images": after, "bev": before}


def main() -> int:
    """Measure and write."""
    arguments = make_parser(__doc__.split("\n\n")[0]).parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        detectors = {"float32": make_detectors(arguments.checkpoint, Path(folder))[ONNXRUNTIME]}
        first = detectors["float32"]
        exported = Path(folder) / f"{arguments.checkpoint.stem}.onnx"
        shuffled = open_drives(arguments.data, "shuffled", first)
        for name, left_out in parts_left_out(exported).items():
            quantised = Path(folder) / f"{name}.onnx"
            quantize_static(
                exported,
                quantised,
                Inputs(first, shuffled),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=left_out,
            )
            detectors[name] = Detector.from_checkpoint(quantised)
        samples = open_drives(arguments.data, "natural", first, arguments.drives)
        results = {name: evaluate(detector, samples) for name, detector in detectors.items()}
        ms = times_ms(detectors, samples[0], arguments.repeats)
    figures: dict[str, Any] = {}
    for name, result in results.items():
        figures[name] = {key: round(100 * getattr(result, key), 3) for key in ("mAP", "NDS")}
        lost = {
            key: round(100 * (getattr(result, key) - getattr(results["float32"], key)), 3) for key in ("mAP", "NDS")
        }
        figures[name].update({f"{key}_difference": value for key, value in lost.items()})
        figures[name]["holds"] = all(abs(value) <= ALLOWED for value in lost.values())
        figures[name].update(ms=round(ms[name], 2), ratio=round(ms["float32"] / ms[name], 2))
    report = {"checkpoint": arguments.checkpoint.name, "samples": len(samples), "threads": arguments.threads}
    report["models"] = figures
    print(json.dumps(report, indent=2))
    if arguments.json:
        write_result(arguments.json, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
