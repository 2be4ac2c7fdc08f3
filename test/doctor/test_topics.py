"""Topics: missing, of another type, doubled, silent, with a QoS that does not fit."""

from dataclasses import replace

from bevdistill_ros.doctor.facts import Publisher, Topic

IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
NOTHING = {
    "arrivals": (), "sizes": (), "picture": None, "info_message": None, "intrinsics": None, "base_T_camera": None, "frame": "",
}  # fmt: skip


def image(*publishers):
    return Topic("/left/image_raw/compressed", COMPRESSED, publishers)


def test_nobody_publishes_at_all(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", image=image(), info=Topic("/left/camera_info", INFO), **NOTHING)])
    assert bad(facts) == [("error", "topic", "left")]  # that the driver is missing is told once
    assert finding(facts, "topic", "left").what == "nobody publishes /left/image_raw/compressed"
    silent = [rig.camera(n, image=image(), info=Topic("/info", INFO), **NOTHING) for n in ("front", "left", "right")]
    facts = rig(cameras=silent)
    assert bad(facts)[0] == ("error", "topic", "dds") and len(bad(facts)) == 4
    assert "ROS_DOMAIN_ID" in finding(facts, "topic", "dds").advice


def test_camera_info_alone_is_missing(rig, bad):
    camera = rig.camera("left", info=Topic("/left/camera_info", INFO), info_message=None, intrinsics=None)
    assert bad(rig(cameras=[camera])) == [("error", "camera_info", "left")]


def test_a_publisher_that_went(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", image=image(), info=Topic("/left/camera_info", INFO))])
    assert bad(facts) == [("error", "topic", "left")]
    assert (
        finding(facts, "topic", "left").what == "30 images came on /left/image_raw/compressed, then its publisher went"
    )


def test_a_topic_of_a_similar_name_is_named(rig, finding):
    topics = {
        "/rig/left/image_raw/compressed": (COMPRESSED,),
        "/rig/up/image_raw/compressed": (COMPRESSED,),
        "/chatter": ("x",),
    }
    facts = rig(cameras=[rig.camera("left", image=image(), **NOTHING)], topics=topics)
    advice = finding(facts, "topic", "left").advice
    assert "there is /rig/left/image_raw/compressed" in advice and "chatter" not in advice


def test_only_the_raw_topic_is_there(rig, finding):
    facts = rig(cameras=[rig.camera("left", image=image(), **NOTHING)], topics={"/left/image_raw": (IMAGE,)})
    assert finding(facts, "topic", "left").advice.startswith("set image_transport: raw")


def test_wrong_type(rig, finding):
    facts = rig(cameras=[rig.camera("left", image=image(Publisher("/driver", IMAGE)), **NOTHING)])
    assert finding(facts, "topic", "left").what == f"/left/image_raw/compressed is a {IMAGE}, not a {COMPRESSED}"
    assert finding(facts, "topic", "left").advice == "set image_transport: raw"
    info = Topic("/left/camera_info", INFO, (Publisher("/driver", IMAGE),))
    assert finding(rig(cameras=[rig.camera("left", info=info)]), "camera_info", "left").severity == "error"


def test_two_types_on_one_topic(rig, bad):
    both = image(Publisher("/a", IMAGE), Publisher("/b", COMPRESSED))
    assert bad(rig(cameras=[rig.camera("left", image=both)])) == [("warning", "topic", "left")]


def test_two_publishers(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", image=image(Publisher("/a", COMPRESSED), Publisher("/b", COMPRESSED)))])
    assert bad(facts) == [("error", "topic", "left")]
    assert "2 publishers (/a, /b)" in finding(facts, "topic", "left").what


def test_a_silent_publisher(rig, bad, finding):
    facts = rig(cameras=[rig.camera("left", **NOTHING)])
    assert bad(facts) == [("error", "topic", "left"), ("error", "camera_info", "left")]
    assert finding(facts, "topic", "left").what == "no image came on /left/image_raw/compressed (1 publisher)"


def test_best_effort_offered_and_reliable_asked(rig, bad):
    facts = rig({"reliability": "reliable"})
    assert bad(facts) == [("error", "qos", name) for name in ("front", "left", "right")]
    reliable = [
        rig.camera(n, image=Topic(f"/{n}/image_raw/compressed", COMPRESSED, (Publisher("/d", COMPRESSED),)))
        for n in ("front", "left", "right")
    ]
    assert bad(rig({"reliability": "reliable"}, reliable)) == []


def test_latched_camera_info_was_sent_before(rig, finding):
    camera = rig.camera("left", info_message=None, intrinsics=None)
    camera = replace(camera, info=Topic("/left/camera_info", INFO, (Publisher("/d", INFO, latched=True),)))
    assert "latched" in finding(rig(cameras=[camera]), "camera_info", "left").what


def test_volatile_static_transforms(rig, bad):
    facts = rig(static_publishers=(Publisher("/bag_player", "tf2_msgs/msg/TFMessage"),))
    assert bad(facts) == [("error", "qos", "tf")]


def test_a_calibration_file_needs_no_camera_info(rig, bad):
    assert bad(rig(cameras=[rig.camera("left", info=None, info_message=None, mount_from_file=True)])) == []
