"""The enclave of config/security as SROS 2 makes it, and the node in it with security enforced.

Skipped where there is no `sros2`; the processes also where the middleware was built without security, as that of ROS 2 from PyPI.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bevdistill_ros.paths import share_directory

keystores = pytest.importorskip("sros2.keystore")

DEADLINE = 120.0
POLICY = share_directory() / "config" / "security" / "detector.policy.xml"
CAMERAS = ["cam_front", "cam_front_right", "cam_back_right", "cam_back", "cam_back_left", "cam_front_left"]
NODE = "/bevdistill_detector"
DETECTOR = "import sys; from bevdistill_ros.cli import main; sys.exit(main(['detector', *sys.argv[1:]]))"
PARAMETER_SERVICES = (
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description",
)  # fmt: skip
EVERY_NODE = ["/rosout", "/parameter_events"]

Allowed = dict[tuple[str, str], list[str]]


def policy_xml(enclave: str, node: str, allowed: Allowed) -> str:
    """A policy of one node; ``allowed`` are the names by what they are and what for, as ("topics", "publish")."""
    groups = "".join(
        f'<{kind} {what}="ALLOW">{"".join(f"<{kind[:-1]}>{name}</{kind[:-1]}>" for name in names)}</{kind}>'
        for (kind, what), names in allowed.items()
    )
    profile = f'<profiles><profile ns="/" node="{node}">{groups}</profile></profiles>'
    return f'<policy version="0.2.0"><enclaves><enclave path="{enclave}">{profile}</enclave></enclaves></policy>'


NEIGHBOURS: dict[str, tuple[str, Allowed]] = {  # enclave: node, what it may do
    "/rig": (
        "camera_rig",
        {
            ("topics", "publish"): EVERY_NODE
            + ["/tf", "/tf_static"]
            + [f"/{name}/{topic}" for name in CAMERAS for topic in ("camera_info", "image_raw/compressed")],
            ("services", "reply"): [f"/camera_rig/{name}" for name in PARAMETER_SERVICES],
        },
    ),
    "/asker": (
        "asker",
        {
            ("topics", "publish"): EVERY_NODE,
            ("topics", "subscribe"): [f"{NODE}/detections"],
            ("services", "request"): [f"{NODE}/get_state"],
            ("services", "reply"): ["/asker/get_type_description"],
        },
    ),
    "/stranger": (
        "asker",
        {("topics", "publish"): EVERY_NODE, ("services", "reply"): ["/asker/get_type_description"]},
    ),
}


@pytest.fixture(scope="module")
def keystore(tmp_path_factory, ros_domain) -> Path:
    """With the enclave of the detector and those of its neighbours, for the tests' domain."""
    folder = tmp_path_factory.mktemp("sros2")
    store = folder / "keystore"
    keystores.create_keystore(store)
    policies = {NODE: POLICY}
    for i, (enclave, (node, allowed)) in enumerate(NEIGHBOURS.items()):
        policies[enclave] = folder / f"{i}.policy.xml"
        policies[enclave].write_text(policy_xml(enclave, node, allowed))
    for enclave, policy in policies.items():
        keystores.create_enclave(store, enclave)
        keystores.create_permission(store, enclave, policy)
    return store


def test_sros2_makes_the_permissions_of_our_policy(keystore) -> None:
    """Every name of the policy is there as DDS has it, and nothing else but what ROS 2 always needs."""
    wanted: dict[str, set[str]] = {"publish": {"ros_discovery_info"}, "subscribe": {"ros_discovery_info"}}
    (profile,) = ElementTree.parse(POLICY).getroot().iter("profile")
    for group in profile:
        ((what, _),) = group.attrib.items()
        names = [entry.text for entry in group]
        if group.tag == "topics":
            wanted[what] |= {f"rt{name}" for name in names}
        else:
            assert what == "reply"
            wanted["publish"] |= {f"rr{name}Reply" for name in names}
            wanted["subscribe"] |= {f"rq{name}Request" for name in names}
    root = ElementTree.parse(keystore / "enclaves" / NODE[1:] / "permissions.xml").getroot()
    (grant,) = root.iter("grant")
    assert grant.find("subject_name").text == f"CN={NODE}" and grant.find("default").text == "DENY"
    found = {what: {topic.text for topic in grant.iterfind(f"allow_rule/{what}//topic")} for what in wanted}
    assert found == wanted


@pytest.fixture
def enforced(keystore, monkeypatch) -> None:
    """Processes started from here on are in a secured system."""
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(keystore))
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    make_node = "import rclpy; rclpy.init(); rclpy.create_node('asker', start_parameter_services=False)"
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/asker")
    probe = subprocess.run([sys.executable, "-c", make_node], capture_output=True, text=True)
    monkeypatch.delenv("ROS_SECURITY_ENCLAVE_OVERRIDE")
    if probe.returncode:
        pytest.skip(f"this middleware has no security: {probe.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def start(enforced) -> Iterator[Callable[..., subprocess.Popen]]:
    """``start(*arguments)`` of Python; killed after the test, if it lives."""
    started: list[subprocess.Popen] = []

    def begin(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_permitted_processes_get_boxes_and_others_nothing(start, start_rig, monkeypatch) -> None:
    ask = str(Path(__file__).with_name("asker.py"))
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/rig")
    start_rig(CAMERAS)
    monkeypatch.delenv("ROS_SECURITY_ENCLAVE_OVERRIDE")
    start("-c", DETECTOR, "--ros-args", "--enclave", NODE, "-p", "fixed_frame:=odom", "-p", "score_threshold:=0.0")
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/stranger")
    stranger = start(ask, NODE)
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/asker")
    with monkeypatch.context() as unsecured:
        unsecured.delenv("ROS_SECURITY_ENABLE")
        outsider = start(ask, NODE)
    for process in (stranger, outsider):
        assert any(line.strip() == "ready" for line in process.stdout)
    permitted = start(ask, NODE, "--until-both")  # last, so that the others were there while boxes came

    def told(process: subprocess.Popen) -> dict[str, Any]:
        return json.loads(process.communicate()[0].splitlines()[-1])

    assert permitted.wait(DEADLINE) == 0
    got = told(permitted)
    assert got["boxes"] and got["state"] == "active" and not got["refused"]
    for process in (stranger, outsider):
        got = told(process)
        assert not got["boxes"] and got["state"] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-r", "~/detections:=/boxes"], "error: a publisher of ~/detections is refused by ROS 2: "),
        (["-p", "cameras:=[front]"], "error: a subscription of /front/camera_info is refused by ROS 2: "),
        (["-r", "__node:=seer"], "error: the node is refused by ROS 2: "),
    ],
)
def test_what_the_enclave_does_not_permit_ends_the_node_with_one_line(start, arguments, named) -> None:
    detector = start("-c", DETECTOR, "--ros-args", "--enclave", NODE, "-p", "warm_up:=false", *arguments)
    output, _ = detector.communicate(timeout=DEADLINE)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert detector.returncode == 1 and len(errors) == 1 and errors[0].startswith(named), output
    assert "Traceback" not in output
