"""The faults that a rig, its robot or the network may have, and what the detector node must make of each: data.

benchmark/faults.py runs them all, benchmark/soak.py at random, test/node/test_faults.py some.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spoilt_rig import CAMERAS, PERIOD, Spoilt

A, B, C, D, E, F = CAMERAS
HOUR = 3_600_000_000_000 + 7 * PERIOD  # the pictures of that time are others
LOOP = 640 * PERIOD  # after it the pictures repeat: the past looks as the present does

# What the boxes rest on while the fault is there.
COMPLETE = "complete"  # all cameras, motion compensated
UNCOMPENSATED = "uncompensated"  # all cameras, as mounted, and said so
PARTIAL = "partial"  # all cameras but those of `without`, and said so
NONE = "none"  # there are no boxes
ANY = "any"  # complete or partial sets


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: in words, unique.
        expected: what the node must do, in words.
        boxes: COMPLETE, UNCOMPENSATED, PARTIAL, NONE or ANY.
        spoil: does it to a healthy rig.
        without: cameras that have no part in the sets meanwhile.
        says: what /diagnostics must say, as a regular expression; empty: nothing in particular.
        network: what the network does: well, slow, raise, nan, hang.
        killed: the rig's process is killed, and started anew at the end.
        setup: plain, raw (images not compressed) or clock (simulated time).
        soak: whether it may come at any time in a soak test of plain setup.
    """

    name: str
    expected: str
    boxes: str
    spoil: Callable[[Spoilt], None] = lambda spoilt: None
    without: tuple[str, ...] = ()
    says: str = ""
    network: str = "well"
    killed: bool = False
    setup: str = "plain"
    soak: bool = True


def _set(**values: Any) -> Callable[[Spoilt], None]:
    def spoil(spoilt: Spoilt) -> None:
        for name, value in values.items():
            assert hasattr(spoilt, name)
            setattr(spoilt, name, value)

    return spoil


def _every(value: Any) -> dict[str, Any]:
    return dict.fromkeys(CAMERAS, value)


def _zero_k(info: Any) -> None:
    info.k = [0.0] * 9


def _nan_k(info: Any) -> None:
    info.k[0] = math.nan


def _half_size(info: Any) -> None:
    info.width, info.height = info.width // 2, info.height // 2


def _strange_model(info: Any) -> None:
    info.distortion_model = "kaleidoscope"


def _longer_focal(info: Any) -> None:
    info.k[0] *= 1.5
    info.k[4] *= 1.5


def _nan_pose(transform: Any) -> None:
    transform.translation.x = math.nan


def _no_rotation(transform: Any) -> None:
    transform.rotation.w = 0.0


def _halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _spoilt_head(data: bytes) -> bytes:
    return data[:2] + bytes(200) + data[202:]


