"""The permissions in config/security are exactly what the node uses."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from bevdistill_ros.paths import share_directory

CAMERAS = ["cam_front", "cam_front_left", "cam_front_right", "cam_back", "cam_back_left", "cam_back_right"]
NODE = "bevdistill_detector"

DEADLINE = 60.0  # s until the node is configured, or has ended
DETECTOR = "import sys; from bevdistill_ros.cli import main; sys.exit(main(['detector', *sys.argv[1:]]))"

SOMETIMES = {
    ("topics", "subscribe", "/clock"),  # with use_sim_time
    ("services", "reply", f"/{NODE}/get_type_description"),  # not in Humble
}


BELOW = {("topics", "publish", "/rosout"), ("topics", "publish", f"/{NODE}/transition_event")}
"""What rcl makes for every lifecycle node: rclpy does not list it."""


def permitted() -> set[tuple[str, str, str]]:
    """(topics or services, what for, name) of the policy."""
    root = ElementTree.parse(share_directory() / "config" / "security" / "detector.policy.xml").getroot()
    (profile,) = root.iter("profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", NODE)
    found = set()
    for kind in ("topics", "services"):
        for group in profile.findall(kind):
            ((what, verdict),) = group.attrib.items()
            assert verdict == "ALLOW"
            found |= {(kind, what, entry.text) for entry in group}
    return found


def test_the_policy_permits_what_the_node_uses_and_nothing_else(make_bench) -> None:
    bench = make_bench(CAMERAS)
    node = bench.node
    assert node.start()

    # As the node itself knows it: ROS's graph may hold another node of its name, of another test.
    used = (
        {("topics", "publish", publisher.topic_name) for publisher in node.publishers}
        | {("topics", "subscribe", subscription.topic_name) for subscription in node.subscriptions}
        | {("services", "reply", service.service_name) for service in node.services}
        | {("services", "request", client.service_name) for client in node.clients}
    )
    wanted = permitted()
    assert used - wanted == set()
    assert wanted - used <= SOMETIMES | BELOW and wanted >= BELOW


def test_a_policy_is_well_formed() -> None:
    names = permitted()
    assert len(names) > 30 and all(name.startswith("/") and "*" not in name for _, _, name in names)


@pytest.mark.parametrize(
    ("environment", "enclaves", "text"),
    [
        ({"ROS_DOMAIN_ID": "nonsense"}, [], "ROS_DOMAIN_ID"),
        ({"ROS_SECURITY_ENABLE": "true"}, [], "enclaves"),  # that folder is not there
        ({"ROS_SECURITY_ENABLE": "true"}, [NODE], "the node is refused by ROS 2"),  # it has no keys, if security at all
    ],
)
def test_where_ros_does_not_start_the_node_says_so(ros_domain, tmp_path, environment, enclaves, text) -> None:
    """One line and exit status 1: what fails before there is a node was once taken for a signal, and hidden."""
    for enclave in enclaves:
        (tmp_path / "enclaves" / enclave).mkdir(parents=True)
    security = {"ROS_SECURITY_KEYSTORE": str(tmp_path), "ROS_SECURITY_STRATEGY": "Enforce"}
    ended = subprocess.run(
        [sys.executable, "-c", DETECTOR, "--ros-args", "--enclave", f"/{NODE}"],
        env={**os.environ, **security, **environment}, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 1 and len(errors) == 1 and text in errors[0], ended
    assert "Traceback" not in ended.stderr
