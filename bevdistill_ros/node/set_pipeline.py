"""One set of images on its way to boxes: decode and warp, place the cameras, run the network.

Nothing here subscribes, publishes or has a lifecycle: messages come in as a ``CameraSet``, what became of them goes out
as a ``SetResult``, and troubles are reported to ``Health``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from bevdistill_ros.geometry import Boxes, Camera, reference_time
from bevdistill_ros.node import diagnostics, messages
from bevdistill_ros.node.calibration import CalibrationStore, Intrinsics, RigPoses, TransformSource
from bevdistill_ros.node.diagnostics import ERROR, WARN, Health
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.pictures import Repeats
from bevdistill_ros.runtime.staging import image_rows
from bevdistill_ros.synchroniser import MS, CameraSet
from bevdistill_ros.threads import Crew

TF_RETRY_S = 0.004


@dataclass
class SetResult:
    """What became of a set of images.

    Attributes:
        camera_set: the set.
        t_ref: its reference time, ns: the boxes are in the base frame at that moment.
        stages: milliseconds by stage, in the order in which they were gone through.
        problems: why there are no boxes, or why some camera has no part in them.
        images: the preprocessed image and its K by camera, where both could be had. They lie where the pipeline's next set will
            lie: see ``keep``.
        intrinsics: by camera, those that the images were preprocessed by.
        poses: of the cameras in ``images``; None until they are looked up.
        boxes: those found; None if too few cameras could be used.
    """

    camera_set: CameraSet
    t_ref: int
    stages: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    intrinsics: dict[str, Intrinsics] = field(default_factory=dict)
    poses: RigPoses | None = None
    boxes: Boxes | None = None

    @property
    def used(self) -> list[str]:
        """Cameras whose image and pose are known, in the rig's order."""
        known = self.poses.base_T_camera if self.poses else {}
        return [name for name in self.camera_set.cameras if name in self.images and name in known]

    def keep(self) -> SetResult:
        """The same with images of its own, for whoever looks at them beyond the pipeline's next set."""
        return replace(self, images={name: (image.copy(), K) for name, (image, K) in self.images.items()})