def _as_png(data: bytes) -> bytes:
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _short_data(message: Any) -> None:
    del message.data[len(message.data) // 2 :]


def _short_step(message: Any) -> None:
    message.step = message.width


def _strange_encoding(message: Any) -> None:
    message.encoding = "smellovision8"


def _huge(message: Any) -> None:
    message.width = message.height = 2**31


WITHOUT_C = "sets without it, flagged partial"
AS_MOUNTED = "the mounting alone is used, flagged as not motion compensated"

FAULTS: tuple[Fault, ...] = (
    # ---- cameras that deliver nothing, or not enough
    Fault("camera silent", WITHOUT_C, PARTIAL, _set(mute={C}), (C,), r"cam_c.*no image for"),
    Fault("reference camera silent", WITHOUT_C, PARTIAL, _set(mute={A}), (A,), r"cam_a.*no image for"),
    Fault("two cameras silent", WITHOUT_C, PARTIAL, _set(mute={B, E}), (B, E), r"without cam_b, cam_e"),
    Fault("four of six cameras silent", "no boxes", NONE, _set(mute={A, B, C, D}), says=r"fewer than min_cameras"),
    Fault("all cameras silent", "no boxes", NONE, _set(mute=set(CAMERAS)), says=r"no image for"),
    Fault("driver ended", WITHOUT_C, PARTIAL, _set(gone={C}), (C,), r"cam_c.*its publisher has gone"),
    Fault("all publishers killed", "no boxes", NONE, says=r"no image for", killed=True, soak=False),
    Fault("a tenth of the images lost", "what is complete, and partial sets", ANY, _set(loss=0.1)),
    Fault("half of the images lost", "what is complete, and partial sets", ANY, _set(loss=0.5), soak=False),
    Fault("camera at half the rate", "every second set without it", ANY, _set(every={C: 2}), says=r"without cam_c"),
    Fault("whole rig at half the rate", "complete sets, half as many", COMPLETE, _set(every=_every(2))),
    # ---- cameras that repeat themselves
    Fault(
        "frozen, the same stamp", WITHOUT_C, PARTIAL, _set(same_message={C}), (C,), r"cam_c.*repeat an earlier stamp"
    ),
    Fault("frozen, new stamps", WITHOUT_C, PARTIAL, _set(same_picture={C}), (C,), r"cam_c.*is frozen"),
    Fault("all frozen, new stamps", "no boxes", NONE, _set(same_picture=set(CAMERAS)), says=r"cam_f.*is frozen"),
    Fault("images sent twice", "complete sets", COMPLETE, _set(copies=_every(2)), says=r"repeat an earlier stamp"),
    Fault(
        "two drivers on one topic",
        "the one that fits counts",
        COMPLETE,
        _set(rival={C}),
        says=r"cam_c.*(found fewer|more than one)",
    ),
    # ---- late, and in another order
    Fault("camera 60 ms late", "waited for: complete sets", COMPLETE, _set(delay_s={C: 0.06})),
    Fault("camera 400 ms late", WITHOUT_C, PARTIAL, _set(delay_s={C: 0.4}), (C,), r"cam_c.*came when their set"),
    Fault("all images 400 ms late", "complete sets, later", COMPLETE, _set(delay_s=_every(0.4))),
    Fault("images in pairs, the later one first", "what is complete, and partial sets", ANY, _set(swap={C})),
    Fault("all images in pairs, the later one first", "no set mixed", ANY, _set(swap=set(CAMERAS)), soak=False),
    Fault("standstill, then a burst", "no boxes meanwhile, then the newest", NONE, _set(stall=True), says="no image"),
    # ---- images
    Fault("other size mid-stream", WITHOUT_C, PARTIAL, _set(size={C: (704, 396)}), (C,), r"cam_c.*704x396.*352x198"),
    Fault("other aspect ratio", WITHOUT_C, PARTIAL, _set(size={C: (352, 264)}), (C,), r"cam_c.*352x264"),
    Fault("JPEG cut off", WITHOUT_C, PARTIAL, _set(data={C: _halved}), (C,), r"cam_c.*cannot be used"),
    Fault(
        "JPEG with a spoilt header", WITHOUT_C, PARTIAL, _set(data={C: _spoilt_head}), (C,), r"cam_c.*cannot be used"
    ),
    Fault("empty image", WITHOUT_C, PARTIAL, _set(data={C: lambda data: b""}), (C,), r"cam_c.*empty"),
    Fault(
        "no picture at all",
        WITHOUT_C,
        PARTIAL,
        _set(data={C: lambda data: data[::-1]}),
        (C,),
        r"cam_c.*cannot be used",
    ),
    Fault("PNG instead of JPEG", "decoded: complete sets", COMPLETE, _set(data={C: _as_png})),
    Fault(
        "raw image with too little data",
        WITHOUT_C,
        PARTIAL,
        _set(message={C: _short_data}),
        (C,),
        r"cam_c.*field data has",
        setup="raw",
    ),
    Fault("raw image with a wrong step", WITHOUT_C, PARTIAL, _set(message={C: _short_step}), (C,), "step", setup="raw"),
    Fault(
        "raw image of unknown encoding",
        WITHOUT_C,
        PARTIAL,
        _set(message={C: _strange_encoding}),
        (C,),
        "smellovision8",
        setup="raw",
    ),
    Fault(
        "raw image of 2^31 x 2^31 pixels",
        WITHOUT_C,
        PARTIAL,
        _set(message={C: _huge}),
        (C,),
        r"cam_c.*cannot be used",
        setup="raw",
    ),
    # ---- calibration
    Fault("CameraInfo stops", "the last one holds: complete sets", COMPLETE, _set(info={C: None})),
    Fault("CameraInfo with zero K", WITHOUT_C, PARTIAL, _set(info={C: _zero_k}), (C,), r"cam_c.*field k"),
    Fault("CameraInfo with NaN", WITHOUT_C, PARTIAL, _set(info={C: _nan_k}), (C,), r"cam_c.*field k"),
    Fault("CameraInfo of another size", WITHOUT_C, PARTIAL, _set(info={C: _half_size}), (C,), r"cam_c.*176x99"),
    Fault(
        "unknown distortion model",
        WITHOUT_C,
        PARTIAL,
        _set(info={C: _strange_model}),
        (C,),
        r"cam_c.*kaleidoscope",
    ),
    Fault("calibration changed on the fly", "complete sets with the new one", COMPLETE, _set(info={C: _longer_focal})),
    Fault("mounts moved on the fly", "complete sets with the new ones", COMPLETE, _set(mount_z=2.0)),
    Fault("unknown frame_id", WITHOUT_C, PARTIAL, _set(frame={C: "nowhere"}), (C,), r"cam_c.*base_link <- nowhere"),
    Fault("no frame_id", WITHOUT_C, PARTIAL, _set(frame={C: ""}), (C,), r"cam_c.*header\.frame_id"),
    # ---- transforms
    Fault("odometry gone", AS_MOUNTED, UNCOMPENSATED, _set(odom=False), says=r"motion between the images is not"),
    Fault("odometry 70 ms late", "waited for: complete sets", COMPLETE, _set(odom_delay_s=0.07)),
    Fault("odometry 600 ms late", AS_MOUNTED, UNCOMPENSATED, _set(odom_delay_s=0.6), says=r"motion between the images"),
    Fault("odometry jumps", AS_MOUNTED, UNCOMPENSATED, _set(odom_jump=True), says=r"has jumped in odom, by 5\.\d+ m"),
    Fault(
        "odometry an hour ahead",
        AS_MOUNTED + "; forgotten afterwards",
        UNCOMPENSATED,
        _set(odom_shift=HOUR),
        says=r"motion between the images",
    ),
    Fault("odometry with NaN", AS_MOUNTED, UNCOMPENSATED, _set(odom_spoil=_nan_pose), says=r"motion between"),
    Fault("odometry with a zero quaternion", AS_MOUNTED, UNCOMPENSATED, _set(odom_spoil=_no_rotation), says="motion"),
    # ---- stamps
    Fault("camera without stamps", WITHOUT_C, PARTIAL, _set(zero_stamp={C}), (C,), r"cam_c.*zero header\.stamp"),
    Fault("no camera with stamps", "no boxes", NONE, _set(zero_stamp=set(CAMERAS)), says=r"zero header\.stamp"),
    Fault(
        "camera's clock an hour ahead", WITHOUT_C, PARTIAL, _set(stamp_shift={C: HOUR}), (C,), r"cam_c.*clock is wrong"
    ),
    Fault("camera's clock an hour behind", WITHOUT_C, PARTIAL, _set(stamp_shift={C: -HOUR}), (C,), r"cam_c.*clock is"),
    Fault(
        "camera exposes 50 ms off", WITHOUT_C, PARTIAL, _set(stamp_shift={C: 50_000_000}), (C,), r"cam_c.*found fewer"
    ),
    Fault("stamps jitter by 8 ms", "within the tolerance: complete sets", COMPLETE, _set(jitter=_every(8_000_000))),
    Fault("a camera's stamps jitter by 24 ms", "no set mixed", ANY, _set(jitter={C: 24_000_000}), soak=False),
    Fault("all stamps jump back 64 s (a bag loops)", "complete sets", COMPLETE, _set(time_shift=-LOOP), soak=False),
    Fault(
        "all stamps jump forward 64 s",
        "complete sets, and a warning",
        COMPLETE,
        _set(time_shift=LOOP),
        says=r"ahead of this node's clock",
        soak=False,
    ),
    # ---- simulated time
    Fault("simulated time stands still", "complete sets", COMPLETE, _set(clock=False), setup="clock"),
    Fault("simulated time jumps back 64 s", "complete sets", COMPLETE, _set(time_shift=-LOOP), setup="clock"),
    Fault("simulated time jumps forward 64 s", "complete sets", COMPLETE, _set(time_shift=LOOP), setup="clock"),
    # ---- the network
    Fault(
        "network slower than the cameras",
        "the newest complete sets; older ones counted as superseded",
        COMPLETE,
        says=r"gave way to newer ones",
        network="slow",
    ),
    Fault("network raises", "no boxes, and why", NONE, says=r"a set of images failed: RuntimeError", network="raise"),
    Fault("network gives NaN", "no boxes, and why", NONE, says=r"boxes of the network are not finite", network="nan"),
    Fault("network hangs", "no boxes, and why", NONE, says=r"has not come back for", network="hang", soak=False),
)
