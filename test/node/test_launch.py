"""The launch files: what they offer, and that an argument left empty overrides nothing."""

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


def load(name: str):
    """A launch file as a module."""
    path = share_directory() / "launch" / name
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def launch_file():
    return load("detector.launch.py")


@pytest.fixture(scope="module")
def demo_file():
    return load("demo.launch.py")


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


@pytest.mark.parametrize(
    ("name", "more"), [("detector.rviz", set()), ("demo.rviz", {"lidar_top/points"})], ids=["detector", "demo"]
)
def test_rviz_configuration_shows_the_topics_of_the_node(name, more) -> None:
    configuration = yaml.safe_load((share_directory() / "config" / name).read_text())
    displays = configuration["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {"bevdistill_detector/markers", "bevdistill_detector/overlay/compressed", *more}


# ------------------------------------------------------------------------------------------------------------- the demo


def visit_demo(demo_file, **arguments) -> tuple[list[Node], LaunchContext]:
    """The nodes that these arguments lead to, those of the detector's launch file included."""
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    nodes = []

    def walk(entities) -> None:
        for entity in entities:
            if isinstance(entity, Node):  # visiting one would start it
                nodes.append(entity)
            else:
                walk(entity.visit(context) or [])

    walk(demo_file.generate_launch_description().entities)
    return nodes, context


def options_of(node: Node, context: LaunchContext) -> list[str]:
    """What follows the executable, which need not be installed; node.cmd holds lists of substitutions."""
    return ["".join(map(context.perform_substitution, word)) for word in node.cmd[1:]]


def test_the_demo_plays_a_bag_to_the_detector_in_simulated_time(demo_file) -> None:
    (detector, player), context = visit_demo(
        demo_file, bag="/bags/demo-0-0000", rviz="false", model="m.safetensors", rate="0.5", loop="false"
    )
    assert overrides(detector) == {"model": "m.safetensors", "fixed_frame": "map", "use_sim_time": True}
    assert (detector.node_executable, player.node_executable) == ("detector", "play")
    assert options_of(player, context)[:6] == ["/bags/demo-0-0000", "--rate", "0.5", "--clock", "100", "--wait"]
    profile = str(share_directory() / "config" / "fastdds_large_segment.xml")
    environment = {
        context.perform_substitution(name[0]): context.perform_substitution(value[0])
        for name, value in player.additional_env
    }
    assert set(environment.values()) == {profile}


def test_the_demo_uses_the_shipped_weights_and_shows_rviz_unless_told_otherwise(demo_file) -> None:
    (detector, rviz, player), context = visit_demo(demo_file, bag="/bags/demo-0-0000")
    assert overrides(detector) == {"fixed_frame": "map", "use_sim_time": True}
    assert rviz.node_executable == "rviz2"
    assert str(share_directory() / "config" / "demo.rviz") in options_of(rviz, context)
    assert "--loop" in options_of(player, context)


def test_the_demo_asks_for_a_bag(demo_file) -> None:
    with pytest.raises(RuntimeError, match="bag"):
        visit_demo(demo_file)
