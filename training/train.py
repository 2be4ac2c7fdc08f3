"""The verb ``train``: a student or a LiDAR teacher from a dataset in the nuScenes schema."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
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
from bevdistill_ros.errors import UserError, brief
from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.models.deformable_conv import buildable
from bevdistill_ros.paths import share_directory
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
from bevdistill_ros.training.config import Config, TrainingConfig, load_config
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
from bevdistill_ros.training.distill.teacher import load_teacher
from bevdistill_ros.training.loader import AugmentedSamples, make_loader
from bevdistill_ros.training.module import DetectionModule
from bevdistill_ros.training.pictures import Pictures
from bevdistill_ros.training.processes import Processes, choose_processes, is_first_process
from bevdistill_ros.training.start_weights import start_from
from bevdistill_ros.training.validation import Validation
from bevdistill_ros.training_rig import RIG, rig_to_plain

MODEL_FILE = "model.safetensors"
STATE_FILE = "last.ckpt"
CACHE_FOLDER = "image_cache"
TABLE_FOLDER = "table_cache"


def main(argv: list[str]) -> int:
    """Parse, train, write OUTPUT/model.safetensors."""
    arguments = _parser().parse_args(argv)
    output = Path(arguments.output)
    state = output / STATE_FILE
    if arguments.resume and not state.is_file():
        raise UserError(f"{state}: nothing to resume there; leave out --resume to start")
    if not arguments.resume and state.exists():
        raise UserError(f"{output}: holds a training already; pass --resume to continue it, or name another --output")
    if arguments.resume and arguments.config:
        raise UserError(f"--resume takes its configuration from {output / 'config.yaml'}; leave out --config")
    config_file = output / "config.yaml" if arguments.resume else find_config(arguments.config or "nano")
    config = _with_absolute_paths(load_config(config_file, arguments.set))
    if not arguments.resume:
        config = replace(config, model=_buildable(config.model))
    if not isinstance(config.model, ImageModelConfig):
        _refuse_image_options(arguments, config.model.name)
    processes = choose_processes(arguments.device, arguments.devices, arguments.nodes)
    processes.check(config)
    if arguments.bags and processes.started_outside:
        raise UserError("--bags with torchrun: several processes would convert at once; run `bevdistill convert` first")

    teacher = None
    points = PointsConfig() if config.training.image_supervision.used else None
    if isinstance(config.model, TeacherConfig):
        points = config.model.points
    if config.training.distill is not None:
        teacher = load_teacher(config.training.distill.teacher, config.model)
        points = teacher.config.points

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
        write_atomically(output / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
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
        resume=state if arguments.resume else None,
        weights=arguments.weights,
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
        "weights": None if arguments.weights is None else Path(arguments.weights).name,
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
    weights: Path | None = None,
    black_images: bool = False,
    device_cache: ImageCache | None = None,
    validation_samples: NuScenesSamples | None = None,
) -> Trained:
    """Run the training, with its saved states and its log in ``output``.

    Args:
        processes: what to train with; this is one of them.
        teacher: what teaches, where ``config.training.distill`` is there.
        resume: the saved state to go on from.
        weights: a checkpoint to start from instead of random weights, see ``start_from``.
        device_cache: of ``samples``; its pixels are then held on the device.
        validation_samples: to be scored on the way, see ``Validation``.
    """
    _quiet()
    training = config.training
    lightning.seed_everything(training.seed, workers=True, verbose=False)
    module = DetectionModule(config, device_cache, teacher)
    if weights is not None:
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


def find_config(name: str) -> Path:
    """A configuration file by its path, or by the name of one that is shipped in config/models."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    folder = share_directory() / "config" / "models"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"--config {name}: is neither a .yaml file nor one of {known}")
    return path


def _data(arguments: argparse.Namespace, output: Path, with_sweeps: bool) -> Path:
    """The dataset's root: as named, or what is made of bags."""
    if not arguments.bags:
        if arguments.rig:
            raise UserError("--rig belongs to --bags; leave it out")
        if not arguments.data:
            raise UserError("name a dataset with --data, or recordings with --bags")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill train",
        description="Train a camera student or a LiDAR teacher (--config teacher_nano) on a dataset in the nuScenes schema. "
        "Writes OUTPUT/model.safetensors (a student's is for the detector), OUTPUT/config.yaml, OUTPUT/log (for TensorBoard) and "
        "OUTPUT/last.ckpt (to resume).",
        epilog="example: bevdistill train --config nano --data /data/nuscenes --version v1.0-mini --split mini_train "
        "--output runs/nano",
    )
    parser.add_argument("--config", help="a .yaml file, or the name of one shipped (default: nano)")
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="dataset folder, which holds the version's folder; with --bags where it is written (default: OUTPUT/dataset)",
    )
    parser.add_argument(
        "--bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="train on recordings: bags, or folders of bags; those that are not converted yet are converted first",
    )
    parser.add_argument(
        "--rig",
        type=Path,
        metavar="FILE",
        help="with --bags: which topics are which sensors (default: OUTPUT/rig.yaml, guessed from the first bag)",
    )
    parser.add_argument("--version", help="folder of the tables in ROOT, e.g. v1.0-mini (default: the only one)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--split", help="an official split, e.g. train or mini_train, or one of ROOT/VERSION/splits.json"
    )
    chosen.add_argument("--scenes", nargs="+", metavar="NAME", help="scenes by name (default: all)")
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument(
        "--val-split", metavar="SPLIT", help="score this split every training.validate_every steps and at the end"
    )
    validation.add_argument("--val-scenes", nargs="+", metavar="NAME", help="likewise, scenes by name")
    parser.add_argument("--cameras", nargs="+", metavar="CHANNEL", help="cameras to use (default: all)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the training in OUTPUT")
    start.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="start from the weights of this checkpoint, as far as they fit by name and shape; also of an image backbone as "
        "torchvision, timm or mmdetection store it (.pth, .pt, .safetensors)",
    )
    parser.add_argument(
        "--set", action="append", metavar="FIELD=VALUE", help="override a field, e.g. training.steps=1000"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="train with so many processes on this machine, each on a GPU of its own (default: 1)",
    )
    parser.add_argument("--nodes", type=int, metavar="M", help="and on so many machines together (default: 1)")
    parser.add_argument(
        "--cache-images",
        nargs="?",
        const="",
        metavar="DIR",
        help="decode and preprocess every image once, into a file in DIR that later trainings share (default: OUTPUT/image_cache)",
    )
    parser.add_argument(
        "--cache-tables",
        nargs="?",
        const="",
        metavar="DIR",
        help="take what samples need of the dataset's tables into a file in DIR that later trainings share (default: "
        "OUTPUT/table_cache): for tables as large as v1.0-trainval's",
    )
    parser.add_argument(
        "--dataset-on-device",
        action="store_true",
        help="hold that file's images in the memory of the training's device and augment them there",
    )
    parser.add_argument("--black-images", action="store_true", help="control experiment: train on black images")
    parser.add_argument("--half", action="store_true", help="write the weights as float16: half the size")
    parser.add_argument("--json", metavar="FILE", help="write the figures of the run there")
    return parser
