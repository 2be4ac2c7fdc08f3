"""The detector node: synchronised camera topics in, 3-D boxes out.

Threads
    The executor's thread (one is enough: `rclpy.spin`) receives messages, groups them into sets, answers services;
    none of that takes long. Each finished set goes through a one-slot mailbox, where a newer one takes the place of
    one not yet begun, to the worker thread: it decodes the images with the help of others (OpenCV releases the GIL), waits
    for transforms, runs the network, publishes. So a slow network delays no subscription, boxes are always of the
    newest images, and transforms arrive while the worker waits for them. A multi-threaded executor works too, but only
    adds the cost of its hand-over to each of a hundred messages a second. How many threads compute is for ``threads`` to say.

Parts
    ``CameraInputs`` makes sets of what the cameras send, ``SetPipeline`` boxes of a set, ``Outputs`` messages of the
    boxes. This file makes and ends them, leads sets from one to the next, and says how it goes.

Lifecycle
    configure loads the model and listens to TF; activate subscribes to the cameras; deactivate and cleanup undo them.
    Every transition can be repeated. With `autostart` the node takes the first two by itself.
"""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tf2_ros
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from bevdistill_ros import threads
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import reference_time
from bevdistill_ros.msg import DetectorStatus, StageTime
from bevdistill_ros.node import diagnostics, messages, parameters
from bevdistill_ros.node.calibration import CalibrationStore, FileCalibration, TransformSource, load_calibration_file
from bevdistill_ros.node.callback_groups import forget_destroyed
from bevdistill_ros.node.diagnostics import ERROR, WARN, Health, Trouble
from bevdistill_ros.node.drops import WINDOW_S, DropWatch
from bevdistill_ros.node.inputs import CameraInputs, check_topics
from bevdistill_ros.node.memory import give_back, leave_out_of_collection, let_collect
from bevdistill_ros.node.outputs import Outputs
from bevdistill_ros.node.pace import Pace
from bevdistill_ros.node.pictures import Repeats
from bevdistill_ros.node.set_pipeline import SetPipeline, SetResult
from bevdistill_ros.node.startup_table import StartupTable
from bevdistill_ros.node.worker import STOP_TIMEOUT_S, Worker
from bevdistill_ros.paths import model_path
from bevdistill_ros.synchroniser import AMBIGUOUS, MS, CameraSet, Synchroniser
from bevdistill_ros.threads import Crew

NODE_NAME = "bevdistill_detector"
QUIET_S = 5.0
"""While nothing is published, the log says every so often what is missing."""
GIVE_BACK_S = 10.0
"""What a burst of images has taken goes back to the system within so long; less than a millisecond, mostly."""

LoadDetector = Callable[[str, str], Any]
"""(the parameter `model`, device) -> detector, as ``Detector.from_checkpoint``."""


@dataclass
class _Counts:
    """Since activation; guarded by the node's lock."""

    sets: int = 0
    partial: int = 0
    superseded: int = 0
    failed: int = 0
    published: int = 0
    resets: int = 0


