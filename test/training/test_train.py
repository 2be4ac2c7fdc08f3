"""The verb `train`, whole: it learns, resumes exactly, and leaves a file the detector reads."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.detector import Detector
from bevdistill_ros.errors import UserError
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training import module
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.loader import StepSampler
from bevdistill_ros.training_rig import rig_of

SMALL = [
    "model.backbone.width=16", "model.image.height=64", "model.image.width=96", "model.grid.cell=3.2", "training.batch_size=2",
    "training.warmup_steps=1", "training.learning_rate=2e-3", "training.image_supervision={}",
]  # fmt: skip


def train(data, output, steps: int, *more: str) -> int:
    config = [] if "--resume" in more else ["--config", "nano"]
    overrides = [f"--set={o}" for o in (*SMALL, f"training.steps={steps}")]
    common = ["--data", str(data), "--version", "v1.0-mini", "--output", str(output), "--device", "cpu"]
    return main(["train", *config, *common, *overrides, *more])


def curve(output, name: str) -> dict[int, float]:
    """A curve as TensorBoard shows it, by step."""
    # TensorBoard reads the files by their names, "...tfevents.SECONDS.HOST.PROCESS.NUMBER"; those of one second are put in order.
    files = sorted((output / "log").glob("*tfevents*"), key=lambda f: (f.name.split(".")[3], int(f.suffix[1:])))
    with tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate(files):
            shutil.copy(file, Path(folder, f"events.out.tfevents.{i:03d}"))
        events = EventAccumulator(folder)
        events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def weights(output) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "model.safetensors").state


def assert_same_weights(first, second, tolerance: float) -> None:
    """Mean difference by tensor: where a gradient is almost nothing, AdamW makes a whole step of its rounding."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).abs().float().mean() <= tolerance, name


def test_training_writes_a_detector_and_learns(tiny_nuscenes, tmp_path) -> None:
    output = tmp_path / "run"
    options = ["--split", "mini_train", "--json", str(tmp_path / "run.json"), "--set=training.augmentation={}"]
    assert train(tiny_nuscenes, output, 80, *options) == 0
    detector = Detector.from_checkpoint(output / "model.safetensors")
    assert detector.cameras[0].startswith("CAM_") and detector.training["steps"] == 80
    losses = list(curve(output, "loss").values())
    assert losses[-1] < 0.7 * losses[0]
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 80


def test_lidar_teaches_the_images_first_and_then_along_with_the_boxes(tiny_nuscenes, tmp_path) -> None:
    output = tmp_path / "run"
    supervision = "--set=training.image_supervision={depth: 1, classes: 0.5, alone_steps: 3}"
    options = ["--set=training.log_every=1", "--set=model.lift.ray_channels=8", supervision]
    assert train(tiny_nuscenes, output, 3, *options) == 0
    alone = weights(output)
    assert set(curve(output, "loss/depth")) == set(curve(output, "loss/classes")) == {0, 1, 2}
    # Nothing of it is part of the student; its BEV half has not been touched.
    assert not any("image_classes" in name for name in alone)
    assert all(
        float(v) == 0
        for name, v in alone.items()
        if name.startswith("bev_encoder") and name.endswith("num_batches_tracked")
    )
    assert train(tiny_nuscenes, output, 5, "--resume", supervision) == 0
    assert set(curve(output, "loss/heatmap")) == {3, 4} and set(curve(output, "loss/depth")) == set(range(5))
    together = weights(output)
    for half in ("backbone", "bev_encoder", "head"):
        assert any(not torch.equal(alone[name], together[name]) for name in alone if name.startswith(half))


