"""Training a student or a LiDAR teacher from a dataset in the nuScenes schema; ``train_command`` is its command line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import tensorboard  # noqa: F401 (Lightning's logger needs it, and would not say so by a name that can be installed)
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import ImageModelConfig, ModelConfig, PointsConfig, TeacherConfig
from bevdistill_ros.errors import UsageError, UserError, brief
from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.models.deformable_conv import buildable
from bevdistill_ros.paths import model_path
from bevdistill_ros.plain_data import to_dict
from bevdistill_ros.training.average import WeightAverage
from bevdistill_ros.training.callbacks import (
    AtomicCheckpoint,
    AtomicCheckpointIO,
    RunClock,
    SameSamples,
    StopOnSignal,
    Throughput,
)
from bevdistill_ros.training.config import Config, TrainingConfig
from bevdistill_ros.training.data.image_cache import ImageCache, open_image_cache
from bevdistill_ros.training.data.nuscenes import (
    NuScenesSamples,
    choose_samples,
    find_version,
    note_missing_scenes,
    open_nuscenes,
    open_samples,
)
from bevdistill_ros.training.data.table_cache import open_table_cache
from bevdistill_ros.training.distill.teacher import load_teacher, velocities_note
from bevdistill_ros.training.loader import AugmentedSamples, make_loader
from bevdistill_ros.training.module import DetectionModule
from bevdistill_ros.training.pictures import Pictures
from bevdistill_ros.training.processes import Processes, choose_processes, is_first_process
from bevdistill_ros.training.start_weights import start_from
from bevdistill_ros.training.train_command import CONFIG_FILE, STATE_FILE
from bevdistill_ros.training.validation import Validation
from bevdistill_ros.training_rig import RIG, rig_to_plain

MODEL_FILE = "model.safetensors"
CACHE_FOLDER = "image_cache"
TABLE_FOLDER = "table_cache"


def run(arguments: argparse.Namespace, config: Config) -> int:
    """Train as the options say, and write OUTPUT/model.safetensors; exit status.

    Args:
        arguments: the options, see ``train_command``.
        config: the configuration that they mean.
    """
    output = Path(arguments.output)
    config = _with_absolute_paths(config)
    if not arguments.resume:
        config = replace(config, model=_buildable(config.model))
    if not isinstance(config.model, ImageModelConfig):
        _refuse_image_options(arguments, config.model.name)
    processes = choose_processes(arguments.device, arguments.devices, arguments.nodes)
    processes.check(config)
    if arguments.bags and processes.started_outside:
        raise UsageError(
            "--bags with torchrun: several processes would convert at once; run `bevdistill convert` first"
        )

    weights = [model_path(name) for name in arguments.weights]
    teacher = None
    points = PointsConfig() if config.training.image_supervision.used else None
    if isinstance(config.model, TeacherConfig):
        points = config.model.points
    if config.training.distill is not None:
        teacher = load_teacher(config.training.distill.teacher, config.model)
        points = teacher.config.points
        note = velocities_note(teacher.config, config.training.distill)
        if note and is_first_process():
            print(note, file=sys.stderr)

    data = _data(arguments, output, points is not None and points.seconds > 0)
    if arguments.cache_tables is None:
        nusc = open_nuscenes(data, arguments.version)
    else:
        folder = Path(arguments.cache_tables or output / TABLE_FOLDER)
        nusc = open_table_cache(data, find_version(data, arguments.version), folder)

    def choose(split: str | None, scenes: list[str] | None, points: PointsConfig | None = None) -> NuScenesSamples:
        tokens = choose_samples(nusc, split, scenes)
        note_missing_scenes(nusc, split)
        return open_samples(nusc, tokens, config.model, arguments.cameras, points=points)

    samples = choose(arguments.split, arguments.scenes, points)
    if not any(nusc.get("sample", token)["anns"] for token in samples.tokens):
        raise UserError(
            f"{data}: the chosen scenes have no annotations; `bevdistill label` writes those that a teacher finds"
        )
    validation_samples = None
    if arguments.val_split or arguments.val_scenes:
        validation_samples = choose(arguments.val_split, arguments.val_scenes)
    if is_first_process():
        write_atomically(output / CONFIG_FILE, yaml.safe_dump(to_dict(config), sort_keys=False))
    cache = None
    if arguments.cache_images is not None or arguments.dataset_on_device:
        folder = Path(arguments.cache_images or output / CACHE_FOLDER)
        cache = open_image_cache(samples, folder)
        samples = samples.with_images(cache)
        if validation_samples is not None:
            validation_samples = validation_samples.with_images(open_image_cache(validation_samples, folder))

    clock = RunClock()
    trained = train(
        config,
        samples,
        output,
        clock,
        processes,
        teacher=teacher,
        resume=output / STATE_FILE if arguments.resume else None,
        weights=weights,
        black_images=arguments.black_images,
        device_cache=cache if arguments.dataset_on_device else None,
        validation_samples=validation_samples,
    )
    if not is_first_process():
        return 0
    if trained.step < config.training.steps:
        print(f"{output}: interrupted after step {trained.step}; continue with --resume", file=sys.stderr)
        return 1
    figures = {
        "steps": trained.step,
        "wall_s": round(clock.wall_s, 1),
        "cpu_s": round(clock.cpu_s, 1),
        "samples": len(samples),
        "loss": None if trained.loss is None else round(trained.loss, 4),
        "validation": trained.validation,
    }
    origin = {
        "data": data.resolve().name,
        "version": nusc.version,
        "split": arguments.split,
        "scenes": arguments.scenes,
        "black_images": arguments.black_images,
        "weights": ", ".join(path.name for path in weights) or None,
        "torch": torch.__version__,
        **_with_names_alone(to_dict(config)["training"]),
        **figures,
        RIG: rig_to_plain(samples.rig()),
    }
    path = output / MODEL_FILE
    save_checkpoint(path, Checkpoint(config.model, trained.weights, samples.cameras, origin), half=arguments.half)
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"model": str(path), **figures}, indent=2) + "\n")
    print(f"{path}: {trained.step} steps, {clock.wall_s:.0f} s")
    return 0


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes:
        weights: state dict to export.
        step: steps done; fewer than asked for where it was interrupted.
        loss: of the last step, None where none was done.
        validation: figures after the last step, None without validation.
    """

    weights: dict[str, torch.Tensor]
    step: int
    loss: float | None
    validation: dict[str, float] | None


