"""The pictures themselves: can they be decoded, are they of the size that was calibrated, do they show anything?"""

from __future__ import annotations

from bevdistill_ros.doctor.facts import CameraFacts
from bevdistill_ros.doctor.findings import ERROR, WARNING, Finding

FROZEN_AFTER = 5
"""So many equal pictures in a row are no coincidence: a sensor's noise differs from image to image."""
DARK = 4.0
"""Mean grey value of 255 below which a picture shows nothing."""


def check_picture(camera: CameraFacts) -> list[Finding]:
    """Decoding, content, and whether the same picture comes again and again."""
    findings = []
    if camera.picture_problem:
        what = f"images ({camera.encoding or 'of no encoding'}) cannot be decoded: {camera.picture_problem}"
        advice = "let the driver send JPEG, PNG, or bgr8, rgb8, mono8, Bayer or YUV 4:2:2 pixels"
        findings.append(Finding(ERROR, "encoding", camera.name, what, advice))
    elif camera.picture is not None and camera.picture.mean() < DARK:
        what = "the newest image is black"
        findings.append(Finding(WARNING, "picture", camera.name, what, "a lens cap, or the exposure?"))
    run = longest = 1
    for before, after in zip(camera.arrivals, camera.arrivals[1:]):
        run = run + 1 if after.digest == before.digest and after.stamp_ns != before.stamp_ns else 1
        longest = max(longest, run)
    if longest >= FROZEN_AFTER:
        what = f"the same picture came {longest} times in a row, under new stamps: frozen"
        findings.append(Finding(ERROR, "picture", camera.name, what, "restart the driver, look at the camera's cable"))
    return findings


def check_size(camera: CameraFacts) -> list[Finding]:
    """The images' size, by itself and against the calibration (binning and region of interest counted)."""
    if not camera.sizes:
        return []
    findings = []
    if len(camera.sizes) > 1:
        sizes = ", ".join(f"{width}x{height}" for width, height in camera.sizes)
        what = f"the image size changes: {sizes}"
        findings.append(Finding(ERROR, "size", camera.name, what, "two publishers, or a driver that changes its mode"))
    if camera.intrinsics is None:
        return findings
    width, height = camera.sizes[-1]
    known = camera.intrinsics.camera
    if (width, height) == (known.width, known.height):
        return findings
    what = f"images are {width}x{height}, its calibration is for {known.width}x{known.height}: they are refused"
    if known.width * height == known.height * width:
        factor = known.width / width
        advice = f"the driver scales by {1 / factor:g}: it must scale K and P, width and height alike"
        if camera.info is not None and factor == round(factor) > 1:
            advice += f", or set binning_x and binning_y to {factor:g}"
    else:
        advice = "the calibration is of another mode or camera, or the image is cropped (CameraInfo's roi says so)"
    return [*findings, Finding(ERROR, "size", camera.name, what, advice)]