def test_a_resumed_training_ends_like_an_uninterrupted_one(tiny_nuscenes, tmp_path, monkeypatch, capsys) -> None:
    options = [
        "--set=training.ema_decay=0.9",
        "--set=training.schedule=one_cycle",
        "--cache-images",
        str(tmp_path / "cache"),
    ]
    assert train(tiny_nuscenes, tmp_path / "whole", 6, *options) == 0
    seen: list[int] = []
    original = module.DetectionModule.training_step

    def signal_in_the_fourth(self, batch, index):
        seen.append(index)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module.DetectionModule, "training_step", signal_in_the_fourth)
        assert train(tiny_nuscenes, tmp_path / "parts", 6, *options) == 1
    assert len(seen) == 4 and "interrupted after step 4; continue with --resume" in capsys.readouterr().err
    assert (tmp_path / "parts" / "last.ckpt").is_file() and not (tmp_path / "parts" / "model.safetensors").exists()
    assert (
        main(
            [
                "train",
                "--data",
                str(tiny_nuscenes),
                "--version",
                "v1.0-mini",
                "--output",
                str(tmp_path / "parts"),
                "--resume",
            ]
        )
        == 0
    )
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)
    # Both trainings used one cache; the resumed part, without the option, none.
    assert len(list((tmp_path / "cache").glob("*.images"))) == 1 and not (tmp_path / "parts" / "image_cache").exists()
    # What is exported is the average, not the last weights.
    last = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["state_dict"]
    assert not torch.allclose(last["network.head.heatmap.1.weight"], parts["head.heatmap.1.weight"], atol=1e-6)


def test_nothing_done_is_overwritten(tiny_nuscenes, tmp_path, capsys) -> None:
    assert train(tiny_nuscenes, tmp_path / "run", 1) == 0
    assert train(tiny_nuscenes, tmp_path / "run", 1) == 1
    assert "pass --resume" in capsys.readouterr().err
    assert train(tiny_nuscenes, tmp_path / "new", 1, "--resume") == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_a_batch_in_parts_trains_like_a_whole_one(tiny_nuscenes, tmp_path) -> None:
    """Losses are means over the whole batch, however its objects and pixels are spread over the parts; steps count as before."""
    options = [
        "--set=model.norm=group",
        "--set=training.batch_size=4",
        "--set=training.learning_rate=2e-4",
        "--set=training.ema_decay=0.9",
        "--set=training.log_every=1",
        "--set=training.image_supervision={depth: 1, classes: 0.5, alone_steps: 1}",
    ]
    assert train(tiny_nuscenes, tmp_path / "whole", 2, *options) == 0
    for parts in (2, 4):
        output = tmp_path / f"{parts}"
        assert train(tiny_nuscenes, output, 2, *options, f"--set=training.accumulate={parts}") == 0
        for name in ("loss", "loss/heatmap", "loss/box", "loss/depth", "loss/classes", "gradient_norm"):
            # Convolutions round by how many images they are given; one activation at a ReLU's border then moves the gradient.
            near = 1e-3 if name == "gradient_norm" else 1e-4
            assert curve(output, name) == pytest.approx(curve(tmp_path / "whole", name), rel=near), name
        assert_same_weights(output, tmp_path / "whole", 3e-6)


def test_a_finished_training_can_be_given_more_steps(tiny_nuscenes, tmp_path, capsys) -> None:
    output = tmp_path / "run"
    assert train(tiny_nuscenes, output, 2) == 0 and train(tiny_nuscenes, output, 4, "--resume") == 0
    checkpoint = load_checkpoint(output / "model.safetensors")
    assert checkpoint.training["steps"] == 4
    rig = rig_of(checkpoint.training)
    assert tuple(rig) == checkpoint.cameras  # with poses as mounted: nuScenes' cameras look around, from 1.4 to 1.6 m
    assert all(1.3 < view.base_T_camera[2, 3] < 1.7 and abs(view.base_T_camera[2, 2]) < 0.1 for view in rig.values())
    assert {view.camera.width for view in rig.values()} == {160}
    assert list(curve(output, "loss")) == [1, 3]  # of both parts
    state = output / "last.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    assert train(tiny_nuscenes, output, 6, "--resume") == 1
    assert "last.ckpt: cannot be resumed from" in capsys.readouterr().err


def test_a_bad_picture_is_one_line_from_a_worker_too(tiny_nuscenes, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes, root)
    for picture in (root / "samples" / "CAM_BACK").glob("*.jpg"):
        picture.write_bytes(b"hi")
    assert train(root, tmp_path / "run", 1, "--set=training.workers=1") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "CAM_BACK" in errors[0] and "can be decoded" in errors[0]


