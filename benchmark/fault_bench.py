"""A detector node with a network that tells which pictures it was given, a rig that can be spoilt, and who listens.

python benchmark/fault_bench.py --ros-args ...      # the node alone, as its process; `slow`, `raise` ... on stdin
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fault_list import ANY, COMPLETE, NONE, PARTIAL, UNCOMPENSATED, Fault
from spoilt_rig import CAMERAS, FOCAL, MOUNT_Z, NETWORK, OFFSET, PERIOD, SIZES, SPEED, Picture, Spoilt, code_of

from bevdistill_ros.paths import large_segment, small_queues
from bevdistill_ros.stamps import header_ns, stamp_ns

PATIENCE_S = 60.0
SLOW_S = 0.25
OUT = "/bevdistill_detector"
CLASS_NAMES = ("picture",)
TELLING = "telling"  # as the parameter `model`


# ---------------------------------------------------------------------------------------------------- the node's process


class TellingNetwork:
    """Stands in for the network, the rest of the node is the real one. Its box ``i`` says what camera i's image was.

    centre: code of the instant, camera; whether it could be read (1 or 0). size: focal length in pixels of the full picture,
    height of the mount, place in the rig. velocity: where the camera is in the base frame, x and y.
    """

    cameras = CAMERAS
    class_names = CLASS_NAMES
    device = SimpleNamespace(type="cpu")
    training = {"data": "none"}  # noqa: RUF012
    stage_times = {"network": 0.0, "decode": 0.0}  # noqa: RUF012

    def __init__(self) -> None:
        from bevdistill_ros.config import ImageConfig
        from bevdistill_ros.geometry import BevGrid
        from bevdistill_ros.preprocess import Preprocessor

        height, width = NETWORK
        self.config = SimpleNamespace(
            image=SimpleNamespace(height=height, width=width), grid=BevGrid(-8.0, 8.0, -8.0, 8.0, 1.0)
        )
        self.preprocess = Preprocessor(ImageConfig(height, width))
        self.mood = "well"

    def __call__(self, images, K, ego_T_cam, mask, score_threshold: float) -> Any:
        from bevdistill_ros.geometry import Boxes

        if self.mood == "raise":
            raise RuntimeError("out of memory")
        if self.mood == "slow":
            time.sleep(SLOW_S)
        while self.mood == "hang":
            time.sleep(0.01)
        rows = []
        for i in np.flatnonzero(mask):
            read = Picture.read(images[i])
            code, camera = read or (0, 0)
            focal = K[i, 0, 0] * SIZES["small"][0] / NETWORK[1]
            x, y, z = ego_T_cam[i, :3, 3]
            rows.append([code, camera, float(read is not None), focal, z, float(i), x, y])
        table = np.array(rows)
        centers = table[:, :3] * (np.nan if self.mood == "nan" else 1.0)
        n = len(table)
        return Boxes(centers, table[:, 3:6], np.zeros(n), table[:, 6:], np.full(n, 0.9), np.zeros(n, int), CLASS_NAMES)


def node_main() -> int:
    from bevdistill_ros.detector import Detector
    from bevdistill_ros.node.main import main
    from bevdistill_ros.paths import model_path

    network = TellingNetwork()

    def load(model: str, device: str) -> Any:
        return network if model == TELLING else Detector.from_checkpoint(model_path(model), device)

    def listen() -> None:
        for line in sys.stdin:
            network.mood = line.strip()
        network.mood = "well"
        os.kill(os.getpid(), signal.SIGTERM)  # whoever started this process has ended

    threading.Thread(target=listen, daemon=True).start()
    return main(sys.argv[1:], load)


# --------------------------------------------------------------------------------------------------------- who listens


class Heard:
    """What one DetectedObjectArray says of itself, held against what its stamps demand.

    Attributes:
        at: monotonic seconds of its arrival.
        t_ref: ns.
        wrong: in words, what is mixed, stale or unflagged; empty if all is right.
        missing: cameras that have no part in it.
        compensated: whether the cameras' places are those of their own times.
    """

    def __init__(self, message: Any, start: int, focals: tuple[float, ...], heights: tuple[float, ...]) -> None:
        self.at = time.monotonic()
        self.t_ref = header_ns(message)
        stamps = {i: stamp_ns(s) for i, (s, used) in enumerate(zip(message.stamps, message.used)) if used}
        self.missing = tuple(name for name, used in zip(message.cameras, message.used) if not used)
        self.wrong = ""
        self.instant = 0
        wrong = []
        if message.partial != bool(self.missing):
            wrong.append("flag 'partial' is wrong")
        told = {round(o.size.z): o for o in message.objects}
        if set(told) != set(stamps):
            wrong.append(f"flag 'used' is wrong: images of {sorted(told)}, but {sorted(stamps)} are said to be used")
        if self.t_ref not in stamps.values():
            wrong.append("header.stamp is that of no image")
        codes = set()
        self.compensated = True
        for i, o in told.items():
            stamp = stamps.get(i, 0)
            code, camera = round(o.pose.position.x), round(o.pose.position.y)
            codes.add(code)
            if o.pose.position.z != 1.0:
                wrong.append(f"{CAMERAS[i]}: a picture that is none")
            elif camera != i:
                wrong.append(f"{CAMERAS[i]}: a picture of {CAMERAS[camera]}")
            elif code != code_of(stamp, i, start):
                wrong.append(f"{CAMERAS[i]}: a picture of another time than its stamp (stale)")
            if not any(abs(o.size.x - focal) < 0.01 for focal in focals):
                wrong.append(f"{CAMERAS[i]}: focal length {o.size.x:.1f}")
            if not any(abs(o.size.y - height) < 1e-6 for height in heights):
                wrong.append(f"{CAMERAS[i]}: mounted {o.size.y:.2f} m up")
            moved = SPEED * (stamp - self.t_ref) / 1e9
            if abs(o.velocity.x - moved) > 1e-4:
                self.compensated = False
                if abs(o.velocity.x) > 1e-6:
                    wrong.append(f"{CAMERAS[i]}: {o.velocity.x:.2f} m ahead instead of {moved:.2f}")
        if len(codes) > 1:
            wrong.append(f"pictures of {len(codes)} instants (mixed)")
        self.wrong = "; ".join(wrong)

    @property
    def whole(self) -> bool:
        """Complete, right and motion compensated."""
        return not (self.wrong or self.missing) and self.compensated


class Bench:
    """Node and rig in processes of their own, this process listens. A context manager.

    Args:
        setup: see ``Fault.setup``.
        parameters: further ones of the node.
        reliable: nothing may be lost between the processes.
        size: of the pictures, a key of SIZES.
        give_back: the node's subscriptions give back what their queues took, as docs/node.md advises where memory is watched.
    """

    def __init__(
        self,
        setup: str = "plain",
        parameters: dict[str, str] | None = None,
        reliable: bool = False,
        size: str = "small",
        give_back: bool = False,
    ) -> None:
        self.setup = setup
        self._options = [f"--size={size}", *(["--raw"] if setup == "raw" else [])]
        self._options += [*(["--clock"] if setup == "clock" else []), *(["--reliable"] if reliable else [])]
        self.start = (time.time_ns() // PERIOD - 10_000) * PERIOD
        offsets = "[" + ", ".join(f"{i * OFFSET / 1e6:.1f}" for i in range(len(CAMERAS))) + "]"
        values = {
            "model": TELLING,
            "device": "cpu",
            "cameras": f"[{', '.join(CAMERAS)}]",
            "camera_offsets_ms": offsets,
            "diagnostics_period_s": "0.2",
            "warm_up": "false",
            "score_threshold": "0.0",
            "reliability": "reliable" if reliable else "best_effort",
            "image_transport": "raw" if setup == "raw" else "compressed",
            "use_sim_time": str(setup == "clock").lower(),
            **(parameters or {}),
        }
        arguments = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
        self.changed = threading.Condition()
        self.sets: list[Heard] = []
        self.statuses: list[tuple[float, Any]] = []
        self.health: deque[tuple[float, Any]] = deque(maxlen=300)
        self.focals: tuple[float, ...] = (FOCAL,)
        self.heights: tuple[float, ...] = (MOUNT_Z,)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the bench)
        self._rig: subprocess.Popen | None = None
        self.node = subprocess.Popen(
            [sys.executable, __file__, "--ros-args", *arguments],
            stdin=subprocess.PIPE, stdout=self.log, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **(small_queues() if give_back else {})},
        )  # fmt: skip
        self._listen()
        # Before there are images, or sets are published of which this process hears nothing. The subscription to /diagnostics is
        # the last one made: who has found it knows the others.
        self.wait(lambda: self.health and self._listener.count_publishers(f"{OUT}/objects"))
        self.start_rig()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _listen(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.context import Context
        from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

        from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus

        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self._listener = rclpy.create_node("listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._listener)

        def keep(kind: type, topic: str, put: Callable[[Any], None]) -> None:
            def receive(message: Any) -> None:
                with self.changed:
                    put(message)
                    self.changed.notify_all()

            self._listener.create_subscription(kind, topic, receive, 1000)

        keep(DetectedObjectArray, f"{OUT}/objects", lambda m: self.sets.append(self._hear(m)))
        keep(DetectorStatus, f"{OUT}/status", lambda m: self.statuses.append((time.monotonic(), m)))
        keep(DiagnosticArray, "/diagnostics", lambda m: self.health.append((time.monotonic(), m)))

        def spin() -> None:
            try:
                self._executor.spin()
            except ExternalShutdownException:
                pass

        self._thread = threading.Thread(target=spin, daemon=True)
        self._thread.start()

    def _hear(self, message: Any) -> Heard:
        return Heard(message, self.start, self.focals, self.heights)

    def start_rig(self, await_listeners: bool = False) -> None:
        """Start the rig's process; it goes on in the instants where one before it ended.

        With ``await_listeners`` it has found the node (``discovery_s``: for how long DDS took) when this returns.
        """
        # As docs/node.md advises for who publishes images: else a burst overruns the shared memory, and of /tf, which is
        # reliable, a lost message holds up the later ones for seconds.
        options = [*self._options, *(["--await-listeners"] if await_listeners else [])]
        self._rig = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("spoilt_rig.py")), str(self.start), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **large_segment()},
        )  # fmt: skip
        word, _, seconds = self._rig.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise RuntimeError("the rig has not started")
        self.discovery_s = float(seconds)

    def kill_rig(self) -> None:
        """As a crash would."""
        self._rig.kill()
        self._end_rig()

    def _end_rig(self) -> None:
        self._rig.stdin.close()
        try:
            self._rig.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._rig.kill()
            self._rig.wait()
        self._rig.stdout.close()

    def end_rig(self) -> dict[int, float]:
        """It finishes by itself; returns the instants that it published whole and healthy, and how many s too late."""
        self._rig.stdin.close()
        told = self._rig.stdout.read()
        self._end_rig()
        return dict(json.loads(told))

    def wait(self, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> bool:
        """Until the condition is true; asked whenever something has come, and now and then."""
        end = time.monotonic() + seconds
        with self.changed:
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or self.node.poll() is not None:
                    return bool(condition())
                self.changed.wait(min(left, 0.05))
            return True

    def begin(self, fault: Fault) -> None:
        """The fault is there from now on."""
        spoilt = Spoilt()
        fault.spoil(spoilt)
        # Both calibrations are right until the change has arrived.
        self.focals = (FOCAL, FOCAL * 1.5) if any(spoilt.info.values()) else (FOCAL,)
        self.heights = (MOUNT_Z, spoilt.mount_z)
        if fault.killed:
            self.kill_rig()
        else:
            _tell(self._rig, f"begin {fault.name}")
        _tell(self.node, fault.network)

    def mend(self, fault: Fault) -> None:
        """The fault is gone."""
        if fault.killed:
            self.start_rig(await_listeners=True)
        else:
            _tell(self._rig, "mend")
        _tell(self.node, "well")

    def settle(self) -> bool:
        """Until three whole sets have come in a row."""
        first = len(self.sets)
        found = lambda: len(self.sets) >= first + 3 and all(s.whole for s in self.sets[-3:])  # noqa: E731
        return self.wait(found)

    def texts(self, since: float) -> Iterator[str]:
        """What /diagnostics has said since then, `camera: text` a camera."""
        for at, array in reversed(self.health):
            if at < since:
                return
            for status in array.status:
                yield f"{status.name.split(': ')[-1]}: {status.message}"

    def counts(self) -> dict[str, int]:
        """The node's own counts, from its newest diagnostics."""
        with self.changed:
            if not self.health:
                return {}
            values = next(s.values for s in self.health[-1][1].status if s.name.endswith(": detector"))
            return {v.key: int(v.value) for v in values if v.value.isdigit()}

    def subscribers(self, topic: str) -> int:
        """How many there are, of this bench's domain."""
        return self._listener.count_subscribers(topic)

    def client(self, kind: type, service: str) -> Any:
        """A client of a service, once that is there."""
        client = self._listener.create_client(kind, service)
        self._executor.wake()
        if not client.wait_for_service(PATIENCE_S):
            raise RuntimeError(f"{service} is not there; the node said:\n{self.said()[-3000:]}")
        return client

    def call(self, client: Any, request: Any) -> Any:
        """The service's answer."""
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        self._executor.wake()
        if not done.wait(PATIENCE_S):
            raise RuntimeError(f"no answer; the node said:\n{self.said()[-3000:]}")
        return future.result()

    def set_parameter(self, name: str, value: Any) -> str:
        """Over the node's service; why it was refused, or an empty text."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        client = self.client(SetParameters, f"{OUT}/set_parameters")
        try:
            request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
            (result,) = self.call(client, request).results
        finally:
            self._listener.destroy_client(client)
        return result.reason

    def said(self) -> str:
        """What the node has printed."""
        self.log.seek(0)
        return self.log.read()

    def close(self) -> None:
        """End the processes."""
        if self._rig.poll() is None:
            self._end_rig()
        if self.node.poll() is None:
            self.node.terminate()
            try:
                self.node.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.node.kill()
                self.node.wait()
        self.node.stdin.close()
        self._context.try_shutdown()
        self._thread.join(PATIENCE_S)
        self._executor.shutdown()
        self._listener.destroy_node()
        self.log.close()


def _tell(process: subprocess.Popen, line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


# -------------------------------------------------------------------------------------------------------- one fault


def _shape(fault: Fault, heard: Heard) -> bool:
    """Whether a set is as the fault's sets should be."""
    if heard.wrong:
        return False
    return {
        COMPLETE: heard.whole,
        UNCOMPENSATED: not heard.missing and not heard.compensated,
        PARTIAL: heard.missing == fault.without,
        ANY: True,
        NONE: False,
    }[fault.boxes]


