"""The verb ``evaluate``: right figures at any yaw of the rig, its files, and its complaints."""

from __future__ import annotations

import json
import math
import shutil

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes

from bevdistill_ros import paths
from bevdistill_ros.cli import main as cli
from bevdistill_ros.config import CLASS_NAMES, ImageConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, invert
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data.nuscenes import NuScenesCameras, choose_samples, open_nuscenes
from bevdistill_ros.training.evaluate import evaluate, predict
from bevdistill_ros.training.evaluation import mean_of_figures


@pytest.fixture(scope="module")
def samples(tiny_nuscenes) -> NuScenesCameras:
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    tokens = choose_samples(nusc, "mini_train")
    return NuScenesCameras(nusc, tokens, CLASS_NAMES, Preprocessor(ImageConfig(32, 64)), cache=True)


class Oracle:
    """A detector that knows the truth of every picture, and reads off the camera poses how the rig was turned."""

    def __init__(self, samples: NuScenesCameras) -> None:
        self.known = {samples[i].images.tobytes(): samples[i] for i in range(len(samples))}
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, images, K, ego_T_cam, mask, score_threshold=0.0) -> Boxes:
        self.calls.append((images, mask))
        sample = self.known.get(images.tobytes())
        if sample is None:
            return Boxes.empty(CLASS_NAMES)
        return sample.boxes.transformed(ego_T_cam[0] @ invert(sample.ego_T_cam[0]))


@pytest.mark.parametrize("degrees", [0.0, 37.0, -170.0])
def test_the_truth_scores_full_marks_at_any_yaw_of_the_rig(samples, degrees):
    """From the base frame at t_ref, 35 ms before the annotations and turned with the rig, to the global frame at their
    time."""
    result = evaluate(Oracle(samples), samples, math.radians(degrees))
    assert result.mAP == pytest.approx(1.0)
    assert max(result.errors_present.values()) < 1e-4
    assert result.samples == 4


def test_boxes_are_turned_back_to_the_samples_frame(samples):
    for sample, found in predict(Oracle(samples), samples, rig_yaw=1.0):
        np.testing.assert_allclose(found.centers, sample.boxes.centers, atol=1e-9)
        np.testing.assert_allclose(found.velocities, sample.boxes.velocities, atol=1e-9)


def test_dropped_cameras_are_masked_and_black_images_are_black(samples):
    oracle = Oracle(samples)
    result = evaluate(oracle, samples, black_images=True, drop_cameras=["CAM_BACK", "CAM_FRONT_LEFT"])
    assert result.mAP == 0.0
    for images, mask in oracle.calls:
        assert not images.any()
        assert [name for name, there in zip(samples.cameras, mask) if not there] == ["CAM_BACK", "CAM_FRONT_LEFT"]
    with pytest.raises(UserError, match="--drop-cameras CAM_TOP: not one of the cameras used, CAM_FRONT"):
        evaluate(oracle, samples, drop_cameras=["CAM_TOP"])


def run(tiny_nuscenes, tiny_checkpoint, *options) -> int:
    return cli(
        [
            "evaluate",
            str(tiny_checkpoint),
            "--data",
            str(tiny_nuscenes),
            "--version",
            "v1.0-mini",
            "--device",
            "cpu",
            *options,
        ]
    )


def test_figures_pictures_and_table(tiny_nuscenes, tiny_checkpoint, tmp_path, capsys):
    file, folder = tmp_path / "new" / "figures.json", tmp_path / "pictures"
    options = [
        "--split",
        "mini_val",
        "--json",
        str(file),
        "--pictures",
        str(folder),
        "--pictures-every",
        "3",
        "--pictures-score",
        "0",
    ]
    assert run(tiny_nuscenes, tiny_checkpoint, *options) == 0
    report = json.loads(file.read_text())
    assert report["complete"] and report["scenes"] == ["scene-0103"] and report["split"] == "mini_val"
    assert report["scenes_missing"] == 1  # of mini_val's two
    (figures,) = report["runs"]
    assert figures["samples"] == 4 and figures["ground_truth"] == 45 and figures["predictions"] > 0
    assert set(figures["classes"]) == set(CLASS_NAMES)
    assert report["mean"] == mean_of_figures([figures]) and report["mean"]["mAP"] == figures["mAP"]
    pictures = sorted(folder.iterdir())
    assert [p.name[:5] for p in pictures] == ["00000", "00003"]  # every third of four, and no temporary file
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape[1] > 3 * 640 and picture.std() > 10
    captured = capsys.readouterr()
    assert "1 of the 2 scenes of mini_val are not in this dataset" in captured.out
    assert "construction_vehicle" in captured.out and "all ten classes (official)" in captured.out
    assert captured.err == ""  # no progress bar where there is no terminal