def test_the_order_of_samples_does_not_depend_on_where_it_starts() -> None:
    whole = list(StepSampler(5, 23, seed=1))
    assert list(StepSampler(5, 23, seed=1, start=9)) == whole[9:] and len(StepSampler(5, 23, seed=1, start=9)) == 23
    assert all(sorted(i for i, _ in whole[k : k + 5]) == list(range(5)) for k in (0, 5, 10, 15))
    assert [d for _, d in whole] == list(range(23))


def test_an_unknown_configuration_is_named(tiny_nuscenes, tmp_path, capsys) -> None:
    arguments = ["--data", str(tiny_nuscenes), "--version", "v1.0-mini", "--output", str(tmp_path / "x")]
    assert main(["train", "--config", "huge", *arguments]) == 2
    assert "--config huge: is neither" in capsys.readouterr().err


def test_a_dataset_on_the_device_trains_like_one_on_the_host(tiny_nuscenes, tmp_path, monkeypatch) -> None:
    """The same samples and draws; only the interpolation's rounding differs."""
    seen: dict[str, list[torch.Tensor]] = {"host": [], "device": []}
    original = module.DetectionModule.losses
    colours = [f"--set=training.augmentation.{own}" for own in ("camera_saturation=[0.2, 1.0]", "hue_deg=[-90, 90]")]
    for name, option in (("host", "--cache-images"), ("device", "--dataset-on-device")):

        def losses(self, batch, counts=None, name=name):
            seen[name].append(batch["images"].float())
            return original(self, batch, counts)

        with monkeypatch.context() as patch:
            patch.setattr(module.DetectionModule, "losses", losses)
            assert train(tiny_nuscenes, tmp_path / name, 2, option, *colours) == 0
        assert len(list((tmp_path / name / "image_cache").glob("*.images"))) == 1
    assert len(seen["host"]) == len(seen["device"]) == 2
    for host, device in zip(seen["host"], seen["device"]):
        assert host.shape == device.shape and (host - device).abs().mean() < 0.5 and host.std() > 10


def test_black_images_are_black_on_both_ways(tiny_nuscenes, tmp_path, monkeypatch) -> None:
    sums: list[float] = []
    original = module.DetectionModule.losses

    def losses(self, batch, counts=None):
        assert batch["mask"].any()
        sums.append(float(batch["images"].sum()))
        return original(self, batch, counts)

    monkeypatch.setattr(module.DetectionModule, "losses", losses)
    assert train(tiny_nuscenes, tmp_path / "a", 1, "--black-images") == 0
    assert train(tiny_nuscenes, tmp_path / "b", 1, "--black-images", "--dataset-on-device") == 0
    assert sums == [0.0, 0.0]