class DetectorNode(LifecycleNode):
    """The node. ``load_detector`` stands in for ``Detector.from_checkpoint`` in tests.

    Raises:
        UserError: a parameter given at the start is wrong.
    """

    def __init__(self, load_detector: LoadDetector | None = None, **node_arguments: Any) -> None:
        super().__init__(NODE_NAME, **node_arguments)
        self._load_detector = load_detector or self._load_model
        self._lock = threading.Lock()
        self._destroyed = False
        self.failure = ""
        """Why the last transition failed; empty if it did not."""
        try:
            settings = parameters.declare(self)
        except UserError:
            self.destroy_node()
            raise
        self.autostart = settings.autostart
        self._settings = settings
        self._live = settings
        """The present parameters, as one object: a set of images never sees half of a change."""
        self.add_on_set_parameters_callback(self._on_parameters)
        self._health = Health(self._log_trouble)
        self._counts = _Counts()
        # What the transitions make and undo.
        self._detector: Any = None
        self._model_name = ""
        self._identity: dict[str, str] = {}
        self._file: dict[str, FileCalibration] = {}
        self._transforms: TransformSource | None = None
        self._tf_listener: Any = None
        self._crew: Crew | None = None
        self._outputs: Outputs | None = None
        self._worker: Worker | None = None
        self._inputs: CameraInputs | None = None
        self._reset_transient()
        # The buffer lives as long as the node: it offers a service and follows the node's clock.
        self._tf_buffer = tf2_ros.Buffer(node=self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On a steady clock: it must speak also while simulated time stands still.
        self._timer = self.create_timer(
            settings.diagnostics_period_s, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._warn_of_unknown_parameters()
        self._answer_every_request_for_a_transition()

    def _reset_transient(self) -> None:
        """State of one activation."""
        self._published_at = self._told_at = self._gave_back_at = time.monotonic()
        self._last_status: DetectorStatus | None = None
        self._pace = Pace()
        self._drops = DropWatch()
        self._load: deque[tuple[float, int, int]] = deque()  # monotonic s, sets, superseded sets

    # ---- transitions ------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Configure and activate. True if the node is active; else ``failure`` says why."""
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                return False
        return True

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("activate", lambda: self._activate(state), self._stop_work)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", lambda: self._deactivate(state), self._stop_work)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("cleanup", self._release, None)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shutdown", self._release, None)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition failed unexpectedly: give everything back, so that configure can be tried again."""
        reason = self.failure
        result = self._transition("error processing", self._release, None)
        self.failure = reason
        return result

    def _answer_every_request_for_a_transition(self) -> None:
        """A request for a transition that the present state does not have is answered by no; in rclpy it raises an exception
        out of the service's callback, which ends `rclpy.spin`: anybody could end the node by a wrong call."""
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = partial(self._on_change_state, service.callback)

    def _on_change_state(
        self,
        change: Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response],
        request: ChangeState.Request,
        response: ChangeState.Response,
    ) -> ChangeState.Response:
        try:
            return change(request, response)
        except Exception as error:
            if self.context.ok():  # else the process is being ended
                asked, why = request.transition, " ".join(str(error).split())
                self.get_logger().error(f"transition {asked.id} '{asked.label}' refused: {why}")
            response.success = False
            return response

    def _transition(
        self, name: str, do: Callable[[], None], undo: Callable[[], None] | None
    ) -> TransitionCallbackReturn:
        """Run a transition. rclpy drops exceptions of transition callbacks without a word, so none may leave here.

        A UserError is a FAILURE: the node returns to the state it came from. Anything else is an ERROR, logged with its
        traceback.
        """
        self.failure = ""
        try:
            do()
            result = TransitionCallbackReturn.SUCCESS
        except Exception as error:
            expected = isinstance(error, UserError)
            self.failure = str(error) if expected else f"{type(error).__name__}: {error}"
            if self.context.ok():  # else the process is being ended, and failures are its echo
                text = (
                    self.failure
                    if expected
                    else "".join(traceback.format_exception(type(error), error, error.__traceback__))
                )
                self.get_logger().error(f"transition '{name}' failed: {text}")
            self._health.report("", diagnostics.MODEL, f"transition '{name}' failed: {self.failure}", log=False)
            result = TransitionCallbackReturn.FAILURE if expected else TransitionCallbackReturn.ERROR
        if result == TransitionCallbackReturn.SUCCESS:
            if name != "error processing":
                self._health.clear("", diagnostics.MODEL)
        elif undo is not None:
            try:
                undo()
            except Exception:
                self.get_logger().error(f"undoing '{name}' failed:\n{traceback.format_exc()}")
                result = TransitionCallbackReturn.ERROR
        return result

    def _configure(self) -> None:
        self._release()
        forget_destroyed(self.default_callback_group)
        settings = self._live = parameters.read(self)
        if not settings.model:
            raise UserError(
                "parameter 'model' is empty: give the path of a checkpoint, as model:=/path/to/model.safetensors, "
                "or the name of shipped weights"
            )
        device = _device(settings.device)
        threads.limit_libraries(settings.torch_threads)  # before the model, whose backend may have threads of its own
        detector = self._load_detector(settings.model, device)
        settings = settings.for_cameras(detector.cameras)
        settings.thresholds(detector.class_names)
        check_topics(self, settings)
        self._file = load_calibration_file(settings.calibration_file) if settings.calibration_file else {}
        strangers = [name for name in self._file if name not in settings.cameras]
        if strangers:
            self.get_logger().warning(
                f"{settings.calibration_file}: of no use for {', '.join(strangers)}: the cameras are "
                f"{', '.join(settings.cameras)}"
            )
        self._settings, self._detector = settings, detector
        self._model_name = f"{settings.model} on {device}"
        self._identity = _model_identity(settings.model, detector)
        self._crew = Crew(settings.decode_threads or threads.picture_threads(len(settings.cameras)), "decode")
        self._tf_listener = tf2_ros.TransformListener(self._tf_buffer, self)
        self._transforms = TransformSource(self._tf_buffer, settings.base_frame, settings.fixed_frame)
        self._outputs = Outputs(self, settings, detector)
        if settings.warm_up:
            _warm_up(detector, len(settings.cameras))
        # After it has run: only then it is known whether it can be recorded.
        if backend := getattr(detector, "backend", ""):
            why = f" ({detector.backend_note})" if detector.backend_note else ""
            self.get_logger().info(f"backend {backend}{why}")
        leave_out_of_collection()
        self.get_logger().info(
            f"model {self._model_name}; cameras {', '.join(settings.cameras)}; boxes in {settings.base_frame}"
        )

    def _load_model(self, model: str, device: str) -> Any:
        from bevdistill_ros.detector import Detector

        settings = self._live
        return Detector.from_checkpoint(
            model_path(model), device, settings.backend, settings.onnx_providers, settings.execution
        )

    def _activate(self, state: LifecycleState) -> None:
        settings = self._settings
        offsets = None
        if settings.camera_offsets_ms:
            offsets = {name: round(ms * MS) for name, ms in zip(settings.cameras, settings.camera_offsets_ms)}
        policy = Synchroniser(
            settings.cameras,
            offsets,
            tolerance_ns=round(settings.tolerance_ms * MS),
            deadline_ns=round(settings.deadline_ms * MS),
            min_cameras=settings.min_cameras or None,
        )
        self._stop_work()
        forget_destroyed(self.default_callback_group)
        super().on_activate(state)  # opens the publishers
        with self._lock:
            self._counts = _Counts()
            self._reset_transient()
        self._outputs.restart()
        calibration = CalibrationStore(self._file, settings.rectified)
        topics = {
            name: (
                self.resolve_topic_name(settings.image_topic_of(name)),
                self.resolve_topic_name(settings.camera_info_topic_of(name)) if calibration.needs_info(name) else "",
            )
            for name in settings.cameras
        }
        self._health.watch(topics)
        for aspect in (diagnostics.MOTION, diagnostics.NETWORK):
            self._health.clear("", aspect)
        self._outputs.publish_labels(settings)
        image_topics = {name: image_topic for name, (image_topic, _) in topics.items()}
        repeats = Repeats()
        pipeline = SetPipeline(
            settings, image_topics, self._detector, calibration, self._transforms, self._health, self._crew, repeats
        )
        startup = StartupTable(settings, self._detector.cameras, self._log_rig)
        self._worker = Worker(partial(self._process, pipeline, self._outputs, startup), self._on_work_error)
        self._inputs = CameraInputs(self, settings, topics, policy, calibration, self._health, repeats, self._on_set)
        self._inputs.open()

    def _deactivate(self, state: LifecycleState) -> None:
        self._stop_work()
        self._outputs.clear_markers()
        super().on_deactivate(state)  # closes the publishers
        self._health.watch({})
        give_back()

    def _stop_work(self) -> None:
        """Undo _activate: no image, set or box after this. Repeatable."""
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop():
            self.get_logger().error(
                f"the network has not come back within {STOP_TIMEOUT_S:.0f} s: its result will be ignored"
            )

    def _release(self) -> None:
        """Undo everything but what the constructor made. Repeatable."""
        self._stop_work()
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()
        listener, self._tf_listener = self._tf_listener, None
        if listener is not None:
            listener.unregister()
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()
        self._detector = self._transforms = None
        self._model_name, self._identity, self._file = "", {}, {}
        self._health.watch({})
        if not self._destroyed:
            self._tf_buffer.clear()
        let_collect()
        give_back()

    def destroy_node(self) -> None:
        """Repeatable."""
        if self._destroyed:
            return
        self._destroyed = True
        if hasattr(self, "_tf_buffer"):
            self._release()
        super().destroy_node()

    # ---- the executor's thread --------------------------------------------------------------------------------------

    def _on_parameters(self, changed: Sequence[Any]) -> SetParametersResult:
        detector = self._detector
        unconfigured = detector is None
        current = parameters.read(self)
        names = None if detector is None else detector.class_names
        changes = {p.name: p.value for p in changed}
        reason = parameters.refusal(current, changes, unconfigured, names)
        if not reason:
            self._live = parameters.merged(current, changes)
        return SetParametersResult(successful=not reason, reason=reason)

    def _warn_of_unknown_parameters(self) -> None:
        """ROS ignores parameters that no node declares, so a slip of the pen would go unseen."""
        for name in getattr(self, "_parameter_overrides", {}):
            if not self.has_parameter(name) and not name.startswith("qos_overrides."):
                self.get_logger().warning(f"there is no parameter '{name}': the value given for it is ignored")

    def _on_set(self, camera_set: CameraSet) -> None:
        worker, inputs = self._worker, self._inputs
        if worker is None or inputs is None:
            return
        resets = inputs.policy.counters.resets
        with self._lock:
            jumped = resets != self._counts.resets
            self._counts.resets = resets
        if jumped:  # what TF knows is of another time
            self.get_logger().warning("the image stamps have jumped back: transforms heard so far are forgotten")
            self._tf_buffer.clear()
        displaced = worker.offer(camera_set)
        with self._lock:
            self._counts.sets += 1
            self._counts.partial += not camera_set.complete
            self._counts.superseded += displaced

    # ---- the worker's thread ----------------------------------------------------------------------------------------

    def _on_work_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # the process is being ended
        with self._lock:
            self._counts.failed += 1
        self._tell_of_failure(error)

    def _tell_of_failure(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().error(f"a set of images failed:\n{text}", throttle_duration_sec=5.0)
        self._health.report("", diagnostics.NETWORK, f"a set of images failed: {type(error).__name__}: {error}")

    def _log_rig(self, text: str, wrong: bool) -> None:
        # On lines of their own: rclpy knows a call by its line, and refuses it another severity.
        if wrong:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)

    def _process(
        self,
        pipeline: SetPipeline,
        outputs: Outputs,
        startup: StartupTable,
        camera_set: CameraSet,
        stopping: threading.Event,
    ) -> None:
        """A set of images to published boxes."""
        settings = self._live
        begun = time.perf_counter()
        try:
            result = pipeline.run(camera_set, settings, stopping)
        except Exception as error:
            if not self.context.ok():
                return  # the process is being ended
            self._tell_of_failure(error)
            t_ref = reference_time(camera_set.stamps, self._settings.reference_camera)
            result = SetResult(camera_set, t_ref, problems=[f"the network failed: {type(error).__name__}: {error}"])
        if stopping.is_set():
            return
        if result.boxes is not None:
            detected = time.perf_counter()
            outputs.publish_boxes(result, settings)
            result.stages["publish"] = (time.perf_counter() - detected) * 1e3
        result.stages["total"] = (time.perf_counter() - begun) * 1e3
        outputs.status.publish(self._status(result, pipeline.unusable_images))
        if result.boxes is not None:
            outputs.offer_overlay(result, settings)
        startup.hear(result)

    def _status(self, result: SetResult, unusable_images: int) -> DetectorStatus:
        """Count a set that has been gone through, and say what became of it."""
        camera_set, poses, inputs = result.camera_set, result.poses, self._inputs
        now = time.monotonic()
        published, used = result.boxes is not None, result.used
        latency_ms = (self.get_clock().now().nanoseconds - result.t_ref) / MS
        with self._lock:
            counts = self._counts
            counts.published += published
            counts.failed += not published
            if published:
                self._published_at = now
                self._pace.published(now, latency_ms, [name for name in camera_set.cameras if name not in used])
            status = DetectorStatus(
                sets=counts.sets,
                partial_sets=counts.partial,
                superseded_sets=counts.superseded,
                failed_sets=counts.failed,
                dropped_images=unusable_images,
            )
        if inputs is not None:
            status.dropped_images += sum(sum(by.values()) for by in inputs.policy.counters.dropped.values())
            status.sets += inputs.superseded
            status.superseded_sets += inputs.superseded
        status.header = messages.header(result.t_ref, self._settings.base_frame)
        status.published = published
        status.objects = len(result.boxes) if result.boxes is not None else 0
        status.cameras = list(camera_set.cameras)
        status.used = [name in used for name in camera_set.cameras]
        status.partial = len(used) < len(camera_set.cameras)
        status.motion_compensated = published and poses is not None and poses.motion_compensated
        status.sync_spread_ms = camera_set.skew_ns / MS
        status.latency_ms = latency_ms
        status.stages = [StageTime(name=name, milliseconds=float(value)) for name, value in result.stages.items()]
        missing = [f"{name}: no image in this set" for name in camera_set.missing]
        status.problems = [*result.problems, *missing]
        self._last_status = status
        return status

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def _log_trouble(self, text: str, level: bytes) -> None:
        if level == ERROR:
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _on_timer(self) -> None:
        try:
            self._tell()
        except Exception:  # what leaves a callback ends rclpy.spin
            if self.context.ok():
                self.get_logger().error(f"diagnostics failed:\n{traceback.format_exc()}", throttle_duration_sec=10.0)
        if time.monotonic() - self._gave_back_at >= GIVE_BACK_S:
            self._gave_back_at = time.monotonic()
            give_back()

    def _tell(self) -> None:
        """Publish /diagnostics; while no boxes come, say in the log what is missing, one line a camera."""
        now = time.monotonic()
        worker, inputs = self._worker, self._inputs
        active = worker is not None
        state = "active" if active else "unconfigured" if self._detector is None else "inactive"
        counters = inputs.policy.counters if inputs is not None else None
        waiting = inputs.policy.waiting if inputs is not None else {}
        waved_off = inputs.superseded if inputs is not None else 0
        with self._lock:
            quiet = now - self._published_at
            counts, status = replace(self._counts), self._last_status
            pending = worker.pending if worker is not None else 0
            pace = self._pace.values(now)
            out_of_band = [*self._pace.partial(now), *self._pace.troubles(self._live, now)]
        counts.sets += waved_off
        counts.superseded += waved_off
        values = {
            "state": state,
            "model": self._model_name,
            **self._identity,
            "backend": getattr(self._detector, "backend", ""),
            "sets": str(counts.sets),
            "partial sets": str(counts.partial),
            "superseded sets": str(counts.superseded),
            "failed sets": str(counts.failed),
            "published": str(counts.published),
            "pending sets": str(pending),
            **pace,
        }
        if status is not None:
            values["motion compensated"] = str(status.motion_compensated)
            values.update({f"{stage.name} (ms)": f"{stage.milliseconds:.1f}" for stage in status.stages})
        troubles = [*self._health.troubles(""), *self._offset_troubles()]
        if not active and not troubles:
            troubles = [Trouble(WARN, f"the node is {state}, not active")]
        elif active and worker.busy_s > QUIET_S:
            troubles.insert(0, Trouble(ERROR, f"the network has not come back for {worker.busy_s:.0f} s"))
        elif active and quiet > QUIET_S:
            troubles.insert(0, Trouble(ERROR, f"no boxes for {quiet:.0f} s{self._clock_hint()}"))
        elif active and not counts.published:
            troubles.insert(0, Trouble(WARN, "waiting for the first set of images"))
        if active:
            troubles += [*out_of_band, *self._overload(now, counts)]
        dropped = self._drops.update(counters, now) if counters is not None else {}
        name = self.get_fully_qualified_name().lstrip("/")
        statuses = [diagnostics.status_message(f"{name}: detector", "", troubles, "boxes are being published", values)]
        lines = []
        for camera in self._health.cameras:
            found = [*self._health.troubles(camera, self.count_publishers), *dropped.get(camera, [])]
            values = self._health.camera_values(camera)
            if counters is not None:
                values["images in sets"] = str(counters.used[camera])
                values["images waiting"] = str(waiting[camera])
                values.update(
                    {f"dropped: {why}": str(by[camera]) for why, by in counters.dropped.items() if by[camera]}
                )
            statuses.append(
                diagnostics.status_message(f"{name}: {camera}", "", found, "images and calibration arrive", values)
            )
            lines.append(f"  {camera}: " + ("; ".join(trouble.text for trouble in found) or "ok"))
        self._diagnostics.publish(diagnostics.diagnostic_array(self.get_clock().now().to_msg(), statuses))
        if active and quiet > QUIET_S and now - self._told_at >= QUIET_S:
            self._told_at = now
            head = "; ".join(trouble.text for trouble in troubles)
            self.get_logger().warning("\n".join([head, *lines]))

    def _overload(self, now: float, counts: _Counts) -> list[Trouble]:
        """Whether sets give way to newer ones at present: the network is slower than the cameras."""
        self._load.append((now, counts.sets, counts.superseded))
        while len(self._load) > 1 and now - self._load[1][0] >= WINDOW_S:
            self._load.popleft()
        _, sets, superseded = self._load[0]
        sets, superseded = counts.sets - sets, counts.superseded - superseded
        if superseded <= 0:
            return []
        return [Trouble(WARN, f"{superseded} of the last {sets} sets gave way to newer ones: the network is too slow")]

    def _offset_troubles(self) -> list[Trouble]:
        """Why the synchroniser emits nothing, if it does not know the cameras' time offsets."""
        inputs = self._inputs
        if inputs is None or not inputs.policy.offset_reason:
            return []
        policy = inputs.policy
        if policy.offset_state == AMBIGUOUS:
            return [Trouble(ERROR, f"give camera_offsets_ms, they cannot be learnt: {policy.offset_reason}")]
        return [Trouble(WARN, f"the cameras' time offsets are being learnt: {policy.offset_reason}")]

    def _clock_hint(self) -> str:
        clock = self.get_clock()
        simulated = self.has_parameter("use_sim_time") and self.get_parameter("use_sim_time").value
        return (
            "; use_sim_time is set, but no time has come on /clock"
            if simulated and clock.now().nanoseconds == 0
            else ""
        )


def _model_identity(model: str, detector: Any) -> dict[str, str]:
    """Which weights these are, for /diagnostics: hash of the file, and what they were trained on."""
    values = {}
    try:
        path = model_path(model)
    except UserError:
        pass  # a detector that is of no file
    else:
        values["model file"] = str(path)
        values["model sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    training = getattr(detector, "training", {})
    for key in ("data", "version", "split", "steps"):
        if training.get(key) is not None:
            values[f"trained on: {key}" if key in ("data", "version", "split") else f"training {key}"] = str(
                training[key]
            )
    return values


def _device(name: str) -> str:
    from bevdistill_ros.detector import choose_device

    return choose_device(name)


def _warm_up(detector: Any, count: int) -> None:
    """Once through the network with black images of a plausible rig of ``count`` cameras: its first run is slow."""
    image = detector.config.image
    K = np.array([[image.width / 2, 0, image.width / 2], [0, image.width / 2, image.height / 2], [0, 0, 1.0]])
    forward = np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1.0]])
    images = np.zeros((count, image.height, image.width, 3), np.uint8)
    detector(images, np.stack([K] * count), np.stack([forward] * count), np.ones(count, bool), score_threshold=1.0)
