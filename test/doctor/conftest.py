"""A rig with nothing wrong, as recorded facts, to be spoilt by one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bevdistill_ros.camera_info import intrinsics_from_info
from bevdistill_ros.doctor.facts import (
    Arrival,
    CameraFacts,
    DdsFacts,
    DeviceFacts,
    Edge,
    Facts,
    ModelFacts,
    Publisher,
    Topic,
)
from bevdistill_ros.geometry import make_transform, rotation_from_quaternion, rotation_z
from bevdistill_ros.node.parameters import Settings

MS = 1_000_000
START = 1_700_000_000_000_000_000
PERIOD = 100 * MS
YAWS = {"front": 0.0, "left": 100.0, "right": -100.0}
OWN = "own.safetensors"
OPTICAL = rotation_from_quaternion((-0.5, 0.5, -0.5, 0.5))


class Rig:
    """Makes facts."""

    @staticmethod
    def info(**changes: Any) -> SimpleNamespace:
        """What a CameraInfo holds."""
        roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
        K = [160.0, 0.0, 159.5, 0.0, 160.0, 95.5, 0.0, 0.0, 1.0]
        P = [150.0, 0.0, 159.5, 0.0, 0.0, 150.0, 95.5, 0.0, 0.0, 0.0, 1.0, 0.0]
        values = {
            "width": 320, "height": 192, "k": K, "p": P, "d": [0.0] * 5, "r": np.eye(3).reshape(-1).tolist(),
            "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0, "roi": roi,
        }  # fmt: skip
        return SimpleNamespace(**{**values, **changes})

    @staticmethod
    def arrivals(stamps: list[int], delay: int = 30 * MS, size: int = 20_000) -> tuple[Arrival, ...]:
        """Images of these stamps, which come ``delay`` later and all differ."""
        steady = [i * PERIOD for i in range(len(stamps))]
        return tuple(
            Arrival(at, (stamp or START + at) + delay, stamp, size, i)
            for i, (at, stamp) in enumerate(zip(steady, stamps))
        )

    @staticmethod
    def stamps(count: int = 30, offset_ms: float = 0.0) -> list[int]:
        return [START + i * PERIOD + round(offset_ms * MS) for i in range(count)]

    @staticmethod
    def pose(yaw_deg: float, xyz: tuple[float, float, float] = (0.5, 0.0, 1.2)) -> np.ndarray:
        """An upright camera that looks there."""
        return make_transform(rotation_z(np.radians(yaw_deg)) @ OPTICAL, xyz)

    def camera(
        self, name: str, message: SimpleNamespace | None = None, rectified: bool = False, **changes: Any
    ) -> CameraFacts:
        message = message or self.info()
        intrinsics, problem = None, ""
        try:
            intrinsics = intrinsics_from_info(message, rectified)
        except ValueError as error:
            problem = str(error)
        driver = f"/driver_{name}"
        facts = CameraFacts(
            name=name,
            image=Topic(
                f"/{name}/image_raw/compressed",
                "sensor_msgs/msg/CompressedImage",
                (Publisher(driver, "sensor_msgs/msg/CompressedImage", reliable=False),),
            ),
            info=Topic(
                f"/{name}/camera_info", "sensor_msgs/msg/CameraInfo", (Publisher(driver, "sensor_msgs/msg/CameraInfo"),)
            ),
            arrivals=self.arrivals(self.stamps(offset_ms=10.0 * list(YAWS).index(name))),
            encoding="jpeg",
            sizes=((320, 192),),
            picture=np.full((192, 320, 3), 90, np.uint8),
            info_message=message,
            info_variants=1,
            intrinsics=intrinsics,
            intrinsics_problem=problem,
            frame=f"{name}_optical",
            base_T_camera=self.pose(YAWS[name]),
        )
        return replace(facts, **changes)

    def __call__(self, settings: dict | None = None, cameras: list[CameraFacts] | None = None, **changes: Any) -> Facts:
        """Facts of a rig; cameras given take the place of those of their name."""
        given = {camera.name: camera for camera in cameras or ()}
        edges = [Edge("base_link", f"{name}_optical", rotation=self.pose(yaw)[:3, :3]) for name, yaw in YAWS.items()]
        odometry = Edge("odom", "base_link", False, np.eye(3), (20 * MS,) * 100, 5.0)
        facts = Facts(
            settings=Settings(**{"cameras": tuple(YAWS), "reference_camera": "front", "model": OWN, **(settings or {})}),
            seconds=5.0,
            cameras=tuple(given.get(name) or self.camera(name) for name in YAWS),
            edges=(*edges, odometry),
            static_publishers=(Publisher("/robot_state_publisher", "tf2_msgs/msg/TFMessage", latched=True),),
            dds=DdsFacts("rmw_fastrtps_cpp", 10**9, (549_408,)),
            model=ModelFacts(OWN, OWN, "", 10**6, "ab" * 32, "nano", ("car",), ("FRONT", "LEFT", "RIGHT")),
            device=DeviceFacts("auto", "cpu", "some CPU"),
        )  # fmt: skip
        return replace(facts, **changes)


@pytest.fixture(scope="session")
def rig() -> Rig:
    """``rig(cameras=[rig.camera("left", sizes=...)], settings={...}, edges=...) -> Facts``."""
    return Rig()


@pytest.fixture(scope="session")
def bad():
    """``bad(facts) -> [(severity, check, subject)]`` of all errors and warnings."""
    from bevdistill_ros.doctor.checks import examine

    def of(facts: Facts) -> list[tuple[str, str, str]]:
        return [(f.severity, f.check, f.subject) for f in examine(facts) if f.severity in ("error", "warning")]

    return of


@pytest.fixture(scope="session")
def finding():
    """``finding(facts, check, subject) -> Finding``: the only one of that check and subject."""
    from bevdistill_ros.doctor.checks import examine

    def of(facts: Facts, check: str, subject: str) -> Any:
        (one,) = [f for f in examine(facts) if (f.check, f.subject) == (check, subject)]
        return one

    return of
