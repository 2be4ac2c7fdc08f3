"""Parameters: types as YAML gives them, ranges, contradictions, changes at run time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterType
from rclpy.context import Context
from rclpy.parameter import Parameter

from bevdistill_ros.errors import UserError
from bevdistill_ros.node import parameters
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.paths import share_directory


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("score_threshold", 1, 1.0),  # YAML's 1 is an integer
        ("score_threshold", 0.25, 0.25),
        ("camera_offsets_ms", [0, 8, 15], (0.0, 8.0, 15.0)),
        ("camera_offsets_ms", [], ()),
        ("cameras", [], ()),
        ("cameras", b"", ()),  # an empty list arrives as bytes,
        ("cameras", None, ()),  # or from a file as no value
        ("cameras", ["a", "b"], ("a", "b")),
        ("queue_depth", 3, 3),
        ("publish_markers", False, False),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_values_are_taken_for_what_they_mean(name, value, expected) -> None:
    found = getattr(Settings.from_values({name: value}), name)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", 1.5),
        ("score_threshold", -0.1),
        ("score_threshold", math.nan),
        ("score_threshold", "0.3"),
        ("score_threshold", True),
        ("score_threshold", None),
        ("queue_depth", 2.0),
        ("queue_depth", True),
        ("queue_depth", 0),
        ("publish_markers", "yes"),
        ("publish_markers", 1),
        ("cameras", "front"),
        ("cameras", [1, 2]),
        ("cameras", ["a", "a"]),
        ("cameras", ["a", ""]),
        ("camera_offsets_ms", [0.0, math.inf]),
        ("image_transport", "theora"),
        ("backend", "tensorrt"),
        ("execution", "fast"),
        ("onnx_providers", []),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("base_frame", ""),
        ("model", 3),
        ("class_score_thresholds", ["car"]),
        ("class_score_thresholds", ["car:2"]),
        ("class_score_thresholds", [":0.5"]),
        ("class_score_thresholds", ["car:nan"]),
    ],
)
def test_wrong_values_are_refused_by_name(name, value) -> None:
    with pytest.raises(UserError, match=f"'{name}'"):
        Settings.from_values({name: value})


def test_thresholds_by_class() -> None:
    settings = Settings.from_values({"score_threshold": 0.4, "class_score_thresholds": ["b:0.1"]})
    assert settings.thresholds(("a", "b", "c")) == [0.4, 0.1, 0.4]
    with pytest.raises(UserError, match="names the class 'b', but the model knows a, c"):
        settings.thresholds(("a", "c"))


def test_cameras_come_from_the_checkpoint_unless_given() -> None:
    assert Settings().for_cameras(("X", "y")).cameras == ("x", "y")  # topics are in lower case
    assert Settings().for_cameras(("x", "y")).reference_camera == "x"
    assert Settings(cameras=("p", "q"), reference_camera="q").for_cameras(("x",)).reference_camera == "q"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"reference_camera": "z"}, "'reference_camera' is 'z'"),
        ({"camera_offsets_ms": [1.0]}, "1 values for 2 cameras"),
        ({"min_cameras": 3}, "'min_cameras' is 3, but there are 2"),
        ({"image_topic": "/image"}, "'image_topic' is '/image': it must hold {camera}"),
    ],
)
def test_contradictions_are_named(values, text) -> None:
    with pytest.raises(UserError) as caught:
        Settings.from_values(values).for_cameras(("x", "y"))
    assert text in str(caught.value)


def test_topics() -> None:
    assert Settings().image_topic_of("cam") == "cam/image_raw/compressed"
    assert Settings(image_transport="raw").image_topic_of("cam") == "cam/image_raw"
    assert Settings(image_topic="/rig/{camera}/jpeg").image_topic_of("cam") == "/rig/cam/jpeg"
    assert Settings().camera_info_topic_of("cam") == "cam/camera_info"


def test_changes_at_run_time() -> None:
    def refusal(unconfigured: bool, **changes) -> str:
        return parameters.refusal(Settings(model="m"), changes, unconfigured, None if unconfigured else ("car",))

    assert refusal(False, score_threshold=0.5) == ""
    assert refusal(False, class_score_thresholds=["car:0.2"]) == ""
    assert "knows car" in refusal(False, class_score_thresholds=["bus:0.2"])
    assert "while the node is unconfigured" in refusal(False, model="other")
    assert refusal(False, model="m") == ""  # no change
    assert refusal(True, model="other") == ""
    assert "'queue_depth'" in refusal(True, queue_depth=0)
    assert refusal(False, use_sim_time=True) == ""  # not ours
    assert "cannot be removed" in refusal(True, cameras=None)


def test_parameter_file_holds_every_parameter_at_its_default() -> None:
    path = share_directory() / "config" / "detector.yaml"
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    assert set(values) == {spec.name for spec in dataclasses.fields(Settings)}
    assert Settings.from_values(values) == Settings()


@pytest.fixture
def context(ros_domain):
    context = Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()


def node_with(context: Context, **values):
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    return rclpy.create_node("parameters", context=context, use_global_arguments=False, parameter_overrides=overrides)


def test_declaring_takes_overrides_and_describes(context) -> None:
    node = node_with(context, score_threshold=1, cameras=["a"], camera_offsets_ms=[])
    settings = parameters.declare(node)
    assert settings == Settings(score_threshold=1.0, cameras=("a",))
    assert parameters.read(node) == settings
    described = node.describe_parameter("score_threshold")
    assert described.description and described.floating_point_range[0].to_value == 1.0
    assert node.describe_parameter("autostart").read_only and not node.describe_parameter("model").read_only
    assert node.describe_parameter("queue_depth").integer_range[0].from_value == 1
    for spec in dataclasses.fields(Settings):
        assert node.describe_parameter(spec.name).description, spec.name
        assert node.describe_parameter(spec.name).type != ParameterType.PARAMETER_NOT_SET
    node.destroy_node()


@pytest.mark.parametrize("values", [{"score_threshold": 7.0}, {"queue_depth": 0}, {"warm_up": "no"}, {"cameras": "a"}])
def test_declaring_refuses_wrong_overrides(context, values) -> None:
    node = node_with(context, **values)
    with pytest.raises(UserError, match=next(iter(values))):
        parameters.declare(node)
    node.destroy_node()
