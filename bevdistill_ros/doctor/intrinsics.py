"""Is what CameraInfo says of a camera plausible? That it is usable at all, ``camera_info.py`` has decided."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from bevdistill_ros.doctor.facts import CameraFacts
from bevdistill_ros.doctor.findings import ERROR, NOTE, WARNING, Finding
from bevdistill_ros.geometry import DISTORTION_MODELS, Camera
from bevdistill_ros.node.parameters import Settings

ASPECT = 0.05
"""Greatest difference of fx / fy from 1: pixels of cameras are square."""
CENTRE = 0.2
"""Greatest distance of the principal point from the middle, as a share of the size."""
NARROW_DEG, WIDE_DEG = 15.0, 150.0
"""Angles of view beyond these are those of a K for another image size (or of a special lens)."""
TURN_DEG = 1.0


def check_intrinsics(camera: CameraFacts, settings: Settings) -> list[Finding]:
    """K, P, distortion, binning and region of interest of one camera."""
    if camera.intrinsics_problem:
        return [_unusable(camera)]
    if camera.intrinsics is None:
        return []
    return [*_plausible_K(camera.name, camera.intrinsics.camera), *_fields(camera, settings)]


def _unusable(camera: CameraFacts) -> Finding:
    text = camera.intrinsics_problem
    advice = "calibrate the camera (camera_calibration), and let its driver load the result; or use calibration_file"
    info = camera.info_message
    if info is not None and info.distortion_model and info.distortion_model not in DISTORTION_MODELS:
        known = ", ".join(DISTORTION_MODELS)
        advice = f"calibrate with one of {known} (a fisheye lens: equidistant), or publish rectified images"
    elif info is not None and text.startswith("field p"):
        advice = "P holds with rectified: true; where only K is filled, and images are raw, set rectified: false"
    return Finding(ERROR, "camera_info", camera.name, f"CameraInfo is unusable: {text}", advice)


def _plausible_K(name: str, camera: Camera) -> list[Finding]:
    """K, for the images as they arrive."""
    findings = []
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    if not 1 - ASPECT < fx / fy < 1 + ASPECT:
        what = f"fx and fy differ: {fx:.1f} and {fy:.1f}, a ratio of {fx / fy:.2f}"
        advice = "one axis was scaled, or an interlaced or stretched mode calibrated: calibrate in the mode you use"
        findings.append(Finding(WARNING, "K", name, what, advice))
    if not (-0.5 <= cx <= camera.width - 0.5 and -0.5 <= cy <= camera.height - 0.5):
        what = f"the principal point ({cx:.0f}, {cy:.0f}) is outside of the {camera.width}x{camera.height} image"
        advice = "K is for another image size: scale it, or say so by binning and roi"
        findings.append(Finding(ERROR, "K", name, what, advice))
    elif abs(cx / camera.width - 0.5) > CENTRE or abs(cy / camera.height - 0.5) > CENTRE:
        what = f"the principal point ({cx:.0f}, {cy:.0f}) is far from the middle of {camera.width}x{camera.height}"
        advice = "K is for another image size or crop? Scale it, or say so by binning and roi"
        findings.append(Finding(WARNING, "K", name, what, advice))
    pinhole = camera.distortion_model != "equidistant"
    angle = view_angle(camera)
    if angle < NARROW_DEG or (pinhole and angle > WIDE_DEG):
        what = f"its angle of view would be {angle:.0f} degrees (fx {fx:.0f}, width {camera.width})"
        advice = "K is for another image size, or a fisheye lens was calibrated as plumb_bob"
        findings.append(Finding(WARNING, "K", name, what, advice))
    cornerless = bool(np.isnan(_border_rays(camera)[2:]).any())
    if cornerless and not pinhole:
        what = "the fisheye's corners lie 90 degrees or more from the axis: they stay black to the network"
        findings.append(Finding(NOTE, "distortion", name, what, "nothing, if the lens is so wide"))
    elif cornerless:
        what = f"its {camera.distortion_model} polynomial folds back inside of the image: no ray belongs to the corners"
        advice = "calibrate with points up to the corners, or with rational_polynomial or equidistant"
        findings.append(Finding(WARNING, "distortion", name, what, advice))
    return findings


def _fields(camera: CameraFacts, settings: Settings) -> list[Finding]:
    """How the fields of a CameraInfo go together."""
    info, name = camera.info_message, camera.name
    if info is None or camera.info is None:
        return []
    findings = []
    K, P = np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))
    distorted = any(info.d)
    if camera.info_variants > 1:
        what = f"{camera.info_variants} different CameraInfos came: the calibration changes"
        advice = "two publishers, or a driver that changes its mode? Changes are followed, with the next set"
        findings.append(Finding(WARNING, "camera_info", name, what, advice))
    if not settings.rectified and not P.any():
        what = "P is all zero: nothing here needs it, but image_proc and RViz do"
        findings.append(Finding(NOTE, "P", name, what, "let the driver fill P"))
    elif distorted and np.array_equal(P[:, :3], K):
        what = "P equals K although the lens distorts: P was copied, not computed by a rectification"
        if settings.rectified:
            advice = "if the images are not really rectified, set rectified: false"
            findings.append(Finding(WARNING, "P", name, what, advice))
        else:
            findings.append(Finding(NOTE, "P", name, what, "right for raw images, where K and D count"))
    if settings.rectified:
        R = np.reshape(info.r, (3, 3))
        turn = math.degrees(math.acos(np.clip((np.trace(R) - 1) / 2, -1.0, 1.0))) if R.any() else 0.0
        if turn > TURN_DEG:
            what = f"R turns the rectified images by {turn:.1f} degrees against their frame, which is not applied"
            advice = "publish a frame of the rectified camera on TF and name it in the headers, or use the raw images"
            findings.append(Finding(WARNING, "P", name, what, advice))
    # image_proc's names are what a user goes by, and the images themselves do not tell.
    last = camera.image.name.removesuffix("/compressed").rsplit("/", 1)[-1]
    if distorted and not settings.rectified and last.startswith("image_rect"):
        what = f"{camera.image.name} is rectified by its name, and would be undistorted a second time"
        findings.append(Finding(WARNING, "distortion", name, what, "set rectified: true"))
    if distorted and settings.rectified and last.startswith("image_raw"):
        what = f"{camera.image.name} is raw by its name, but rectified: true leaves its distortion in"
        findings.append(Finding(WARNING, "distortion", name, what, "set rectified: false"))
    binning, roi = (max(1, info.binning_x), max(1, info.binning_y)), info.roi
    if binning != (1, 1) or roi.width:
        known = camera.intrinsics.camera
        region = f", region {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset})" if roi.width else ""
        what = (
            f"binning {binning[0]}x{binning[1]}{region} of {info.width}x{info.height}: K for the {known.width}x"
            f"{known.height} images has fx {known.K[0, 0]:.1f}, centre ({known.K[0, 2]:.1f}, {known.K[1, 2]:.1f})"
        )
        advice = "right only if K is that of the full sensor, as sensor_msgs/CameraInfo defines it"
        findings.append(Finding(NOTE, "binning", name, what, advice))
    return findings


def view_angle(camera: Camera) -> float:
    """Horizontal angle of view in degrees, through the principal point; of the pinhole where the lens gives no ray."""
    sides = _border_rays(camera)[:2, 0]
    if np.isnan(sides).any():
        sides = (np.array([-0.5, camera.width - 0.5]) - camera.K[0, 2]) / camera.K[0, 0]
    left, right = np.arctan(sides)
    return math.degrees(right - left)


@lru_cache(maxsize=64)  # by identity: finding the ray of a distorted pixel takes its time
def _border_rays(camera: Camera) -> np.ndarray:
    """(6, 3) rays through the left and right border at the principal point's height, then through the four corners."""
    right, bottom = camera.width - 1, camera.height - 1
    sides = [(-0.5, camera.K[1, 2]), (camera.width - 0.5, camera.K[1, 2])]
    return camera.rays(np.array([*sides, (0, 0), (right, 0), (0, bottom), (right, bottom)], dtype=np.float64))