def test_weights_that_are_shipped_go_by_their_name(tiny_nuscenes, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny_checkpoint, tmp_path / "weights" / "tiny.safetensors")
    monkeypatch.setattr(paths, "share_directory", lambda: tmp_path)
    file = tmp_path / "figures.json"
    assert run(tiny_nuscenes, "tiny", "--split", "mini_val", "--json", str(file)) == 0
    assert json.loads(file.read_text())["checkpoint"] == "tiny"
    assert run(tiny_nuscenes, "huge") == 1
    assert "model 'huge': no shipped weights of this name (shipped are tiny)" in capsys.readouterr().err


def test_several_yaws_give_each_and_their_mean(tiny_nuscenes, tiny_checkpoint, tmp_path, capsys):
    file = tmp_path / "figures.json"
    options = [
        "--scenes",
        "scene-0061",
        "--rig-yaw-deg",
        "0",
        "-45",
        "90.5",
        "--drop-cameras",
        "CAM_BACK",
        "--json",
        str(file),
    ]
    assert run(tiny_nuscenes, tiny_checkpoint, *options) == 0
    report = json.loads(file.read_text())
    assert [r["rig_yaw_deg"] for r in report["runs"]] == [0.0, -45.0, 90.5]
    assert report["mean"]["errors"]["ATE"] == pytest.approx(np.mean([r["errors"]["ATE"] for r in report["runs"]]))
    assert report["dropped_cameras"] == ["CAM_BACK"] and report["black_images"] is False
    assert "mean of 3 yaws" in capsys.readouterr().out


def test_an_interrupted_run_keeps_the_yaws_it_finished(tiny_nuscenes, tiny_checkpoint, tmp_path, monkeypatch):
    from bevdistill_ros.training import evaluate as module

    file, calls, original = tmp_path / "figures.json", [], module.evaluate

    def interrupted(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(module, "evaluate", interrupted)
    assert run(tiny_nuscenes, tiny_checkpoint, "--rig-yaw-deg", "0", "10", "--json", str(file)) == 1
    report = json.loads(file.read_text())
    assert len(report["runs"]) == 1 and report["complete"] is False
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "has no scene of split test"),
        (["--scenes", "scene-1"], "has no scene 'scene-1'"),
        (["--cameras", "CAM_TOP"], "has no camera 'CAM_TOP'"),
        (["--drop-cameras", "CAM_TOP"], "--drop-cameras CAM_TOP"),
        (["--version", "v1.0-test"], "has no v1.0-test/sample.json"),
    ],
)
def test_bad_input_is_one_line_that_names_it(tiny_nuscenes, tiny_checkpoint, capsys, options, message):
    assert run(tiny_nuscenes, tiny_checkpoint, *options) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_missing_checkpoint_is_named(tiny_nuscenes, tmp_path, capsys):
    assert run(tiny_nuscenes, tmp_path / "none.safetensors") == 1
    assert "none.safetensors: no such checkpoint file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--pictures-every", "0"], ["--rig-yaw-deg", "nan"], ["--split", "val", "--scenes", "a"]]
)
def test_bad_usage_exits_with_two(tiny_nuscenes, tiny_checkpoint, options):
    with pytest.raises(SystemExit) as exit_info:
        run(tiny_nuscenes, tiny_checkpoint, *options)
    assert exit_info.value.code == 2


def test_json_that_cannot_be_written_is_named(tiny_nuscenes, tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(tiny_nuscenes, tiny_checkpoint, "--json", str(tmp_path / "file" / "figures.json")) == 1
    assert "--json" in capsys.readouterr().err


def test_cameras_that_a_sample_lacks_are_masked(tiny_nuscenes, tiny_checkpoint, tmp_path):
    """A keyframe without one camera is scored all the same."""
    nusc = NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False)
    tokens = choose_samples(nusc, "mini_train")
    nusc.get("sample", tokens[0])["data"].pop("CAM_BACK")
    partial = NuScenesCameras(nusc, tokens, CLASS_NAMES, Preprocessor(ImageConfig(32, 64)))
    oracle = Oracle(partial)
    assert evaluate(oracle, partial).mAP == pytest.approx(1.0)
    assert [mask.sum() for _, mask in oracle.calls] == [5, 6, 6, 6]
