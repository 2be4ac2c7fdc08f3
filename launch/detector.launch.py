"""Start the detector node, and RViz on request.

    ros2 launch bevdistill_ros detector.launch.py cameras:=front,left,right fixed_frame:=odom
    ros2 launch bevdistill_ros detector.launch.py model:=/path/to/model.safetensors
    ros2 launch bevdistill_ros detector.launch.py --show-args

An argument left empty overrides nothing: what counts then is the parameter file, and below it the node's own default.
"""

from __future__ import annotations

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "bevdistill_ros"
SHARE = FindPackageShare(PACKAGE)
SWITCHES = ["", "true", "false"]

# Launch arguments that are parameters of the node under the same name.
TEXTS = ("model", "device", "image_transport", "base_frame", "fixed_frame", "calibration_file")
BOOLEANS = ("use_sim_time", "autostart")


def arguments() -> list[DeclareLaunchArgument]:
    """Everything that `--show-args` lists."""
    declare = DeclareLaunchArgument
    return [
        declare(
            "model",
            default_value="",
            description="Checkpoint file of the network, or the name of shipped weights (nano).",
        ),
        declare("namespace", default_value="", description="Namespace of the node and of its relative topics."),
        declare("name", default_value="bevdistill_detector", description="Name of the node."),
        declare(
            "cameras",
            default_value="",
            description="Camera names, separated by commas: front,left,right. Empty: the checkpoint's, in lower case.",
        ),
        declare(
            "params_file",
            default_value=PathJoinSubstitution([SHARE, "config", "detector.yaml"]),
            description="Parameter file; every parameter is explained in the default one.",
        ),
        declare("device", default_value="", description="auto, cpu, cuda or cuda:N."),
        declare(
            "image_transport", default_value="", choices=["", "compressed", "raw"], description="Kind of image topics."
        ),
        declare("base_frame", default_value="", description="Frame of the boxes, as base_link."),
        declare("fixed_frame", default_value="", description="Frame for motion compensation, as odom or map."),
        declare("calibration_file", default_value="", description="Camera calibration in place of CameraInfo or TF."),
        declare("use_sim_time", default_value="", choices=SWITCHES, description="Take the time from /clock."),
        declare("autostart", default_value="", choices=SWITCHES, description="false: leave it to a lifecycle manager."),
        declare("log_level", default_value="info", description="debug, info, warn, error or fatal."),
        declare(
            "respawn", default_value="false", choices=["true", "false"], description="Start the node again if it dies."
        ),
        declare("rviz", default_value="false", choices=["true", "false"], description="Start RViz too."),
        declare(
            "rviz_config",
            default_value=PathJoinSubstitution([SHARE, "config", "detector.rviz"]),
            description="RViz configuration.",
        ),
        declare(
            "fastdds_profile",
            default_value="",
            description="Fast DDS profile file, as config/fastdds_large_segment.xml of this package. It acts where images "
            "are published: give it to camera drivers and players first.",
        ),
    ]


def actions(context: LaunchContext) -> list[Action]:
    """The processes, with those parameters that were given: a launch file cannot leave one out conditionally."""
    value = {name: LaunchConfiguration(name).perform(context).strip() for name in context.launch_configurations}
    overrides: dict[str, bool | ParameterValue] = {}
    for name in TEXTS:
        if value[name]:  # typed, or a frame named "1" would become a number
            overrides[name] = ParameterValue(value[name], value_type=str)
    for name in BOOLEANS:
        if value[name]:
            overrides[name] = value[name] == "true"
    cameras = [name.strip() for name in value["cameras"].split(",") if name.strip()]
    if cameras:
        overrides["cameras"] = ParameterValue(cameras, value_type=list[str])
    parameters = [*([value["params_file"]] if value["params_file"] else []), *([overrides] if overrides else [])]

    found: list[Action] = []
    if value["fastdds_profile"]:
        # Fast DDS renamed the variable in version 3; each version ignores the other's.
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
            found.append(SetEnvironmentVariable(name, value["fastdds_profile"]))
    found.append(
        Node(
            package=PACKAGE,
            executable="detector",
            name=value["name"],
            namespace=value["namespace"],
            parameters=parameters,
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
            emulate_tty=True,
            respawn=value["respawn"] == "true",
            respawn_delay=2.0,
        )
    )
    if value["rviz"] == "true":
        found.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value["namespace"],
                arguments=["-d", value["rviz_config"]],
                parameters=[{"use_sim_time": value["use_sim_time"] == "true"}],
                output="log",
            )
        )
    return found


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*arguments(), OpaqueFunction(function=actions)])
