"""The detector node as a program, with its signals and its end; ``detector_command`` is its command line."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException

from bevdistill_ros.errors import UserError
from bevdistill_ros.node.detector_node import DetectorNode, LoadDetector
from bevdistill_ros.node.memory import keep_few_arenas
from bevdistill_ros.node.refusal import making, start_ros


def main(argv: Sequence[str], load_detector: LoadDetector | None = None) -> int:
    """Run the node until it is told to end: exit status 0.

    Args:
        argv: arguments, of which ROS takes its own.
        load_detector: as of ``DetectorNode``.

    Raises:
        UserError: it could not start.
    """
    # rclpy's handlers end the context, which ends spin(). Python's own would raise KeyboardInterrupt as well,
    # anywhere: a second Ctrl-C in the middle of the clean-up. rclpy chains to what it finds, so ours come first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    keep_few_arenas()
    start_ros(argv)
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
