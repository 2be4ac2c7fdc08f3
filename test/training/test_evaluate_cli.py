"""The verb ``evaluate``: right figures at any yaw of the rig, its files, and its complaints."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from nuscenes import NuScenes

from bevdistill_ros import paths
from bevdistill_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bevdistill_ros.cli import main as cli
from bevdistill_ros.config import CLASS_NAMES, ImageConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, invert
from bevdistill_ros.models import build_network
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes
from bevdistill_ros.training.evaluate import evaluate, predict
from bevdistill_ros.training.evaluation import mean_of_figures


@pytest.fixture(scope="module")
def samples(tiny_nuscenes) -> NuScenesSamples:
    nusc = open_nuscenes(tiny_nuscenes, "v1.0-mini")
    tokens = choose_samples(nusc, "mini_train")
    return NuScenesSamples(nusc, tokens, CLASS_NAMES, Preprocessor(ImageConfig(32, 64)), cache=True)


class Oracle:
    """A detector that knows the truth of every picture, and reads off the camera poses how the rig was turned."""

    def __init__(self, samples: NuScenesSamples) -> None:
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
    (entry,) = report["checkpoints"]
    assert entry["complete"] and entry["error"] is None and entry["name"] == "model" and len(entry["cameras"]) == 6
    (figures,) = entry["runs"]
    assert figures["samples"] == 4 and figures["ground_truth"] == 45 and figures["predictions"] > 0
    assert set(figures["classes"]) == set(CLASS_NAMES)
    assert figures["ranges"] is figures["camera_missing"] is None
    assert entry["mean"] == mean_of_figures([figures]) and entry["mean"]["mAP"] == figures["mAP"]
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
    (entry,) = json.loads(file.read_text())["checkpoints"]
    assert (entry["checkpoint"], entry["name"]) == ("tiny", "tiny")
    assert run(tiny_nuscenes, "huge") == 2
    assert "model 'huge': no shipped weights of this name (shipped are tiny)" in capsys.readouterr().err


def test_a_backend_is_chosen_and_named(tiny_nuscenes, tiny_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bevdistill_ros.runtime.open_model.calculates_in_bfloat16", lambda: False)
    file = tmp_path / "figures.json"
    for options, backend, note in (
        ((), "torch", ""),
        (("--backend", "torch_bfloat16"), "torch_bfloat16", ""),
        (("--backend", "auto"), "torch", "run by torch ("),  # nothing was exported beside it
    ):
        assert run(tiny_nuscenes, tiny_checkpoint, "--device", "cpu", "--json", str(file), *options) == 0
        assert json.loads(file.read_text())["checkpoints"][0]["backend"] == backend
        output = capsys.readouterr().out
        assert note in output and (note or "run by" not in output)
    assert run(tiny_nuscenes, tiny_checkpoint, "--device", "cpu", "--backend", "onnxruntime") == 1
    assert "error: backend 'onnxruntime': " in capsys.readouterr().err


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
    (entry,) = report["checkpoints"]
    assert [r["rig_yaw_deg"] for r in entry["runs"]] == [0.0, -45.0, 90.5]
    assert entry["mean"]["errors"]["ATE"] == pytest.approx(np.mean([r["errors"]["ATE"] for r in entry["runs"]]))
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
    (entry,) = report["checkpoints"]
    assert len(entry["runs"]) == 1 and entry["complete"] is report["complete"] is False
    assert list(tmp_path.iterdir()) == [file]


def test_ranges_plots_and_missing_cameras(tiny_nuscenes, tiny_checkpoint, tmp_path, capsys):
    file, plots = tmp_path / "figures.json", tmp_path / "plots"
    options = ["--scenes", "scene-0061", "--ranges", "0,15,60", "--plots", str(plots), "--json", str(file)]
    options += ["--missing-cameras", "1", "--drop-cameras", "CAM_BACK"]
    assert run(tiny_nuscenes, tiny_checkpoint, *options) == 0
    ((figures,),) = (entry["runs"] for entry in json.loads(file.read_text())["checkpoints"])
    near, far = figures["ranges"]
    assert (near["from"], near["to"], far["to"]) == (0, 15, 60)
    assert near["ground_truth"] + far["ground_truth"] == figures["ground_truth"]
    rows = figures["camera_missing"]
    assert rows["0"] == {"mAP": figures["mAP"], "NDS": figures["NDS"], "choices": 1}
    assert list(rows) == ["0", "1"] and rows["1"]["choices"] == 5  # the one that is dropped anyway does not go again
    names = {path.name for path in plots.iterdir()}
    assert names == {"precision_recall_yaw0.png", "calibration_yaw0.png", "curves_yaw0.json"}
    out = capsys.readouterr().out
    assert "0-15 m" in out and "cameras gone" in out


def test_cameras_that_are_missing_are_masked_in_the_network(tiny_nuscenes, tiny_checkpoint, tmp_path, monkeypatch):
    """Which cameras each pass was without: none, then up to two of the four that are used."""
    from bevdistill_ros.training import evaluate as module

    passes, original = [], module.evaluate

    def watched(detector, samples, yaw, black_images, drop_cameras, *others):
        passes.append(tuple(drop_cameras))
        return original(detector, samples, yaw, black_images, drop_cameras, *others)

    monkeypatch.setattr(module, "evaluate", watched)
    used = ["CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT"]
    options = ["--scenes", "scene-0061", "--cameras", *used, "--missing-cameras", "2"]
    assert run(tiny_nuscenes, tiny_checkpoint, *options) == 0
    assert passes[0] == () and set(passes[1:5]) == {(name,) for name in used}
    assert len(passes) == 1 + 4 + 6 and all(len(set(gone)) == 2 and set(gone) <= set(used) for gone in passes[5:])


def several(tiny_nuscenes, checkpoints, *options) -> int:
    return cli(["evaluate", *map(str, checkpoints), "--data", str(tiny_nuscenes), "--device", "cpu", *options])


@pytest.fixture
def two_checkpoints(tiny_checkpoint, tmp_path):
    """Random weights, and the same halved: other scores. Both files are called model.safetensors."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    state = {name: tensor * (0.5 if name.endswith(".weight") else 1.0) for name, tensor in checkpoint.state.items()}
    paths = [tmp_path / folder / "model.safetensors" for folder in ("a", "b")]
    save_checkpoint(paths[0], checkpoint)
    save_checkpoint(paths[1], replace(checkpoint, state=state))
    return paths