def train(
    config: Config,
    samples: NuScenesSamples,
    output: Path,
    clock: RunClock,
    processes: Processes,
    teacher: Checkpoint | None = None,
    resume: Path | None = None,
    weights: Sequence[Path] = (),
    black_images: bool = False,
    device_cache: ImageCache | None = None,
    validation_samples: NuScenesSamples | None = None,
) -> Trained:
    """Run the training, with its saved states and its log in ``output``.

    Args:
        processes: what to train with; this is one of them.
        teacher: what teaches, where ``config.training.distill`` is there.
        resume: the saved state to go on from.
        weights: files to start from instead of random weights, see ``start_from``.
        device_cache: of ``samples``; its pixels are then held on the device.
        validation_samples: to be scored on the way, see ``Validation``.
    """
    _quiet()
    training = config.training
    lightning.seed_everything(training.seed, workers=True, verbose=False)
    module = DetectionModule(config, device_cache, teacher)
    if weights:
        coverage = start_from(module.network, weights)
        if is_first_process():
            print(coverage, file=sys.stderr)
    start = 0
    if resume is not None:
        start = step_of(resume)
    average = WeightAverage(training.ema_decay)
    callbacks = [
        clock,
        StopOnSignal(),
        SameSamples(samples.tokens, samples.cameras, black_images),
        Throughput(training.batch_size),
        average,
        Pictures(training.pictures_every, samples.cameras),
    ]
    validation = None
    if validation_samples is not None:
        validation = Validation(validation_samples, training.validate_every, average, black_images)
        callbacks.append(validation)
    # The state comes last, so that what belongs to its step is done.
    callbacks.append(AtomicCheckpoint(output / STATE_FILE, training.checkpoint_every))
    trainer = lightning.Trainer(
        max_steps=training.steps,
        max_epochs=-1,  # steps alone count, so that a finished training can be given more of them
        **processes.trainer_options(config),
        precision=_precision(training, processes.device),
        # What an interrupted run has logged beyond the state it left is done again: TensorBoard drops it.
        logger=TensorBoardLogger(output, name="", version="log", purge_step=start + 1 if start else 0),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        log_every_n_steps=min(training.log_every, training.steps),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the loader's own batches are divided already
    )
    dataset = AugmentedSamples(samples, config, black_images, device_cache is not None)
    loader = make_loader(dataset, config, start, module.inputs, trainer.global_rank, trainer.world_size)
    try:
        trainer.fit(module, loader, ckpt_path=None if resume is None else str(resume), weights_only=True)
    except UserError as error:
        # From a worker process it comes with that process's traceback, the message last.
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
    loss = trainer.callback_metrics.get("loss")
    return Trained(
        weights=average.weights(module.network),
        step=trainer.global_step,
        loss=None if loss is None else float(loss),
        validation=None if validation is None else validation.figures,
    )


