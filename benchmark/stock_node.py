"""A detector node as one writes it first: message_filters' ApproximateTimeSynchronizer, cv_bridge, everything in the callback.

    python benchmark/stock_node.py --model nano --threads 0 -- [options of `bench` that name the pictures]

Run by benchmark/speed.py beside the real node, on the same pictures. Where the cameras are it is told by those pictures' source
rather than by TF and CameraInfo, which spares it work. Message_filters and cv_bridge are those of the ROS 2 that is sourced.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import message_filters
import rclpy
import torch
from cv_bridge import CvBridge
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection3DArray

from bevdistill_ros.bench.command import make_parser, read_sets
from bevdistill_ros.bench.end_to_end import DETECTIONS
from bevdistill_ros.bench.pipeline import SCORE, Pipeline
from bevdistill_ros.bench.publish import BASE_FRAME, camera_names
from bevdistill_ros.bench.straightforward import StraightforwardDetector
from bevdistill_ros.detector import Detector
from bevdistill_ros.node.messages import detections
from bevdistill_ros.paths import model_path

QUEUE, SLOP_S = 10, 0.1
"""Of the synchroniser, as in its tutorials."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("source", nargs="*")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    sets, _ = read_sets(make_parser().parse_args(options.source), ())
    loaded = Detector.from_checkpoint(model_path(options.model), options.device)
    detector = StraightforwardDetector(loaded.network, loaded.device)
    pipeline = Pipeline(loaded, 1, loaded.network)
    images, *calibration = pipeline.tensors(sets[0])
    pipeline.close()
    detector.calibrate(*calibration, images.shape[2:4])
    detector(sets[0], SCORE)  # the first run is slow

    rclpy.init()
    node = rclpy.create_node("stock_detector")
    publisher = node.create_publisher(Detection3DArray, DETECTIONS, 5)
    bridge = CvBridge()

    def detect(*messages: Any) -> None:
        pictures = [bridge.compressed_imgmsg_to_cv2(message) for message in messages]
        boxes = detector.detect(pictures, sets[0].cameras, SCORE)
        stamp = messages[0].header.stamp
        publisher.publish(detections(boxes, stamp.sec * 10**9 + stamp.nanosec, BASE_FRAME))

    topics = [f"{name}/image_raw/compressed" for name in camera_names(sets[0])]
    filters = [
        message_filters.Subscriber(node, CompressedImage, topic, qos_profile=qos_profile_sensor_data)
        for topic in topics
    ]
    message_filters.ApproximateTimeSynchronizer(filters, QUEUE, SLOP_S).registerCallback(detect)
    try:
        rclpy.spin(node)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
