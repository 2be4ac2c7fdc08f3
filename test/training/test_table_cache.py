"""Tables from the file: the devkit's records, made once, anew when the tables change, in any process."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bevdistill_ros.cli import main
from bevdistill_ros.config import CLASS_NAMES, PointsConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.training.data import table_cache
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.data.table_cache import open_table_cache


def test_records_and_samples_are_the_devkits(tiny_nuscenes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(table_cache, "CHUNK", 997)  # records lie across what is read at a time
    devkit, cached = open_nuscenes(tiny_nuscenes), open_table_cache(tiny_nuscenes, "v1.0-mini", tmp_path)
    assert cached.table_root == devkit.table_root and cached.scene == devkit.scene and cached.sensor == devkit.sensor
    for table in ("sample", "sample_annotation", "calibrated_sensor", "instance"):
        for row in getattr(devkit, table):
            assert cached.get(table, row["token"]) == row
    tokens = choose_samples(cached)
    assert tokens == choose_samples(devkit)
    ours, theirs = (
        NuScenesSamples(nusc, tokens, CLASS_NAMES, None, points=PointsConfig(0.6)) for nusc in (cached, devkit)
    )
    for ours_now, theirs_now in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(ours_now.points, theirs_now.points)
        np.testing.assert_array_equal(ours_now.ego_T_cam, theirs_now.ego_T_cam)
        np.testing.assert_array_equal(ours_now.boxes.velocities, theirs_now.boxes.velocities)
    with pytest.raises(KeyError, match="sample none"):
        cached.get("sample", "none")


def test_it_is_made_once_and_anew_when_a_table_changes(tiny_nuscenes, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes / "v1.0-mini", root / "v1.0-mini")
    cache = tmp_path / "cache"
    for _ in range(2):
        open_table_cache(root, "v1.0-mini", cache)
    (file,) = cache.iterdir()
    assert capsys.readouterr().err.count("taking in the tables") == 1
    table = root / "v1.0-mini" / "scene.json"
    rows = json.loads(table.read_text())
    rows[0]["name"] = "scene-9999"
    table.write_text(json.dumps(rows))
    assert open_table_cache(root, "v1.0-mini", cache).scene[0]["name"] == "scene-9999"
    file.write_bytes(file.read_bytes()[:3000])  # damaged
    assert open_table_cache(root, "v1.0-mini", cache).scene[0]["name"] == "scene-9999"
    assert list(cache.iterdir()) == [file]


def test_every_process_and_thread_reads_it(tiny_nuscenes, tmp_path) -> None:
    cached = open_table_cache(tiny_nuscenes, "v1.0-mini", tmp_path)
    tokens = choose_samples(cached)
    with ThreadPoolExecutor(4) as pool:
        assert [row["token"] for row in pool.map(lambda token: cached.get("sample", token), tokens)] == tokens
    assert pickle.loads(pickle.dumps(cached)).get("sample", tokens[0])["token"] == tokens[0]
    first = cached._connection()
    cached._local.process = os.getpid() + 1  # as after a fork
    assert cached._connection() is not first


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', '[{"token": "a"}', ""])
def test_damaged_tables_are_said(tiny_nuscenes, tmp_path, content: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes / "v1.0-mini", root / "v1.0-mini")
    (root / "v1.0-mini" / "ego_pose.json").write_text(content)
    with pytest.raises(UserError, match="the tables cannot be read .*ego_pose.json"):
        open_table_cache(root, "v1.0-mini", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_training_from_it_is_the_same(tiny_nuscenes, tmp_path) -> None:
    small = ["backbone.width=16", "image.height=64", "image.width=96", "grid.cell=3.2"]
    settings = [f"--set=model.{option}" for option in small]
    settings += [
        f"--set=training.{option}" for option in ("steps=2", "batch_size=2", "image_supervision={}", "workers=1")
    ]
    given = ["--data", str(tiny_nuscenes), "--config", "nano", "--device", "cpu", "--val-split", "mini_val", *settings]
    for name, more in (("devkit", []), ("cached", ["--cache-tables"])):
        assert (
            main(["train", *given, *more, "--output", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")])
            == 0
        )
    assert len(list((tmp_path / "cached" / "table_cache").glob("v1.0-mini-*.tables"))) == 1
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("devkit", "cached"))
    assert first["loss"] == second["loss"] and first["validation"] == second["validation"]