def step_of(state: Path) -> int:
    """The step at which a training's state was saved.

    Raises:
        UserError: the file is damaged, or no such state.
    """
    try:
        step = torch.load(state, map_location="cpu", weights_only=True)["global_step"]
        if type(step) is not int or step < 0:
            raise ValueError(f"its global_step is {brief(step)}")
    except Exception as error:  # a damaged pickle may raise anything
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{state}: cannot be resumed from, it is damaged or no training state ({text})") from None
    return step


def _precision(training: TrainingConfig, device: str) -> str:
    """What Lightning is to calculate in; on a CPU there is no float16."""
    if device == "cpu" and training.precision != "32-true":
        if is_first_process():
            print(
                f"note: training.precision {training.precision} on a CPU means bf16-mixed, "
                "slower than 32-true unless it has bfloat16 instructions",
                file=sys.stderr,
            )
        return "bf16-mixed"
    return training.precision


def _data(arguments: argparse.Namespace, output: Path, with_sweeps: bool) -> Path:
    """The dataset's root: as named, or what is made of bags."""
    if not arguments.bags:
        return Path(arguments.data)
    try:
        from bevdistill_ros.training.convert.from_bags import ensure_converted, find_bags
        from bevdistill_ros.training.convert.guess import guess
        from bevdistill_ros.training.convert.recording import Options
    except ModuleNotFoundError as error:
        raise UserError(f"--bags needs the Python module '{error.name}': pip install {error.name}") from None
    rig = arguments.rig or output / "rig.yaml"
    if arguments.rig is None and not rig.exists():
        write_atomically(rig, guess(find_bags(arguments.bags)))
        print(
            f"{rig}: guessed from the bags; look it over, and name it with --rig where it was changed", file=sys.stderr
        )
    options = Options(sweeps="lidar" if with_sweeps else "none")
    return ensure_converted(
        arguments.bags, rig, arguments.data or output / "dataset", options, workers=available_cores()
    )


def _buildable(model: ModelConfig) -> ModelConfig:
    """The model with what this machine has for it, which is what its checkpoint will say."""
    possible = buildable(model)
    if possible != model and is_first_process():
        print(
            "note: torchvision cannot be imported: plain convolutions in place of model.backbone.deformable_stages "
            f"{model.backbone.deformable_stages}",
            file=sys.stderr,
        )
    return possible


def _with_absolute_paths(config: Config) -> Config:
    """Of the files that distillation needs: OUTPUT/config.yaml is read again when the training is resumed, maybe from elsewhere."""
    distill = config.training.distill
    if distill is None:
        return config
    own = None if distill.own is None else replace(distill.own, file=str(Path(distill.own.file).absolute()))
    distill = replace(distill, teacher=str(Path(distill.teacher).absolute()), own=own)
    return replace(config, training=replace(config.training, distill=distill))


def _with_names_alone(training: dict[str, Any]) -> dict[str, Any]:
    """A training's plain data with those files' names in place of paths, which mean nothing elsewhere."""
    distill = training["distill"]
    if distill is not None:
        distill["teacher"] = Path(distill["teacher"]).name
        if distill["own"] is not None:
            distill["own"]["file"] = Path(distill["own"]["file"]).name
    return training


def _refuse_image_options(arguments: argparse.Namespace, name: str) -> None:
    """Options that would do nothing are a misunderstanding."""
    for option, given in (
        ("--cache-images", arguments.cache_images is not None),
        ("--dataset-on-device", arguments.dataset_on_device),
        ("--black-images", arguments.black_images),
    ):
        if given:
            raise UserError(f"{option}: {name} is a LiDAR model, which sees no images; leave the option out")


def _quiet() -> None:
    """Lightning's advice is about choices made here on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*dataloader is not resumable.*",
        ".*log_every.*",
        ".*LeafSpec.*",
        ".*Grad strides do not match bucket view strides.*",
    ):
        warnings.filterwarnings("ignore", pattern)
