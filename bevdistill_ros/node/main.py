"""`bevdistill detector`: the detector node as a program, with its arguments, its signals and its end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException

from bevdistill_ros.errors import UserError
from bevdistill_ros.node.detector_node import DetectorNode, LoadDetector
from bevdistill_ros.node.memory import keep_few_arenas
from bevdistill_ros.node.refusal import making


def _ros_arguments(call: Callable[[], Any]) -> Any:
    """What ``call`` returns; a mistake in the ROS arguments, of an exception that rclpy does not export, as UserError."""
    try:
        return call()
    except Exception as error:
        raise UserError(f"ROS arguments: {' '.join(str(error).split())}") from None


def main(argv: Sequence[str] | None = None, load_detector: LoadDetector | None = None) -> int:
    """Run the node until it is told to end: exit status 0.

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
    parser.parse_args(_ros_arguments(lambda: rclpy.utilities.remove_ros_args([parser.prog, *argv]))[1:])

    # rclpy's handlers end the context, which ends spin(). Python's own would raise KeyboardInterrupt as well,
    # anywhere: a second Ctrl-C in the middle of the clean-up. rclpy chains to what it finds, so ours come first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    keep_few_arenas()
    _ros_arguments(lambda: rclpy.init(args=argv))
    node = None
    try:
        with making("the node"):
            node = DetectorNode(load_detector)
        if node.autostart and not node.start():
            if rclpy.ok():
                raise UserError(node.failure)
            return 0
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
    except Exception:
        if rclpy.ok():
            raise
        # Told to end in the middle of a transition: whatever it tried then could not be done any more.
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # The process is ending; signals that come while the interpreter takes itself apart would only spoil its exit
        # status.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return 0
