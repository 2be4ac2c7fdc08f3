"""What the node remembers of troubles and how it tells them."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from bevdistill_ros.node import diagnostics
from bevdistill_ros.node.diagnostics import ERROR, WARN, Health, Trouble


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Health, Clock, list[str]]:
    clock, logged = Clock(), []
    health = Health(lambda text, level: logged.append(text), clock)
    health.watch({"a": ("/a/image", "/a/info"), "b": ("/b/image", "")})
    return health, clock, logged


def texts(health: Health, camera: str, **arguments) -> list[str]:
    return [trouble.text for trouble in health.troubles(camera, **arguments)]


def test_silent_cameras_and_wrong_names_are_told_apart() -> None:
    health, _, _ = make()
    publishers = {"/a/image": 0, "/a/info": 2, "/b/image": 1}.__getitem__
    assert texts(health, "a", publishers=publishers) == [
        "no image has come on /a/image (nobody publishes it: check the name and namespace)",
        "no CameraInfo has come on /a/info (2 publishers)",
    ]
    assert texts(health, "b", publishers=publishers) == [
        "no image has come on /b/image (1 publisher)"
    ]  # info from a file


def test_camera_that_falls_silent_is_told_with_its_age() -> None:
    health, clock, _ = make()
    for _ in range(11):
        health.image_seen("b")
        clock.now += 0.1
    assert texts(health, "b") == [] and health.camera_values("b")["rate (Hz)"] == "10.00"
    clock.now += 2.0
    assert texts(health, "b") == ["no image for 2.1 s on /b/image"] and "rate (Hz)" not in health.camera_values("b")
    gone = health.troubles("b", lambda topic: 0)[0].text
    assert gone == "no image for 2.1 s on /b/image (its publisher has gone)"
    health.image_seen("b")
    assert texts(health, "b") == []


def test_troubles_stay_until_cleared_and_are_logged_now_and_then() -> None:
    health, clock, logged = make()
    for _ in range(100):
        health.report("b", diagnostics.TRANSFORM, "no transform")
        health.report("", diagnostics.NETWORK, "failed")
        clock.now += 0.25
    assert logged == ["b: no transform", "failed"] * 3
    assert "no transform" in texts(health, "b") and texts(health, "") == ["failed"]
    health.clear("b", diagnostics.TRANSFORM)
    health.clear("b", diagnostics.TRANSFORM)
    assert "no transform" not in texts(health, "b")


def test_watching_anew_forgets_the_cameras_but_not_the_node() -> None:
    health, _, _ = make()
    health.report("a", diagnostics.IMAGE, "torn")
    health.report("", diagnostics.MODEL, "no model")
    health.watch({"a": ("/a/image", "")})
    assert texts(health, "a") == ["no image has come on /a/image"] and texts(health, "") == ["no model"]
    health.image_seen("stranger")  # a late message of an earlier activation


def test_message_has_the_worst_level_and_every_text() -> None:
    status = diagnostics.status_message("n", "h", [Trouble(WARN, "w"), Trouble(ERROR, "e")], "fine", {"k": "v"})
    assert status.level == DiagnosticStatus.ERROR and status.message == "w; e"
    assert [(pair.key, pair.value) for pair in status.values] == [("k", "v")]
    well = diagnostics.status_message("n", "h", [], "fine", {})
    assert well.level == DiagnosticStatus.OK and well.message == "fine"
    assert diagnostics.diagnostic_array(Time(sec=3), [well]).header.stamp.sec == 3
