"""Bags on a Ray cluster of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import robot

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.convert.from_bags import convert_bags
from bevdistill_ros.training.convert.recording import Options
from bevdistill_ros.training.convert.rig_file import load_rig


def test_a_cluster_gives_the_same_dataset(tmp_path, rig):
    pytest.importorskip("ray")
    bags = [robot.record(tmp_path / name, sweeps=6) for name in ("a", "b")]
    broken = robot.record(tmp_path / "c", change=lambda e, _: [x for x in e if x.topic != "/points"])
    here = convert_bags([*bags, broken], tmp_path / "here", load_rig(rig()), Options(), 1)
    there = convert_bags([*bags, broken], tmp_path / "there", load_rig(rig()), Options(), 1, cluster="local")
    assert [report["bag"] for report in there.made] == ["a", "b"] and there.made == here.made
    assert there.failed == here.failed and "no topic /points" in there.failed[0][1]
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_without_ray_there_is_one_clear_error(tmp_path, rig, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    bag = robot.record(tmp_path / "a", sweeps=6)
    with pytest.raises(UserError, match="--ray needs the Python module 'ray'"):
        convert_bags([bag], tmp_path / "there", load_rig(rig()), Options(), 1, cluster="auto")


def test_an_address_that_is_none_is_one_clear_error(tmp_path, rig):
    pytest.importorskip("ray")
    bag = robot.record(tmp_path / "a", sweeps=6)
    with pytest.raises(UserError, match="--ray nowhere://x: no Ray cluster can be used there"):
        convert_bags([bag], tmp_path / "there", load_rig(rig()), Options(), 1, cluster="nowhere://x")


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
