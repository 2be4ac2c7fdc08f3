"""For launch_testing, started by test_launched.py: the package's own launch file, its node as a process, and how it ends.

python -m launch_testing.launch_test test/node/launched_detector.py
"""

from __future__ import annotations

import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters

from bevdistill_ros.paths import share_directory

DEADLINE = 90.0
NODE = "/robot/seer"


def generate_test_description() -> LaunchDescription:
    launch_file = Path(share_directory()) / "launch" / "detector.launch.py"
    arguments = {
        "namespace": "robot",
        "name": "seer",
        "device": "cpu",
        "cameras": "a,b,c,d,e,f",
        "fixed_frame": "odom",
    }
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_file)), launch_arguments=arguments.items()
    )
    return LaunchDescription([detector, launch_testing.actions.ReadyToTest()])


class WhileItRuns(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        rclpy.init()
        cls.node = rclpy.create_node("asks")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.node.destroy_node()
        rclpy.shutdown()

    def call(self, kind: type, service: str, request):
        """The answer; asked anew where none comes, as DDS may lose it before both ends have fully met."""
        clock = self.node.get_clock()
        begun = clock.now()
        while (clock.now() - begun).nanoseconds < DEADLINE * 1e9:
            client = self.node.create_client(kind, f"{NODE}/{service}")
            try:
                if client.wait_for_service(5.0):
                    future = client.call_async(request)
                    rclpy.spin_until_future_complete(self.node, future, timeout_sec=5.0)
                    if future.done():
                        return future.result()
            finally:
                self.node.destroy_client(client)
        self.fail(f"no answer of {NODE}/{service} within {DEADLINE} s")

    def test_it_activates_itself_under_the_name_it_was_given(self, proc_output) -> None:
        proc_output.assertWaitFor("model nano on cpu", timeout=DEADLINE)
        state = None
        for _ in range(round(DEADLINE)):
            state = self.call(GetState, "get_state", GetState.Request()).current_state.id
            if state == State.PRIMARY_STATE_ACTIVE:
                break
            rclpy.spin_once(self.node, timeout_sec=1.0)
        self.assertEqual(state, State.PRIMARY_STATE_ACTIVE)

    def test_arguments_have_become_parameters(self) -> None:
        names = ["cameras", "fixed_frame", "device", "model"]
        values = self.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
        self.assertEqual(list(values[0].string_array_value), list("abcdef"))
        self.assertEqual([value.string_value for value in values[1:]], ["odom", "cpu", "nano"])


@launch_testing.post_shutdown_test()
class AfterSigint(unittest.TestCase):
    def test_exit_status_is_zero(self, proc_info) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_nothing_went_wrong(self, proc_output) -> None:
        said = "".join(line.text.decode() for process in proc_output.processes() for line in proc_output[process])
        self.assertNotIn("Traceback", said)
        self.assertIn("model nano on cpu", said)
