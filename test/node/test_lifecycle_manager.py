"""The node under a lifecycle manager like nav2's: the service calls that it makes, and the state that it demands after each.

nav2's manager brings a node up by `configure` and `activate`, pauses it by `deactivate`, resumes by `activate`, resets it by
`deactivate` and `cleanup`, and takes it down by `deactivate`, `cleanup` and `shutdown`, whatever came of the ones before. It
waits for the answer to each as long as it takes and does not look at it, then asks for the state, to be answered within 2 s (5 s
from Kilted on), and gives up if it is not the one of its table. Without a bond (`bond_timeout` 0) it wants nothing else. So its
source has it, from Humble to Lyrical, and docs/node.md tells what was seen of the real one.
"""

from __future__ import annotations

import threading
import time

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter

DEADLINE = 60.0
CAMERAS = ["front", "left", "right"]
OUT = "/bevdistill_detector"

CONFIGURE = Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE
ACTIVATE = Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE
CLEANUP = Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED
SHUTDOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, State.PRIMARY_STATE_FINALIZED
START = (CONFIGURE, ACTIVATE)
RESET = (DEACTIVATE, CLEANUP)


class Manager:
    """Calls the services of the bench's node, which is spun by another thread."""

    def __init__(self, bench) -> None:
        self._bench = bench
        self._change, self._get = self._client(ChangeState, "change_state"), self._client(GetState, "get_state")

    def _client(self, kind: type, name: str):
        deadline = time.monotonic() + DEADLINE
        found = self._bench.listener.create_client(kind, f"{OUT}/{name}")
        while not found.wait_for_service(5.0):  # DDS may lose the meeting: introduce them again
            assert time.monotonic() < deadline
            self._bench.listener.destroy_client(found)
            found = self._bench.listener.create_client(kind, f"{OUT}/{name}")
        return found

    def _call(self, client, request):
        """The answer, or None: DDS may lose one that is given before the two ends have fully met."""
        ready, future = threading.Event(), client.call_async(request)
        future.add_done_callback(lambda _: ready.set())
        self._bench.executor.wake()
        return future.result() if ready.wait(5.0) else None

    def change(self, transition: int) -> bool | None:
        answer = self._call(self._change, ChangeState.Request(transition=Transition(id=transition)))
        return None if answer is None else answer.success

    def state(self) -> int | None:
        answer = self._call(self._get, GetState.Request())
        return None if answer is None else answer.current_state.id

    def comes_to(self, state: int) -> bool:
        deadline = time.monotonic() + DEADLINE
        while self.state() != state:
            if time.monotonic() > deadline:
                return False
        return True

    def does(self, *steps: tuple[int, int]) -> None:
        """What was lost on the way is asked for again; of a request that was done already, the state tells."""
        for transition, state in steps:
            deadline = time.monotonic() + DEADLINE
            while True:
                answer = self.change(transition)
                if (found := self.state()) == state:
                    break
                lost = answer is None or found is None
                assert lost and time.monotonic() < deadline, f"transition {transition}: {answer}, state {found}"


@pytest.fixture
def managed(make_bench):
    bench = make_bench(CAMERAS, autostart=False)
    bench.spin()
    return bench, Manager(bench)


def test_nav2s_sequence_of_calls(managed) -> None:
    bench, manager = managed
    manager.does(*START)
    manager.does(DEACTIVATE)  # pause
    manager.does(ACTIVATE)  # resume
    manager.does(*RESET)
    manager.does(*START)
    manager.does(*RESET, SHUTDOWN)
    assert len(bench.loaded) == 2  # the model is given back by cleanup, kept by deactivate


@pytest.mark.parametrize("before", [(), (CONFIGURE,), START])
def test_it_takes_down_a_node_in_any_state(managed, before) -> None:
    """It asks for all three transitions, also for those that the state does not have."""
    bench, manager = managed
    manager.does(*before)
    for transition, _ in RESET:
        # The answer may be lost; then it is asked again, and refused if it was done.
        assert any(manager.change(transition) is not None for _ in range(12))
    manager.does(SHUTDOWN)
    assert len(bench.loaded) == bool(before)


def test_a_node_that_cannot_be_brought_up_says_so_and_can_be_later(managed) -> None:
    bench, manager = managed
    model = lambda name: bench.node.set_parameters([Parameter("model", value=name)])  # noqa: E731
    assert all(result.successful for result in model(""))
    answer = manager.change(CONFIGURE[0])
    assert not answer and manager.comes_to(State.PRIMARY_STATE_UNCONFIGURED) and not bench.loaded
    assert all(result.successful for result in model("fake"))
    manager.does(*START)
    assert bench.loaded


def test_a_transition_that_is_none_of_its_state_changes_nothing(managed) -> None:
    _, manager = managed
    assert not manager.change(ACTIVATE[0]) and manager.comes_to(State.PRIMARY_STATE_UNCONFIGURED)
    manager.does(*START)
    assert not manager.change(CONFIGURE[0]) and manager.comes_to(State.PRIMARY_STATE_ACTIVE)
