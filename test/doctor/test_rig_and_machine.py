"""Coverage, the training's rig, shared memory, device and model."""

from dataclasses import replace

import numpy as np

from bevdistill_ros.doctor.facts import DdsFacts, DeviceFacts, ModelFacts
from bevdistill_ros.doctor.rig import gaps, seen_directions
from bevdistill_ros.training_rig import RIG, RigCamera, rig_to_plain


def test_what_is_seen_follows_from_the_angle_of_view(rig):
    wide = rig.info(k=[159.0, 0.0, 159.5, 0.0, 159.0, 95.5, 0.0, 0.0, 1.0])
    camera = rig.camera("left", wide, base_T_camera=rig.pose(100.0, (0.0, 0.0, 1.2)))
    seen = seen_directions((camera,))
    assert set(np.flatnonzero(seen)) == set(range(55, 146))  # a good 90 degrees about 100
    assert gaps(seen > 0) == [(146, 414)]


def test_gaps_of_nothing_and_everything():
    assert gaps(np.ones(360, bool)) == [] and gaps(np.zeros(360, bool)) == [(0, 359)]


def test_blind_directions_are_named(rig, finding):
    found = finding(rig(), "coverage", "rig")
    assert (
        found.severity == "note"
        and "to the left to 14" in found.what
        and "to the right, counter-clockwise" in found.what
    )


def test_fewer_cameras_than_trained_on(rig, bad, finding):
    facts = rig()
    more = replace(facts, model=replace(facts.model, cameras=("FRONT", "LEFT", "RIGHT", "BACK")))
    assert bad(more) == [("warning", "training_rig", "rig")]
    assert "holds no poses" in finding(more, "training_rig", "rig").what


def test_other_names_than_trained_on(rig, bad, finding):
    facts = rig()
    other = replace(facts, model=replace(facts.model, cameras=("CAM_A", "CAM_B")))
    assert bad(other) == [] and finding(other, "training_rig", "rig").severity == "note"


def trained(facts, **poses):
    """The facts, with a model whose file tells of a rig like this one but for the poses given, by camera."""
    views = {c.name.upper(): RigCamera(c.intrinsics.camera, poses.get(c.name, c.base_T_camera)) for c in facts.cameras}
    return replace(facts, model=replace(facts.model, training={RIG: rig_to_plain(views)}))


def test_the_views_of_the_training_are_compared(rig, bad, finding):
    facts = trained(rig())
    assert bad(facts) == [] and "holds no poses" not in finding(facts, "training_rig", "rig").what
    seen = int((seen_directions(facts.cameras) > 0).sum())
    assert f"{seen} of the {seen} degrees" in finding(facts, "training_views", "rig").what
    assert finding(facts, "training_views", "rig").severity == "ok"


def test_a_camera_that_looks_elsewhere_than_in_the_training(rig, bad, finding):
    facts = trained(rig(), left=rig.pose(180.0))
    assert bad(facts) == [("warning", "training_views", "rig")]
    what = finding(facts, "training_views", "rig").what
    assert (
        "and 80 in which it saw nothing" in what
        and "left is nearest to LEFT, but looks 80 degrees away from it" in what
    )


def test_a_camera_of_another_height_or_lens_than_in_the_training(rig, bad, finding):
    facts = trained(rig(), front=rig.pose(0.0, (0.5, 0.0, 2.2)))
    found = finding(facts, "training_views", "rig")
    assert (
        bad(facts) == [] and found.severity == "note" and "front is nearest to FRONT, but is 1.0 m lower" in found.what
    )
    wide = rig.info(k=[80.0, 0.0, 159.5, 0.0, 80.0, 95.5, 0.0, 0.0, 1.0])
    zoomed = replace(trained(rig()), cameras=rig(cameras=[rig.camera("right", wide)]).cameras)
    assert "right is nearest to RIGHT, but sees 127 degrees, not 90" in finding(zoomed, "training_views", "rig").what


def test_a_training_rig_that_is_none_is_told(rig, bad, finding):
    for damaged in ({"FRONT": {"width": 320}}, [1], {"FRONT": 3}, {"": {}}):
        facts = replace(rig(), model=replace(rig().model, training={RIG: damaged}))
        assert bad(facts) == [] and "is none" in finding(facts, "training_rig", "rig").what


def big(rig, size):
    cameras = []
    for name in ("front", "left", "right"):
        camera = rig.camera(name)
        cameras.append(replace(camera, arrivals=tuple(replace(a, size=size) for a in camera.arrivals)))
    return cameras


def from_one_node(cameras):
    player = tuple(replace(camera.image.publishers[0], node="/player") for camera in cameras)
    return [replace(c, image=replace(c.image, publishers=(p,))) for c, p in zip(cameras, player)]


def test_a_set_that_does_not_fit_a_segment(rig, bad, finding):
    cameras = from_one_node(big(rig, 300_000))
    assert bad(rig(cameras=cameras)) == [("warning", "shared_memory", "dds")]
    assert "from /player have 900 kB" in finding(rig(cameras=cameras), "shared_memory", "dds").what
    assert bad(rig(cameras=cameras, dds=DdsFacts("rmw_fastrtps_cpp", 10**9, (268_435_456,)))) == []
    assert bad(rig(cameras=cameras, dds=DdsFacts("rmw_cyclonedds_cpp", 10**9))) == []
    assert bad(rig(cameras=big(rig, 300_000))) == []  # each driver has a segment of its own


def test_no_shared_memory_left(rig, bad):
    facts = rig(cameras=big(rig, 300_000), dds=DdsFacts("rmw_fastrtps_cpp", 1_000_000))
    assert bad(facts) == [("error", "shared_memory", "dds")]


def test_device_and_model(rig, bad, finding):
    assert bad(rig(device=DeviceFacts("cuda", problem="device 'cuda' cannot be used"))) == [
        ("error", "device", "device")
    ]
    assert bad(rig(model=ModelFacts("nope", problem="no such checkpoint file"))) == [("error", "model", "model")]
    facts = rig()
    trained = replace(facts.model, training={"data": "trainset", "split": "train"})
    what = finding(replace(facts, model=trained), "model", "model").what
    assert "trained on trainset train" in what and "sha256 abababababab" in what and "cameras FRONT, LEFT" in what


def test_names_that_nobody_knows(rig, bad, finding):
    facts = rig(unknown_parameters=("base_frme",))
    assert bad(facts) == [("warning", "parameters", "rig")]
    assert finding(facts, "parameters", "rig").advice == "did you mean 'base_frame'?"
    facts = rig(calibrated=("front", "lefty"))
    assert bad(facts) == [("warning", "parameters", "rig")] and "lefty" in finding(facts, "parameters", "rig").what


def test_shipped_weights_come_with_a_note(rig):
    from bevdistill_ros.doctor.checks import examine

    facts = rig()
    found = examine(replace(facts, model=replace(facts.model, given="nano")))
    assert [f.severity for f in found if f.subject == "model"] == ["note", "ok"]
