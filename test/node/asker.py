"""A process that asks a detector for boxes and its state, in the enclave that ROS_SECURITY_ENCLAVE_OVERRIDE names, if any.

It prints `ready`, listens until standard input ends or both have come (`--until-both`), and prints what it got as JSON: `boxes`
(messages with boxes), `state` (a label, or null), `refused` (of `boxes` and `state`, those that ROS 2 does not let it ask for).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("detector", help="the node's name, as /bevdistill_detector")
    parser.add_argument("--until-both", action="store_true")
    arguments = parser.parse_args()

    import rclpy
    from lifecycle_msgs.srv import GetState
    from vision_msgs.msg import Detection3DArray

    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    got: dict = {"boxes": 0, "state": None, "refused": []}

    def hear(message: Detection3DArray) -> None:
        got["boxes"] += bool(message.detections)

    rclpy.init(args=[])
    node = rclpy.create_node("asker", start_parameter_services=False)
    client = None
    try:
        node.create_subscription(Detection3DArray, f"{arguments.detector}/detections", hear, 10)
    except Exception:  # of a kind that rclpy does not export
        got["refused"].append("boxes")
    try:
        client = node.create_client(GetState, f"{arguments.detector}/get_state")
    except Exception:
        got["refused"].append("state")
    threading.Thread(target=wait_for_end, daemon=True).start()
    print("ready", flush=True)

    asked = None
    while not ended.is_set() and not (arguments.until_both and got["boxes"] and got["state"]):
        rclpy.spin_once(node, timeout_sec=0.1)
        if asked is not None and asked.done():
            got["state"], asked = asked.result().current_state.label, None
        elif asked is None and client is not None and client.service_is_ready():
            asked = client.call_async(GetState.Request())
    print(json.dumps(got), flush=True)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