class SetPipeline:
    """From a set of messages to boxes; one set at a time.

    Args:
        settings: as configured, with all cameras named (``Settings.for_cameras``).
        image_topics: full topic name by camera, for the texts of troubles.
        detector: as ``bevdistill_ros.detector.Detector``.
        calibration: how the cameras image, and where their mounts are known from.
        transforms: poses of the mounts that the calibration leaves to TF.
        health: gets the troubles.
        crew: decodes and warps the images of a set side by side (OpenCV releases the GIL).
        repeats: has seen every image that came.

    Attributes:
        unusable_images: how many images could not be read, or only repeated the last one, so far.
    """

    def __init__(
        self,
        settings: Settings,
        image_topics: Mapping[str, str],
        detector: Any,
        calibration: CalibrationStore,
        transforms: TransformSource,
        health: Health,
        crew: Crew,
        repeats: Repeats,
    ) -> None:
        self._settings = settings
        self._image_topics = image_topics
        self._detector = detector
        self._calibration = calibration
        self._transforms = transforms
        self._health = health
        self._crew = crew
        self._repeats = repeats
        image = detector.config.image
        # Each picture is written into its camera's row, and the network reads the rows: nothing is copied or allocated per set.
        # A set is preprocessed when the detector has returned from the last one, and then no GPU reads the rows any more.
        shape = (len(settings.cameras), image.height, image.width, 3)
        self._images = image_rows(shape, detector.device)
        self.unusable_images = 0

    def run(self, camera_set: CameraSet, settings: Settings, stopping: threading.Event) -> SetResult:
        """Take one set as far towards boxes as its cameras allow. The images of the last set are overwritten.

        Args:
            camera_set: the images.
            settings: the present ones; only what may change at any time is taken from here.
            stopping: once set, missing transforms are no longer waited for.

        Raises:
            Exception: what the network raised, or it gave numbers that are none.
        """
        result = SetResult(camera_set, reference_time(camera_set.stamps, self._settings.reference_camera))
        begun = time.perf_counter()
        self._preprocess(result, settings)
        preprocessed = time.perf_counter()
        result.stages["preprocess"] = (preprocessed - begun) * 1e3
        self._place(result, settings, stopping)
        result.stages["transforms"] = (time.perf_counter() - preprocessed) * 1e3
        used = result.used
        needed = self._settings.min_cameras or len(self._settings.cameras) // 2 + 1
        if len(used) >= needed:
            self._detect(result, settings)
        else:
            result.problems.insert(0, f"only {len(used)} of the {needed} cameras needed can be used")
        return result

    def _preprocess(self, result: SetResult, settings: Settings) -> None:
        """Decode and warp all images of the set, side by side; troubles are reported by camera."""
        jobs = {}
        frozen: dict[str, int] = {}
        for name, message in result.camera_set.messages.items():
            repeats = self._repeats.count(name, result.camera_set.stamps[name])
            if settings.frozen_after and repeats >= settings.frozen_after and len(message.data):
                frozen[name] = repeats
                continue
            self._health.clear(name, diagnostics.FROZEN)
            intrinsics = self._calibration.intrinsics(name)
            if intrinsics is None:
                result.problems.append(f"{name}: no usable CameraInfo")
            else:
                result.intrinsics[name] = intrinsics
                row = self._images[self._settings.cameras.index(name)]
                jobs[name] = partial(self._preprocess_one, message, intrinsics.camera, row)
        for name, repeats in frozen.items():
            text = f"{repeats} images in a row hold the same picture"
            advice = (
                "see its driver; for a simulator without noise, or a still picture that is played again and again, set "
                "frozen_after to 0"
            )
            self._health.clear(name, diagnostics.IMAGE)
            self._health.report(name, diagnostics.FROZEN, f"{self._image_topics[name]} is frozen: {text}: {advice}")
            result.problems.append(f"{name}: frozen: {text}")
            self.unusable_images += 1
        for name, outcome in zip(jobs, self._crew.run(list(jobs.values()))):
            if isinstance(outcome, str):
                topic = self._image_topics[name]
                self._health.report(name, diagnostics.IMAGE, f"image on {topic} cannot be used: {outcome}")
                result.problems.append(f"{name}: image cannot be used: {outcome}")
                self.unusable_images += 1
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                result.images[name] = outcome
                self._health.clear(name, diagnostics.IMAGE)

    def _preprocess_one(self, message: Any, camera: Camera, row: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
        """The image and its K, or why it cannot be used.

        Text, because an exception that is handed on knows the frames that it came through, which know it: all images of the set
        would stay until Python next looks for such cycles.
        """
        try:
            source, size = messages.image_source(message)
            if size is not None and size != (camera.width, camera.height):
                return (
                    f"it is {size[0]}x{size[1]} pixels, but its calibration is for {camera.width}x{camera.height} "
                    "(binning and region of interest counted): calibrate for this size, or publish the right CameraInfo"
                )
            return self._detector.preprocess(source, camera, row)
        except ValueError as error:
            return str(error)
        except cv2.error as error:
            return f"OpenCV cannot decode it: {' '.join(str(error).split())}"

    def _place(self, result: SetResult, settings: Settings, stopping: threading.Event) -> None:
        """Poses of the cameras at the reference time; waits for transforms a little if they are late."""
        camera_set = result.camera_set
        mounts = {
            name: self._calibration.mount(name, camera_set.stamps[name], camera_set.messages[name].header.frame_id)
            for name in result.images
        }
        max_age_ns = round(settings.tf_max_age_ms * MS)
        give_up = time.monotonic() + settings.tf_timeout_ms / 1e3
        poses = None
        while poses is None:
            last = stopping.is_set() or time.monotonic() >= give_up
            poses = self._transforms.attempt(mounts, result.t_ref, max_age_ns, last, settings.max_speed)
            if poses is None:
                stopping.wait(TF_RETRY_S)
        result.poses = poses
        for name in mounts:
            text = poses.problems.get(name)
            if text is None:
                self._health.clear(name, diagnostics.TRANSFORM)
            else:
                level = WARN if name in poses.base_T_camera else ERROR
                self._health.report(name, diagnostics.TRANSFORM, text, level)
                result.problems.append(f"{name}: {text}")
        if poses.motion_problem:
            self._health.report("", diagnostics.MOTION, poses.motion_problem, WARN)
            result.problems.append(poses.motion_problem)
        else:
            self._health.clear("", diagnostics.MOTION)

    def _detect(self, result: SetResult, settings: Settings) -> None:
        assert result.poses is not None
        detector, cameras = self._detector, self._settings.cameras
        K = np.tile(np.eye(3), (len(cameras), 1, 1))
        base_T_camera = np.tile(np.eye(4), (len(cameras), 1, 1))
        mask = np.zeros(len(cameras), bool)
        for name in result.used:
            i = cameras.index(name)
            K[i] = result.images[name][1]
            base_T_camera[i] = result.poses.base_T_camera[name] @ result.intrinsics[name].frame_T_image
            mask[i] = True
        self._images[~mask] = 0  # the picture of an earlier set would be there
        thresholds = np.array(settings.thresholds(detector.class_names))
        boxes = detector(self._images, K, base_T_camera, mask, score_threshold=float(thresholds.min()))
        for name, milliseconds in detector.stage_times.items():
            # The detector's "decode" is of boxes; beside image decoding that would be ambiguous.
            result.stages["decode_boxes" if name == "decode" else name] = milliseconds
        finite = np.isfinite(boxes.centers).all(1) & np.isfinite(boxes.sizes).all(1) & np.isfinite(boxes.yaws)
        if not finite.all():
            raise ValueError(f"{np.count_nonzero(~finite)} of {len(boxes)} boxes of the network are not finite")
        result.boxes = boxes[boxes.scores >= thresholds[boxes.labels]][: settings.max_detections]
        self._health.clear("", diagnostics.NETWORK)
