"""The command line of the verb ``detector``, which needs ROS only once it has been read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bevdistill_ros.arguments import split_ros_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until it is told to end; exit status.

    Raises:
        UserError: it could not start.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="bevdistill detector",
        description="The ROS 2 node: six (or any number of) camera topics in, 3-D boxes out. "
        "Parameters are given the ROS way.",
        epilog="example: bevdistill detector --ros-args -p model:=model.safetensors -p fixed_frame:=odom "
        "(every parameter is explained in config/detector.yaml)",
    )
    parser.parse_args(split_ros_arguments(argv)[0])

    from bevdistill_ros.node import main as program

    return program.main(argv)
