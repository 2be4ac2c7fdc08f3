"""The command line: `bevdistill VERB` (pip) and `ros2 run bevdistill_ros VERB` (colcon) are the same programs."""

from __future__ import annotations

import importlib
import sys

from bevdistill_ros import __version__
from bevdistill_ros.errors import UsageError, UserError

VERBS = {
    "detector": ("bevdistill_ros.detector_command", "the ROS 2 node: camera topics in, 3-D boxes out"),
    "doctor": ("bevdistill_ros.doctor.command", "listen to a rig as the detector would: what is wrong, and what to do"),
    "play": ("bevdistill_ros.node.play", "play a bag onto topics"),
    "world": ("bevdistill_ros.training.world.generate", "make a synthetic dataset, bags, or both"),
    "demo": ("bevdistill_ros.training.demo.command", "play a synthetic drive to the detector: pictures, figures"),
    "convert": ("bevdistill_ros.training.convert", "bags into a dataset, or a nuScenes dataset into bags"),
    "label": ("bevdistill_ros.training.label", "a trained teacher labels a dataset that has no labels"),
    "train": ("bevdistill_ros.training.train_command", "train a camera student, or a LiDAR teacher"),
    "evaluate": ("bevdistill_ros.training.evaluate_options", "score checkpoints: mAP, NDS, errors, plots, pictures"),
    "export": ("bevdistill_ros.export", "a student as an ONNX file, checked against PyTorch"),
    "bench": ("bevdistill_ros.bench.command", "how long each stage takes, and what the machine could do"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit status 0: done, 1: failed (one line says why), 2: bad usage."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: bevdistill VERB [options]        (VERB --help explains each)\n")
        print("\n".join(f"  {verb:<10} {text}" for verb, (_, text) in VERBS.items()))
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] not in VERBS:
        print(f"error: no verb '{argv[0]}'; there are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(VERBS[argv[0]][0]).main(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        # A verb's own dependency, not a bug inside the package.
        if (error.name or "").startswith("bevdistill_ros") and not (error.name or "").endswith(".msg"):
            raise
        print(f"error: '{argv[0]}' needs the Python module '{error.name}', which is not installed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