def test_several_checkpoints_in_one_table(tiny_nuscenes, tiny_checkpoint, two_checkpoints, tmp_path, capsys):
    file, plots, pictures = tmp_path / "figures.json", tmp_path / "plots", tmp_path / "pictures"
    options = ["--scenes", "scene-0061", "--json", str(file), "--plots", str(plots), "--pictures", str(pictures)]
    options += ["--pictures-every", "4"]
    assert several(tiny_nuscenes, two_checkpoints, *options) == 0
    report = json.loads(file.read_text())
    assert report["complete"] and [entry["name"] for entry in report["checkpoints"]] == ["a/model", "b/model"]
    assert [entry["checkpoint"] for entry in report["checkpoints"]] == [str(path) for path in two_checkpoints]
    for folder in ("a/model", "b/model"):
        assert (plots / folder / "calibration_yaw0.png").is_file()
        assert [path.name[:5] for path in (pictures / folder).iterdir()] == ["00000"]
    first, second = (json.loads((plots / f"{folder}/model/curves_yaw0.json").read_text()) for folder in "ab")
    assert first["calibration"]["all"] != second["calibration"]["all"]
    table = capsys.readouterr().out.split("\ncheckpoint ")[1].splitlines()
    assert [line.split()[0] for line in table[2:4]] == ["a/model", "b/model"]
    for line, entry in zip(table[2:4], report["checkpoints"]):
        assert line.split()[1:3] == [f"{entry['mean'][key]:.3f}" for key in ("mAP", "NDS")]