def run_fault(bench: Bench, fault: Fault, most_s: float = 12.0, recover_s: float = 10.0) -> dict[str, Any]:
    """Let the fault be there until the node has done what is expected (or ``most_s`` are over), then end it.

    Returns:
        A row of faults.json: ``name``, ``expected``, ``seen``, ``ok``, ``recovery_s`` (from the fault's end to the arrival of the
        first complete, right, motion-compensated set of images; null if none came within ``recover_s``; publishers that were
        killed are back once DDS has found the new ones, which ``seen`` tells of). Beside them
        ``problems``: what was not as it must be, but for the time to recover.
    """
    # What an earlier fault has had said is told for two seconds.
    silent = lambda: not any(fault.says and re.search(fault.says, t) for t in bench.texts(bench.health[-1][0]))  # noqa: E731
    healthy = bench.settle() and bench.wait(silent)
    bench.begin(fault)
    begun, first = time.monotonic(), len(bench.sets)

    def as_expected() -> bool:
        found = bench.sets[first:]
        if fault.boxes == NONE:
            quiet = time.monotonic() - max(begun, found[-1].at if found else 0.0) > 0.5
            shape = quiet
        else:
            shape = len(found) >= 3 and all(_shape(fault, s) for s in found[-3:])
        said = not fault.says or any(re.search(fault.says, text) for text in bench.texts(begun))
        return shape and said and time.monotonic() - begun > 0.6

    done = bench.wait(as_expected, most_s)
    during = bench.sets[first:]
    recover_from = len(bench.sets)
    bench.mend(fault)
    ended = time.monotonic()
    whole = lambda: next((s for s in bench.sets[recover_from:] if s.whole and s.at >= ended), None)  # noqa: E731
    bench.wait(whole, recover_s)
    found = whole()
    wrong = [s.wrong for s in bench.sets[first:] if s.wrong]
    alive = bench.node.poll() is None
    recovery = None if found is None else round(found.at - ended, 3)
    seen = _seen(during, fault, begun, bench)
    if fault.killed:
        seen += f"; DDS found the new publishers after {bench.discovery_s:.1f} s"
    problems = [
        *([] if healthy else ["the node was not well before"]),
        *([] if alive else ["the node has ended"]),
        *([] if done else ["not as expected"]),
        *wrong[:1],
    ]
    return {
        "name": fault.name,
        "expected": fault.expected,
        "seen": "; ".join([*problems, seen]),
        "ok": not problems and recovery is not None and recovery <= 1.0,
        "recovery_s": recovery,
        "problems": problems,
    }


def _seen(during: list[Heard], fault: Fault, begun: float, bench: Bench) -> str:
    """In words, by counts."""
    kinds = {"complete": 0, "not compensated": 0, "partial": 0}
    for heard in during:
        kinds["partial" if heard.missing else "complete" if heard.compensated else "not compensated"] += 1
    words = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "no boxes"
    said = next((m.group(0) for t in bench.texts(begun) if fault.says and (m := re.search(fault.says, t))), "")
    return words + (f"; '{said}'" if said else "")


@contextmanager
def own_domain() -> Iterator[None]:
    """A ROS domain of this process and its children, on this machine only."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 1))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    yield


if __name__ == "__main__":
    sys.exit(node_main())
