"""A dataset's keyframes, played as a bag over DDS to the detector node: are its boxes those of the offline detector?

Needs a ROS 2 environment (sourced) beside the package. `largest_difference` is what benchmark/keyframe.py reports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bevdistill_ros.detector import Detector
from bevdistill_ros.geometry import Boxes, wrap_angle
from bevdistill_ros.paths import large_segment
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes

PATIENCE_S = 120.0
VERB = [sys.executable, "-c", "import sys; from bevdistill_ros.cli import main; sys.exit(main())"]


def largest_difference(
    model: Path, data: Path, bag: Path, threshold: float = 0.3, repeats: int = 4, period_s: float = 2.0
) -> dict:
    """Play a dataset's first keyframe to the node and compare.

    Args:
        bag: folder for the bag, replaced.
        threshold: score from which boxes are compared.
        repeats: how often the keyframe is played.
        period_s: time between two; slow enough for two CPU cores, so that no set is superseded.

    Returns:
        ``node_vs_offline_max_abs``: greatest difference of any number of any box (m, rad, m/s, score); ``node_boxes`` and
        ``node_sets`` compared.
    """
    nusc = open_nuscenes(data, "v1.0-mini")
    detector = Detector.from_checkpoint(model)
    samples = NuScenesSamples(
        nusc, choose_samples(nusc)[:1], detector.class_names, detector.preprocess, detector.cameras
    )
    sample = samples[0]
    offline = detector(sample.images, sample.K, sample.ego_T_cam, sample.mask, score_threshold=threshold)
    shutil.rmtree(bag, ignore_errors=True)
    repeat = ["--repeat", str(repeats), "--period", str(period_s), "--output", str(bag)]
    subprocess.run([*VERB, "convert", "--from-nuscenes", str(data), "--version", "v1.0-mini", *repeat], check=True)
    data_of = nusc.get("sample", sample.token)["data"]
    stagger = {
        c.lower(): (nusc.get("sample_data", data_of[c])["timestamp"] * 1000 - sample.t_ref) / 1e6
        for c in samples.cameras
    }
    received = _play_to_node(model, bag, stagger, threshold, repeats)
    offsets = [round(i * period_s * 1e9) for i in range(repeats)]
    worst, compared = 0.0, 0
    for stamp, boxes in received:
        if stamp - sample.t_ref not in offsets:
            raise SystemExit(f"the node published for {stamp} ns, which is no reference time of the bag")
        worst = max(worst, difference(boxes, offline))
        compared += len(boxes)
    return {"node_vs_offline_max_abs": worst, "node_boxes": compared, "node_sets": len(received)}


TIE = 1e-5
"""Scores that differ by less may change places: sums of a network round differently with another number of threads."""


def difference(a: Boxes, b: Boxes) -> float:
    """Greatest difference of any number of a box of either from the likest of the other of its class; infinite where there is none.

    Not by rank: of boxes with equal scores any may come first, and of those with the lowest score some may have been cut off.
    """
    if len(a) != len(b):
        return float("inf")
    if not len(a):
        return 0.0
    pairs = [
        a.centers[:, None] - b.centers,
        a.sizes[:, None] - b.sizes,
        wrap_angle(a.yaws[:, None] - b.yaws)[..., None],
        a.velocities[:, None] - b.velocities,
        (a.scores[:, None] - b.scores)[..., None],
    ]
    apart = np.abs(np.concatenate(pairs, axis=2)).max(axis=2)  # (len(a), len(b))
    apart[np.array(a.names)[:, None] != np.array(b.names)] = np.inf
    cut = max(a.scores.min(), b.scores.min()) + TIE
    of_a, of_b = apart.min(axis=1)[a.scores > cut], apart.min(axis=0)[b.scores > cut]
    return float(max(of_a.max(initial=0.0), of_b.max(initial=0.0)))


def _play_to_node(
    model: Path, bag: Path, stagger_ms: dict[str, float], threshold: float, repeats: int
) -> list[tuple[int, Boxes]]:
    """Run node and player as processes of their own; what the node published, with its stamps."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 1))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    import rclpy
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from vision_msgs.msg import LabelInfo

    from bevdistill_ros.msg import DetectedObjectArray

    parameters = {
        "model": str(model),
        "device": "cpu",
        "backend": "torch",  # as offline
        "cameras": "[" + ",".join(stagger_ms) + "]",
        "fixed_frame": "map",
        "score_threshold": str(threshold),
        "max_detections": "500",
        "deadline_ms": "1000.0",
        "tolerance_ms": "20.0",
        "tf_timeout_ms": "5000.0",  # on a busy machine the odometry may come late
        "frozen_after": "0",  # the bag shows one moment again and again
        # Left out, they would be learnt, for which this bag is too short.
        "camera_offsets_ms": "[" + ",".join(f"{ms:.3f}" for ms in stagger_ms.values()) + "]",
    }
    arguments = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init()
    received: list[tuple[int, Boxes]] = []
    node = rclpy.create_node("listener")
    classes = Detector.from_checkpoint(model).class_names

    def listen(message: DetectedObjectArray) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        received.append((stamp, boxes_of(message, classes)))

    node.create_subscription(DetectedObjectArray, "/bevdistill_detector/objects", listen, QoSProfile(depth=100))
    # The node publishes its labels when it is activated: once they arrive, what it publishes does.
    labels: list[LabelInfo] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(LabelInfo, "/bevdistill_detector/labels", labels.append, latched)
    processes = [subprocess.Popen([*VERB, "detector", "--ros-args", *arguments])]
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not labels and time.monotonic() < give_up and processes[0].poll() is None:
            rclpy.spin_once(node, timeout_sec=0.2)
        # Slowly, so that a busy machine answers every set before the next.
        play = [*VERB, "play", str(bag), "--wait", "--rate", "0.25"]
        processes.append(subprocess.Popen(play, env={**os.environ, **large_segment()}))
        give_up = time.monotonic() + PATIENCE_S
        while len(received) < repeats and time.monotonic() < give_up:
            rclpy.spin_once(node, timeout_sec=0.2)
            if processes[0].poll() is not None:
                raise SystemExit("the node ended early")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        node.destroy_node()
        rclpy.shutdown()
    if len(received) < repeats:
        raise SystemExit(f"the node published {len(received)} of {repeats} sets within {PATIENCE_S:.0f} s")
    return received


def boxes_of(message, class_names: tuple[str, ...]) -> Boxes:
    """Boxes of a DetectedObjectArray message."""
    if not message.objects:
        return Boxes.empty(class_names)
    rows = []
    for o in message.objects:
        p, q = o.pose.position, o.pose.orientation
        yaw = np.arctan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y**2 + q.z**2))
        rows.append([p.x, p.y, p.z, o.size.x, o.size.y, o.size.z, yaw, o.velocity.x, o.velocity.y, o.score])
    table = np.array(rows)
    labels = [class_names.index(o.class_name) for o in message.objects]
    return Boxes(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7:9], table[:, 9], labels, class_names)