def test_a_checkpoint_that_cannot_be_read_leaves_the_others(tiny_nuscenes, two_checkpoints, tmp_path, capsys):
    first, broken = two_checkpoints
    last = tmp_path / "c" / "model.safetensors"
    last.parent.mkdir()
    shutil.copy(first, last)
    broken.write_bytes(broken.read_bytes()[:1000])
    file = tmp_path / "figures.json"
    assert several(tiny_nuscenes, [first, broken, last], "--scenes", "scene-0061", "--json", str(file)) == 1
    report = json.loads(file.read_text())
    assert report["complete"] is False and [entry["complete"] for entry in report["checkpoints"]] == [True, False, True]
    good, bad, again = report["checkpoints"]
    assert bad["runs"] == [] and bad["mean"] is None and "damaged" in bad["error"]
    assert good["error"] is None and good["mean"] == again["mean"]
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {broken}: ") and captured.err.count("\n") == 1
    assert "(b/model is left out)" in captured.err and "b/model" in captured.out.split("\ncheckpoint ")[1]


def test_an_interruption_keeps_the_checkpoints_that_were_finished(
    tiny_nuscenes, two_checkpoints, tmp_path, monkeypatch
):
    from bevdistill_ros.training import evaluate as module

    file, calls, original = tmp_path / "figures.json", [], module.evaluate

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "evaluate", interrupted)
    assert several(tiny_nuscenes, two_checkpoints, "--scenes", "scene-0061", "--json", str(file)) == 1
    report = json.loads(file.read_text())
    assert [entry["name"] for entry in report["checkpoints"]] == ["a/model"] and report["complete"] is False
    assert report["checkpoints"][0]["complete"] is True


def test_options_about_cameras_are_refused_for_lidar(tiny_nuscenes, tmp_path, capsys):
    config = load_config(paths.share_directory() / "config" / "models" / "teacher_nano.yaml").model
    path = tmp_path / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        save_checkpoint(path, Checkpoint(config, build_network(config).state_dict(), ("CAM_FRONT", "CAM_BACK"), {}))
    for options in (["--missing-cameras"], ["--drop-cameras", "CAM_BACK"], ["--black-images"]):
        file = tmp_path / "figures.json"
        assert several(tiny_nuscenes, [path], *options, "--json", str(file)) == 1
        reason = f"{options[0]}: {path} holds a LiDAR model, which sees no images"
        assert capsys.readouterr().err == f"error: {reason}\n"
        (entry,) = json.loads(file.read_text())["checkpoints"]
        assert entry["error"] == reason and entry["runs"] == [] and not entry["complete"]
        file.unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "has no scene of split test"),
        (["--scenes", "scene-1"], "has no scene 'scene-1'"),
        (["--cameras", "CAM_TOP"], "has no camera 'CAM_TOP'"),
        (["--drop-cameras", "CAM_TOP"], "--drop-cameras CAM_TOP"),
        (["--missing-cameras", "6"], "--missing-cameras 6: of 6 cameras, at most 5 may be gone"),
        (
            ["--missing-cameras", "3", "--drop-cameras", "CAM_BACK", "CAM_FRONT", "CAM_FRONT_LEFT"],
            "of 3 cameras, at most 2",
        ),
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
    "options",
    [
        ["--pictures-every", "0"],
        ["--rig-yaw-deg", "nan"],
        ["--split", "val", "--scenes", "a"],
        ["--missing-cameras", "0"],
        ["--ranges", "0"],
        ["--ranges", "0,20,20"],
        ["--ranges", "-5,20"],
        ["--ranges", "0,far"],
        ["--ranges", "0,nan,50"],
    ],
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
    partial = NuScenesSamples(nusc, tokens, CLASS_NAMES, Preprocessor(ImageConfig(32, 64)))
    oracle = Oracle(partial)
    assert evaluate(oracle, partial).mAP == pytest.approx(1.0)
    assert [mask.sum() for _, mask in oracle.calls] == [5, 6, 6, 6]
