"""Table, verdict, JSON."""

import json

from bevdistill_ros.doctor.checks import examine
from bevdistill_ros.doctor.findings import ERROR, OK, WARNING, Finding, exit_status, ordered
from bevdistill_ros.doctor.report import as_json, last_line, table

FINDINGS = [
    Finding(OK, "camera", "front", "10.0 Hz"),
    Finding(WARNING, "rate", "left", "slow", "faster"),
    Finding(WARNING, "rate", "right", "slow", "faster"),
    Finding(ERROR, "topic", "back", "nobody publishes it " * 4, "start the driver"),
]


def test_the_worst_come_first_and_what_is_the_same_is_told_once():
    lines = table(ordered(FINDINGS), 60).splitlines()
    assert lines[0].startswith("error    back       nobody publishes it")
    assert lines[2].startswith(" " * 20 + "nobody") or lines[1].startswith(" " * 20 + "nobody")
    assert [line for line in lines if "slow" in line] == ["warning  2 cameras  left, right: slow"]
    assert lines[-1] == "ok       front      10.0 Hz"
    assert max(map(len, lines)) <= 60
    assert sum("-> faster" in line for line in lines) == 1


def test_verdict_and_exit_status():
    assert last_line(FINDINGS) == "1 error, 2 warnings" and exit_status(FINDINGS) == 1
    assert last_line(FINDINGS[:3]) == "2 warnings" and exit_status(FINDINGS[:3]) == 0
    assert last_line(FINDINGS[:1]) == "all is well" and exit_status([]) == 0 and table([]) == ""


def test_json_holds_findings_and_cameras(rig):
    facts = rig(cameras=[rig.camera("left", base_T_camera=None, intrinsics=None, arrivals=())])
    document = json.loads(json.dumps(as_json(facts, examine(facts)), allow_nan=False))
    assert document["ok"] is False and document["counts"]["error"] == sum(
        f["severity"] == "error" for f in document["findings"]
    )
    assert set(document["findings"][0]) == {"severity", "check", "subject", "what", "advice"}
    front, left, _ = document["cameras"]
    assert front["size"] == [320, 192] and front["latency_ms"] == 30.0 and len(front["K"]) == 9
    assert left["rate_hz"] is None and left["K"] is None and left["base_T_camera"] is None