def test_curves_are_logged_and_a_resumed_run_goes_on_with_them(tiny_nuscenes, tmp_path, monkeypatch) -> None:
    """Killed at step 5 with its state of step 4: what step 5 had logged is not shown twice."""
    output = tmp_path / "run"
    options = ["--set=training.checkpoint_every=4", "--set=training.pictures_every=2", "--set=training.log_every=1"]
    original = module.DetectionModule.training_step

    def killed(self, batch, index):
        if self.global_step == 5:
            raise RuntimeError("killed")
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module.DetectionModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny_nuscenes, output, 8, *options)
    assert train(tiny_nuscenes, output, 8, "--resume") == 0
    for name in ("loss", "loss/heatmap", "loss/box", "learning_rate", "gradient_norm"):
        assert list(curve(output, name)) == list(range(8)), name
    assert all(value > 0 for value in curve(output, "samples_per_second").values())
    rates = curve(output, "learning_rate")
    expected = [2e-3 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert list(rates.values()) == pytest.approx(expected, rel=1e-5)
    events = EventAccumulator(str(output / "log"))
    events.Reload()
    images = events.Images("sample")
    assert [image.step for image in images] == [2, 4, 6, 8]
    picture = cv2.imdecode(np.frombuffer(images[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 3 * 384 and picture.std() > 10


def test_a_resumed_training_takes_the_new_learning_rate(tiny_nuscenes, tmp_path) -> None:
    output = tmp_path / "run"
    assert train(tiny_nuscenes, output, 2) == 0
    constant = ["--set=training.schedule=constant", "--set=training.learning_rate=1e-4"]
    assert train(tiny_nuscenes, output, 4, "--resume", *constant) == 0
    assert curve(output, "learning_rate")[3] == pytest.approx(1e-4)


def test_the_backbone_learns_at_its_own_rate(tiny_nuscenes, tmp_path) -> None:
    assert (
        train(tiny_nuscenes, tmp_path / "slow", 2, "--set=training.backbone_rate=0.1", "--set=training.warmup_steps=0")
        == 0
    )
    first, last = (
        torch.load(tmp_path / "slow" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][i]
        for i in (0, 1)
    )
    rate = first["lr"]
    assert rate > 0 and last["lr"] == pytest.approx(0.1 * rate)
    names = [name for name in weights(tmp_path / "slow") if name.startswith("backbone.")]
    assert 0 < len(last["params"]) < len(names)  # its parameters, not its statistics
    with pytest.raises(UserError, match="backbone_rate is for models that see images"):
        load_config(share_directory() / "config" / "models" / "teacher_nano.yaml", ["training.backbone_rate=0.1"])


def test_a_training_is_not_resumed_on_other_samples(tiny_nuscenes, tmp_path, capsys) -> None:
    output = tmp_path / "run"
    assert train(tiny_nuscenes, output, 1, "--split", "mini_train") == 0
    for options in ([], ["--split", "mini_val"], ["--split", "mini_train", "--black-images"]):
        assert train(tiny_nuscenes, output, 2, "--resume", *options) == 1
        assert "--resume: the training was on other samples; give the same --data" in capsys.readouterr().err
    assert train(tiny_nuscenes, output, 2, "--resume", "--scenes", "scene-0061") == 0  # the same, named otherwise


def test_validation_scores_what_is_exported(tiny_nuscenes, tmp_path, capsys) -> None:
    output, figures = tmp_path / "run", tmp_path / "run.json"
    options = [
        "--split=mini_train",
        "--val-split=mini_val",
        "--set=training.validate_every=2",
        "--set=training.ema_decay=0.9",
    ]
    assert train(tiny_nuscenes, output, 3, *options, "--json", str(figures)) == 0
    assert list(curve(output, "validation/mAP")) == [2, 3]
    found = json.loads(figures.read_text())["validation"]
    captured = capsys.readouterr()
    assert "step 2: mAP " in captured.err and "note: 1 of the 2 scenes of mini_val" in captured.out
    data = [
        "--data",
        str(tiny_nuscenes),
        "--split",
        "mini_val",
        "--device",
        "cpu",
        "--json",
        str(tmp_path / "evaluated.json"),
    ]
    assert main(["evaluate", str(output / "model.safetensors"), *data]) == 0
    mean = json.loads((tmp_path / "evaluated.json").read_text())["checkpoints"][0]["mean"]
    assert found and found == pytest.approx({name: mean[name] for name in found})


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_on_a_cpu_trains_and_says_so(tiny_nuscenes, tmp_path, capsys, precision: str) -> None:
    options = [f"--set=training.precision={precision}", "--set=training.accumulate=2"]
    assert train(tiny_nuscenes, tmp_path / "run", 2, *options) == 0
    assert f"note: training.precision {precision} on a CPU means bf16-mixed" in capsys.readouterr().err
    assert all(math.isfinite(value) for value in curve(tmp_path / "run", "loss").values())
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "run").values())


def test_a_sample_that_breaks_the_loss_is_named(tiny_nuscenes, tmp_path, capsys) -> None:
    """One annotation of one sample has no size: the training stops there, and its last state is good."""
    root, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_nuscenes, root)
    options = ["--scenes", "scene-0061", "--set=training.augmentation={}", "--set=training.checkpoint_every=1"]
    assert train(root, output, 2, *options) == 0
    before = (output / "last.ckpt").read_bytes()
    samples = json.loads((root / "v1.0-mini" / "sample.json").read_text())
    table = root / "v1.0-mini" / "sample_annotation.json"
    annotations = json.loads(table.read_text())
    bad = samples[2]["token"]
    annotation = next(a for a in annotations if a["sample_token"] == bad)
    annotation["size"] = [float("nan")] * 3
    table.write_text(json.dumps(annotations))
    capsys.readouterr()
    assert train(root, output, 8, "--resume", *options) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the loss is not finite (heatmap nan" in errors[0]
    assert errors[0].startswith("error: step ") and f"by itself {bad} does it" in errors[0]
    state = torch.load(output / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    # Mended, it goes on.
    annotation["size"] = [1.0, 1.0, 1.0]
    table.write_text(json.dumps(annotations))
    assert before and train(root, output, 8, "--resume", *options) == 0


def test_a_gradient_that_is_not_finite_stops_the_training(tiny_nuscenes, tmp_path, capsys, monkeypatch) -> None:
    original = module.DetectionModule.losses

    def losses(self, batch, counts=None):
        found = original(self, batch, counts)
        # Finite itself, with an infinite derivative: the square root at zero.
        found["extra"] = (self.network.head.heatmap[1].weight * 0.0).abs().sum().sqrt()
        return found

    monkeypatch.setattr(module.DetectionModule, "losses", losses)
    assert train(tiny_nuscenes, tmp_path / "run", 2) == 1
    error = capsys.readouterr().err
    assert "step 1: the gradient's norm is not finite" in error and "each of them does it alone" in error
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_weights_start_a_training_as_far_as_they_fit(tiny_nuscenes, tmp_path, capsys) -> None:
    """One step of almost no size: what fits is as it was in the file, and what does not is told."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(tiny_nuscenes, first, 1) == 0
    start = ["--weights", str(first / "model.safetensors"), "--set=training.learning_rate=1e-9"]
    capsys.readouterr()
    assert train(tiny_nuscenes, second, 1, *start, "--set=model.norm=frozen", "--set=model.lift.bins=40") == 0
    told = capsys.readouterr().err
    assert "starts 99.8% of the model's weights (" in told
    assert (
        "of another shape there: lift.depth_net.3.weight 88x96x1x1, not 96x96x1x1, lift.depth_net.3.bias 88, not 96"
        in told
    )
    before, after = weights(first), weights(second)
    for name in before:
        if not name.startswith("lift."):
            torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_weights_and_resume_exclude_each_other(tiny_nuscenes, tmp_path, capsys, tiny_checkpoint) -> None:
    with pytest.raises(SystemExit) as ended:
        train(tiny_nuscenes, tmp_path / "run", 1, "--resume", "--weights", str(tiny_checkpoint))
    assert ended.value.code == 2 and "not allowed with argument" in capsys.readouterr().err
    assert train(tiny_nuscenes, tmp_path / "run", 1, "--weights", str(tmp_path / "none.safetensors")) == 1
    assert "no such checkpoint file" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["nano", "teacher_nano"])
def test_a_compiled_network_trains_alike_and_keeps_its_names(tiny_nuscenes, tmp_path, monkeypatch, config: str) -> None:
    """By a compiler that does nothing but count what it is given."""
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(module, "COMPILER", compiler)
    sizes = [f"--set={option}" for option in SMALL[:4]] if config == "nano" else []
    common = ["--data", str(tiny_nuscenes), "--device", "cpu", "--config", config, *sizes]
    options = ["steps=2", "batch_size=2", "pictures_every=0", "image_supervision={}", "ema_decay=0.9"]
    for name, more in (("plain", "false"), ("compiled", "true")):
        settings = [f"--set=training.{option}" for option in (*options, f"compile={more}")]
        assert main(["train", *common, *settings, "--output", str(tmp_path / name)]) == 0
        assert bool(graphs) == (name == "compiled")
    torch._dynamo.reset()
    assert_same_weights(tmp_path / "compiled", tmp_path / "plain", 1e-5)
