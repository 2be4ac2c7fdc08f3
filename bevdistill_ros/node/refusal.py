"""What ROS 2 refuses, told in one line: its arguments, and to make a node, a publisher, a subscription.

It refuses names and, where security is enforced (SROS 2), what the permissions of the process's enclave leave out. What rclpy
raises then need not name the topic, and the middleware's own reason is often only on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation

from bevdistill_ros.errors import UserError


def start_ros(argv: Sequence[str], **options: Any) -> None:
    """``rclpy.init`` with what it takes of ``argv``; ``options`` are its other arguments.

    Raises:
        UserError: a mistake in them.
    """
    try:
        rclpy.init(args=list(argv), **options)
    except Exception as error:  # of a type that rclpy does not export
        raise UserError(f"ROS arguments: {' '.join(str(error).split())}") from None


@contextmanager
def making(what: str) -> Iterator[None]:
    """Within it ``what`` is made; ``what`` begins a sentence, as "the node".

    Raises:
        UserError: ROS 2 refuses it.
    """
    try:
        yield
    except rclpy_implementation.RCLError as error:
        advice = ""
        if os.environ.get("ROS_SECURITY_ENABLE") == "true":
            advice = "; ROS_SECURITY_ENABLE is true: do the permissions of the enclave allow it? See docs/security.md"
        raise UserError(f"{what} is refused by ROS 2: {' '.join(str(error).split())}{advice}") from None
