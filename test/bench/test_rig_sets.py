"""Pictures for the benchmark: made up, of a dataset, of a bag."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bevdistill_ros.bench.rig_sets import bag_sets, dataset_sets, synthetic_sets
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import invert
from bevdistill_ros.images import encoded_size


def test_made_up_pictures_are_those_of_a_rig_and_always_the_same():
    (one,) = synthetic_sets(1)
    assert len(one.pictures) == len(one.cameras) == len(one.ego_T_cam) == 6
    assert {encoded_size(picture) for picture in one.pictures} == {(1600, 900)}
    assert len(set(one.pictures)) == 6
    # Pictures of a street, at such a quality, are of 100 to 250 kB.
    assert all(100_000 < len(picture) < 250_000 for picture in one.pictures)
    assert one.encoded_bytes == sum(map(len, one.pictures))
    forward = one.ego_T_cam[:, :3, 2]
    np.testing.assert_allclose(forward.sum(axis=0), 0, atol=1e-9)  # all around
    np.testing.assert_allclose(forward[0], (1, 0, 0), atol=1e-9)
    again, other = synthetic_sets(1, size=(160, 90), seed=1), synthetic_sets(1, size=(160, 90), seed=2)
    assert again[0].pictures == synthetic_sets(1, size=(160, 90), seed=1)[0].pictures != other[0].pictures


class TestDataset:
    nuscenes = pytest.importorskip("nuscenes")

    def test_keyframes_with_their_cameras(self, tiny_nuscenes):
        from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes

        cameras = ("CAM_BACK", "CAM_FRONT")
        sets = dataset_sets(tiny_nuscenes, "v1.0-mini", cameras, 3)
        nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
        samples = NuScenesSamples(nusc, choose_samples(nusc), (), None, cameras)
        assert len(sets) == 3 and all(one.names == cameras for one in sets)
        for index, one in enumerate(sets):
            np.testing.assert_array_equal(one.ego_T_cam, samples.geometry(index).ego_T_cam)
            records = samples.records(index)
            for name, picture, camera in zip(one.names, one.pictures, one.cameras):
                assert picture == (tiny_nuscenes / records[name]["filename"]).read_bytes()
                assert (camera.width, camera.height) == (160, 90)
                assert camera.K[0, 0] == (70.0 if name == "CAM_BACK" else 110.0)

    def test_other_cameras_are_the_datasets_own(self, tiny_nuscenes):
        (one,) = dataset_sets(tiny_nuscenes, None, ("left", "right"), 1)
        assert len(one.names) == 6 and one.names[0] == "CAM_FRONT"

    def test_what_is_wrong_is_named(self, tiny_nuscenes, tmp_path):
        with pytest.raises(UserError, match=f"{tmp_path}: has no nuScenes version"):
            dataset_sets(tmp_path, None, (), 1)
        root = tmp_path / "copy"
        shutil.copytree(tiny_nuscenes, root)
        for path in (root / "samples" / "CAM_FRONT").iterdir():
            path.unlink()
        with pytest.raises(UserError, match=r"samples/CAM_FRONT/.*\.jpg: cannot be read"):
            dataset_sets(root, None, (), 1)


@pytest.fixture(scope="module")
def robot():
    pytest.importorskip("rosbags")
    pytest.importorskip("nuscenes")
    folder = str(Path(__file__).resolve().parent.parent / "training" / "convert")
    if folder not in sys.path:
        sys.path.append(folder)
    import robot

    return robot


@pytest.fixture(scope="module")
def bag(robot, tmp_path_factory) -> Path:
    return robot.record(tmp_path_factory.mktemp("bench") / "drive")


class TestBag:
    def test_keyframes_of_guessed_topics(self, robot, bag):
        sets = bag_sets(bag, None, 2)
        assert [one.names for one in sets] == [("CAM_FRONT", "CAM_BACK")] * 2
        pictures = [robot.jpeg(index) for index in range(16)]
        for one in sets:
            index = pictures.index(one.pictures[0])
            assert one.pictures[1] == pictures[index]
            stamps = [robot.START + index * 100 * robot.MS + robot.EXPOSED[name] * robot.MS for name in robot.EXPOSED]
            at_reference = invert(robot.vehicle(stamps[0]))
            for pose, stamp, name in zip(one.ego_T_cam, stamps, robot.EXPOSED):
                expected = at_reference @ robot.vehicle(stamp) @ robot.MOUNTINGS[name]
                np.testing.assert_allclose(pose, expected, atol=2e-4)
            assert all((camera.width, camera.height) == (64, 48) for camera in one.cameras)
        assert sets[0].pictures != sets[1].pictures

    def test_raw_images(self, robot, tmp_path):
        pixels = cv2.imdecode(np.frombuffer(robot.jpeg(0), np.uint8), cv2.IMREAD_COLOR)

        def change(events, make):
            def raw(event):
                if not event.topic.endswith("/compressed"):
                    return event
                return robot.raw(make, event.log, event.topic.split("/")[1], "bgr8", pixels)

            return [raw(event) for event in events]

        (one,) = bag_sets(robot.record(tmp_path / "raw", sweeps=3, change=change), None, 1)
        for picture in one.pictures:
            np.testing.assert_array_equal(picture, pixels)

    def test_what_is_wrong_is_named(self, robot, bag, tmp_path):
        rig = tmp_path / "rig.yaml"
        rig.write_text(robot.RIG.replace("/cam_back/image_raw/compressed", "/rear/compressed"))
        with pytest.raises(UserError, match="has no topic /rear/compressed .* in the rig file"):
            bag_sets(bag, rig, 1)
        with pytest.raises(UserError, match=f"{tmp_path}: is no bag"):
            bag_sets(tmp_path, None, 1)
        with pytest.raises(UserError, match="there is no such bag"):
            bag_sets(tmp_path / "nowhere", None, 1)
