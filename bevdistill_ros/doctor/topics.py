"""Are the topics there, of the right type, with a QoS that lets messages through, and does anything come?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from bevdistill_ros.doctor.facts import CameraFacts, Publisher, Topic
from bevdistill_ros.doctor.findings import ERROR, WARNING, Finding
from bevdistill_ros.node.parameters import Settings

RAW, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"


def check_image_topic(camera: CameraFacts, settings: Settings, topics: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """The image topic of one camera.

    Args:
        topics: every topic of the graph that has a publisher, and its types; where the wanted one is missing, similar
            ones are named.
    """
    if camera.arrivals and not camera.image.publishers:
        what = f"{len(camera.arrivals)} images came on {camera.image.name}, then its publisher went"
        return [Finding(ERROR, "topic", camera.name, what, "the driver has ended, or the bag: see its log")]
    findings = _offers(camera.name, "topic", camera.image, settings, topics)
    if not findings and not camera.arrivals:
        findings.append(
            Finding(
                ERROR,
                "topic",
                camera.name,
                f"no image came on {camera.image.name} ({_count(camera.image.publishers)})",
                "see whether the driver is running and its camera plugged in; over DDS, whether shared memory or the "
                "network loses its messages (docs/node.md, QoS and DDS)",
            )
        )
    return findings


def check_graph(cameras: Sequence[CameraFacts], topics: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Is there any image topic at all? If not, it may be that nobody is heard."""
    images = any(set(types) & {RAW, COMPRESSED} for types in topics.values())
    if images or not cameras or any(camera.arrivals for camera in cameras):
        return []
    advice = (
        "start the drivers; if they run, ROS_DOMAIN_ID, RMW_IMPLEMENTATION or ROS_AUTOMATIC_DISCOVERY_RANGE (Humble: "
        "ROS_LOCALHOST_ONLY) are not the same here as there, or the network drops multicast"
    )
    return [Finding(ERROR, "topic", "dds", "nobody publishes any image topic", advice)]


def check_info_topic(camera: CameraFacts, settings: Settings, topics: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """The CameraInfo topic of one camera, where the calibration file does not take its place."""
    if camera.info is None:
        return []
    if not camera.info.publishers and not camera.image.publishers:
        return []  # the driver is missing altogether, and the image topic's finding says so
    findings = _offers(camera.name, "camera_info", camera.info, settings, topics)
    if findings or camera.info_message is not None:
        return findings
    if any(publisher.latched for publisher in camera.info.publishers):
        advice = "publish CameraInfo with every image, or give the camera in calibration_file"
        what = f"CameraInfo on {camera.info.name} is latched and was sent before; the detector hears only new ones"
    else:
        advice = "let the driver load its calibration and publish it with every image, or give it in calibration_file"
        what = f"no CameraInfo came on {camera.info.name} ({_count(camera.info.publishers)})"
    return [Finding(ERROR, "camera_info", camera.name, what, advice)]


def check_static_transforms(publishers: tuple[Publisher, ...]) -> list[Finding]:
    """/tf_static must be latched: who listens asks for that and hears nothing of others."""
    loose = [publisher.node or "?" for publisher in publishers if not publisher.latched]
    if not loose:
        return []
    return [
        Finding(
            ERROR,
            "qos",
            "tf",
            f"{', '.join(loose)} publishes /tf_static as volatile: no listener of TF receives it",
            "publish it transient local, as tf2_ros.StaticTransformBroadcaster does; of a bag: record and play its QoS",
        )
    ]


def _offers(
    subject: str, check: str, topic: Topic, settings: Settings, topics: Mapping[str, tuple[str, ...]]
) -> list[Finding]:
    """What is wrong with a topic by the publishers it has."""
    fitting = [publisher for publisher in topic.publishers if publisher.type == topic.type]
    others = sorted({publisher.type for publisher in topic.publishers} - {topic.type})
    if not topic.publishers:
        return [_missing(subject, check, topic, topics)]
    if not fitting:
        transport = {RAW: "raw", COMPRESSED: "compressed"}.get(others[0]) if check == "topic" else None
        advice = f"set image_transport: {transport}" if transport else "name another topic, or remap"
        what = f"{topic.name} is a {', '.join(others)}, not a {topic.type}"
        return [Finding(ERROR, check, subject, what, advice)]
    findings = []
    if others:
        what = f"{topic.name} is published as {topic.type} and as {', '.join(others)}"
        findings.append(Finding(WARNING, check, subject, what, "give the two different names"))
    if len(fitting) > 1:
        nodes = ", ".join(publisher.node or "?" for publisher in fitting)
        what = f"{topic.name} has {len(fitting)} publishers ({nodes}): their messages mix"
        findings.append(
            Finding(ERROR, check, subject, what, "end all but one: two drivers, or a bag beside the driver?")
        )
    if settings.reliability == "reliable" and not all(publisher.reliable for publisher in fitting):
        what = f"{topic.name} is offered best effort, the detector asks for reliable: nothing comes of it"
        findings.append(Finding(ERROR, "qos", subject, what, "set reliability: best_effort"))
    return findings


def _missing(subject: str, check: str, topic: Topic, topics: Mapping[str, tuple[str, ...]]) -> Finding:
    """Nobody publishes it: name what there is instead."""
    what = f"nobody publishes {topic.name}"
    if topic.type == COMPRESSED and RAW in topics.get(topic.name.removesuffix("/compressed"), ()):
        return Finding(
            ERROR,
            check,
            subject,
            f"{what}, but {topic.name.removesuffix('/compressed')} is there, uncompressed",
            "set image_transport: raw, or have the driver compress (install its image_transport_plugins)",
        )
    wanted = (INFO,) if topic.type == INFO else (RAW, COMPRESSED)
    there = [name for name, types in topics.items() if set(types) & set(wanted)]
    if not there:
        return Finding(ERROR, check, subject, what, "start the driver")
    similar = difflib.get_close_matches(topic.name, there, n=3, cutoff=0.3) or sorted(there)[:3]
    parameter = "camera_info_topic" if topic.type == INFO else "image_topic"
    advice = f"set cameras, {parameter} or the namespace, or remap; there is {', '.join(similar)}"
    return Finding(ERROR, check, subject, what, advice)


def _count(publishers: tuple[Publisher, ...]) -> str:
    return f"{len(publishers)} publisher{'s' if len(publishers) != 1 else ''}"
