"""The launch file: what it offers, and that an argument left empty overrides nothing."""

from __future__ import annotations

import importlib.util

import pytest
import yaml

pytest.importorskip("launch")
pytest.importorskip("launch_ros")

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch_ros.actions import Node

from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.paths import share_directory


@pytest.fixture(scope="module")
def launch_file():
    path = share_directory() / "launch" / "detector.launch.py"
    spec = importlib.util.spec_from_file_location("detector_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def visit(launch_file, **arguments) -> list:
    """The actions that these arguments lead to."""
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    for entity in launch_file.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    return launch_file.actions(context)


def overrides(node: Node) -> dict:
    """Parameters of a node that do not come from a file."""
    context, found = LaunchContext(), {}
    from launch_ros.parameter_descriptions import ParameterFile
    from launch_ros.utilities import evaluate_parameters

    normalized = [p for p in node._Node__parameters if not isinstance(p, ParameterFile)]
    for values in evaluate_parameters(context, normalized):
        if isinstance(values, dict):
            found.update({name: list(v) if isinstance(v, tuple) else v for name, v in values.items()})
    return found


def test_arguments_are_declared_at_the_top(launch_file) -> None:
    declared = {
        e.name: e for e in launch_file.generate_launch_description().entities if isinstance(e, DeclareLaunchArgument)
    }
    wanted = "namespace model cameras params_file image_transport base_frame fixed_frame calibration_file use_sim_time"
    assert set(wanted.split()) <= set(declared)
    assert {"autostart", "rviz", "rviz_config", "fastdds_profile", "log_level"} <= set(declared)
    assert all(argument.description for argument in declared.values())


def test_empty_arguments_override_nothing(launch_file) -> None:
    (node,) = visit(launch_file)
    assert overrides(node) == {}


def test_arguments_become_parameters_of_the_right_type(launch_file) -> None:
    (node,) = visit(
        launch_file,
        model="m.safetensors",
        cameras="front, left,1",
        fixed_frame="2",
        use_sim_time="true",
        autostart="false",
    )
    expected = {"model": "m.safetensors", "cameras": ["front", "left", "1"], "fixed_frame": "2"}
    assert overrides(node) == {**expected, "use_sim_time": True, "autostart": False}
    Settings.from_values(expected)


def test_rviz_and_profile_on_request(launch_file) -> None:
    found = visit(launch_file, rviz="true", fastdds_profile="/tmp/it's.xml")
    assert [type(action) for action in found] == [SetEnvironmentVariable, SetEnvironmentVariable, Node, Node]


def test_rviz_configuration_shows_the_topics_of_the_node() -> None:
    configuration = yaml.safe_load((share_directory() / "config" / "detector.rviz").read_text())
    displays = configuration["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {"bevdistill_detector/markers", "bevdistill_detector/overlay/compressed"}
