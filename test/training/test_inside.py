"""Names out of a dataset's tables lead nowhere but into the dataset's folder; its owner's links do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.convert.from_nuscenes import _folder
from bevdistill_ros.training.data.inside import inside, plain_name
from bevdistill_ros.training.label.tables import LabelledVersion

WHERE = "v1.0-mini/sample_data.json: filename"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../x.jpg", "samples/../../x.jpg", "samples/..", "..", "", ".", "C:\\x.jpg", "C:/x.jpg", "..\\x.jpg",
        "a\x00b", "a\nb", "samples\\..\\..\\x", None, 3, ["a"], "\ud800",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(
        UserError, match=r"v1\.0-mini/sample_data\.json: filename .*must be the name of a file inside of"
    ) as error:
        inside(tmp_path, name, WHERE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["samples/CAM_FRONT/a__b.jpg", "./a.jpg", "a..b/c...jpg", "samples/é.jpg", "-rf"])
def test_names_inside_are_kept(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, WHERE) == tmp_path / name


def test_links_of_the_owner_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "samples").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert inside(tmp_path / "link", "samples/a.jpg", WHERE).read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/a", "a\\b", "", "x" * 300, "a\nb", None, 7])
def test_names_that_files_are_named_after_are_plain(name: object) -> None:
    with pytest.raises(UserError, match=r"scene\.json: name .*must be a plain name"):
        plain_name(name, "scene.json: name")


def test_bags_and_labels_are_named_after_plain_scenes_only(tmp_path: Path) -> None:
    class Tables:
        dataroot, table_root = str(tmp_path), str(tmp_path / "v1.0-mini")

    assert _folder(tmp_path, {"name": "scene-0061"}, Tables) == tmp_path / "scene-0061"
    with pytest.raises(UserError, match=r"scene\.json: name '\.\./up'"):
        _folder(tmp_path, {"name": "../up"}, Tables)
    version = LabelledVersion(Tables, "v1.0-labels", {})
    for name in ("../../up", "/tmp/up"):
        with pytest.raises(UserError, match=r"scene\.json: name"):
            version.add_scene(name, {})
    version.add_scene("scene-0061", {"annotations": []})
    assert version.scene("scene-0061") == {"annotations": []}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".v1.0-labels.partial"]


def test_a_dataset_that_points_out_of_its_folder_is_refused(tiny_nuscenes: Path, tmp_path: Path) -> None:
    from bevdistill_ros.config import CLASS_NAMES, ImageConfig, PointsConfig
    from bevdistill_ros.preprocess import Preprocessor
    from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, find_version, open_nuscenes

    version = find_version(tiny_nuscenes)
    root = tmp_path / "hostile"
    shutil.copytree(tiny_nuscenes / version, root / version)
    for folder in ("samples", "sweeps", "maps"):
        if (tiny_nuscenes / folder).exists():
            (root / folder).symlink_to(tiny_nuscenes / folder)  # as people have datasets on other disks
    table = root / version / "sample_data.json"
    rows = json.loads(table.read_bytes())

    def samples() -> NuScenesSamples:
        nusc = open_nuscenes(root)
        return NuScenesSamples(
            nusc, choose_samples(nusc), CLASS_NAMES, Preprocessor(ImageConfig(32, 64)), points=PointsConfig()
        )

    assert samples()[0].images.any() and len(samples()[0].points)
    for channel, read in (("CAM_", lambda s: s.images(0)), ("LIDAR_", lambda s: s.points(s.geometry(0)))):
        hostile = [
            {**row, "filename": str(tiny_nuscenes / row["filename"])} if channel in row["filename"] else row
            for row in rows
        ]  # the very files, but by their absolute names
        table.write_text(json.dumps(hostile))
        with pytest.raises(UserError, match=rf"{version}/sample_data\.json: filename '/.*inside of"):
            read(samples())
