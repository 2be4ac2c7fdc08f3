"""Play the demo's drive to the detector with the shipped weights, and show it in RViz.

    ros2 run bevdistill_ros demo --output demo_output      # makes the drive, once
    ros2 launch bevdistill_ros demo.launch.py bag:=demo_output/bags/demo-0-0000
    ros2 launch bevdistill_ros demo.launch.py --show-args

It publishes on the usual topics of this ROS domain, and /clock: do not start it beside a robot.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

PACKAGE = "bevdistill_ros"
SHARE = FindPackageShare(PACKAGE)
PROFILE = PathJoinSubstitution([SHARE, "config", "fastdds_large_segment.xml"])
SWITCH = ["true", "false"]


def arguments() -> list[DeclareLaunchArgument]:
    """Everything that `--show-args` lists."""
    declare = DeclareLaunchArgument
    return [
        declare("bag", description="Folder of the drive's bag, as demo_output/bags/demo-0-0000."),
        declare(
            "model",
            default_value="",
            description="Checkpoint file, or the name of shipped weights. Empty: the default one.",
        ),
        declare("device", default_value="", description="auto, cpu, cuda or cuda:N."),
        declare(
            "params_file",
            default_value=PathJoinSubstitution([SHARE, "config", "detector.yaml"]),
            description="Parameter file of the detector.",
        ),
        declare("rate", default_value="1.0", description="Speed to play at."),
        declare("loop", default_value="true", choices=SWITCH, description="Start again at the end."),
        declare("rviz", default_value="true", choices=SWITCH, description="Start RViz too."),
        declare(
            "rviz_config",
            default_value=PathJoinSubstitution([SHARE, "config", "demo.rviz"]),
            description="RViz configuration.",
        ),
    ]


def player(context: LaunchContext) -> list[Node]:
    """The player, with those options that were asked for; everything ends with it."""
    loop = LaunchConfiguration("loop").perform(context) == "true"
    options = ["--rate", LaunchConfiguration("rate"), "--clock", "100", "--wait", *(["--loop"] if loop else [])]
    return [
        Node(
            package=PACKAGE,
            executable="play",
            arguments=[LaunchConfiguration("bag"), *options],
            # Fast DDS renamed the variable in version 3; each version ignores the other's.
            additional_env={"FASTRTPS_DEFAULT_PROFILES_FILE": PROFILE, "FASTDDS_DEFAULT_PROFILES_FILE": PROFILE},
            output="screen",
            on_exit=[Shutdown(reason="the drive has come to its end")],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    passed_on = ("model", "device", "params_file", "rviz", "rviz_config")
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "detector.launch.py"])),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in passed_on},
            "fixed_frame": "map",
            "use_sim_time": "true",
        }.items(),
    )
    return LaunchDescription([*arguments(), detector, OpaqueFunction(function=player)])
