"""What the rig runs on: DDS and its shared memory, the device, the model file."""

from __future__ import annotations

from bevdistill_ros.doctor.facts import Facts
from bevdistill_ros.doctor.findings import ERROR, NOTE, OK, WARNING, Finding
from bevdistill_ros.paths import DEFAULT_MODEL

FAST_DDS = "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp"
DEFAULT_SEGMENT = 512 * 1024  # bytes; Fast DDS's own
PROFILE = "config/fastdds_large_segment.xml"


def check_shared_memory(facts: Facts) -> list[Finding]:
    """Do the images of a set fit into what their publishers have of shared memory?"""
    need: dict[str, int] = {}
    for camera in facts.cameras:
        if not camera.arrivals:
            continue
        node = next((publisher.node for publisher in camera.image.publishers), "")
        need[node] = need.get(node, 0) + max(arrival.size for arrival in camera.arrivals)
    if not need or facts.dds.rmw not in FAST_DDS:
        return []
    node, largest = max(need.items(), key=lambda item: item[1])
    whose = f"the images of a set from {node or 'one node'} have {_bytes(largest)}"
    if facts.dds.free is not None and facts.dds.free < 2 * sum(need.values()):
        what = f"only {_bytes(facts.dds.free)} of shared memory (/dev/shm) are free; {whose}"
        return [
            Finding(
                ERROR, "shared_memory", "dds", what, "give the container more: docker run --shm-size=1g, or --ipc=host"
            )
        ]
    if largest <= DEFAULT_SEGMENT:
        return [Finding(OK, "shared_memory", "dds", f"{whose}, which fits a Fast DDS segment of any size")]
    widest = max(facts.dds.segments, default=0)
    if widest >= largest:
        return [Finding(OK, "shared_memory", "dds", f"{whose}; the largest Fast DDS segment here has {_bytes(widest)}")]
    have = f"none of the {len(facts.dds.segments)} Fast DDS segments on this machine is so large ({_bytes(widest)})"
    advice = (
        f"start the publisher with {PROFILE} (docs/node.md, QoS and DDS); of no concern if it is on another machine"
    )
    return [Finding(WARNING, "shared_memory", "dds", f"{whose}; {have}: images get lost", advice)]


def check_device(facts: Facts) -> list[Finding]:
    """Can the network run where the parameters say?"""
    device = facts.device
    if device.problem:
        return [
            Finding(ERROR, "device", "device", device.problem, "set device: auto or cpu, or mend driver and PyTorch")
        ]
    if not device.device:
        return []
    text = f"{device.device}: {device.description}" if device.description else device.device
    return [Finding(OK, "device", "device", text)]


def check_model(facts: Facts) -> list[Finding]:
    """Can the checkpoint be used, and where does it come from?"""
    model = facts.model
    if model.problem:
        advice = "give model the path of a student's checkpoint, or the name of shipped weights"
        return [Finding(ERROR, "model", "model", model.problem, advice)]
    if not model.name:
        return []
    origin = (
        " ".join(str(model.training[key]) for key in ("data", "split") if model.training.get(key)) or "unknown data"
    )
    what = (
        f"{model.given}: {model.name}, {len(model.classes)} classes, {_bytes(model.size)}, sha256 {model.sha256[:12]}, "
        f"trained on {origin}, cameras {', '.join(model.cameras) or 'not named'}"
    )
    findings = [Finding(OK, "model", "model", what)]
    if model.given == DEFAULT_MODEL:
        advice = "train or fine-tune on your own bags (docs/training.md) before you rely on it"
        what = "the weights that are shipped know a synthetic world alone: enough to see it work, not for a street"
        findings.append(Finding(NOTE, "model", "model", what, advice))
    return findings


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
