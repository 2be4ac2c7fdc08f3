"""The verb ``train``: a student from a dataset in the nuScenes schema."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import sys
import warnings
from pathlib import Path

import lightning
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
from bevdistill_ros.config import Config, load_config, to_dict
from bevdistill_ros.errors import UserError
from bevdistill_ros.files import write_atomically
from bevdistill_ros.paths import share_directory
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data.nuscenes import NuScenesCameras, choose_samples, open_nuscenes
from bevdistill_ros.training.module import (
    AtomicCheckpoint,
    AugmentedSamples,
    RunClock,
    StopOnSignal,
    StudentModule,
    make_loader,
)

MODEL_FILE = "model.safetensors"
STATE_FILE = "last.ckpt"


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
    config = load_config(config_file, arguments.set)

    nusc = open_nuscenes(arguments.data, arguments.version)
    tokens = choose_samples(nusc, arguments.split, arguments.scenes)
    samples = NuScenesCameras(
        nusc,
        tokens,
        config.model.classes,
        Preprocessor(config.model.image),
        arguments.cameras,
        cache=arguments.cache_images,
    )
    write_atomically(output / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    clock = RunClock()
    resume = state if arguments.resume else None
    module, step = train(config, samples, output, clock, arguments.device, resume, arguments.black_images)
    if step < config.training.steps:
        print(f"{output}: interrupted after step {step}; continue with --resume", file=sys.stderr)
        return 1
    loss = module.trainer.callback_metrics.get("loss")
    figures = {
        "steps": step,
        "wall_s": round(clock.wall_s, 1),
        "cpu_s": round(clock.cpu_s, 1),
        "samples": len(samples),
        "loss": None if loss is None else round(float(loss), 4),
    }
    origin = {
        "data": Path(arguments.data).resolve().name,
        "version": arguments.version,
        "split": arguments.split,
        "scenes": arguments.scenes,
        "black_images": arguments.black_images,
        "torch": torch.__version__,
        **to_dict(config)["training"],
        **figures,
    }
    path = output / MODEL_FILE
    save_checkpoint(path, Checkpoint(config.model, module.network.state_dict(), samples.cameras, origin))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"model": str(path), **figures}, indent=2) + "\n")
    print(f"{path}: {step} steps, {clock.wall_s:.0f} s")
    return 0


def train(
    config: Config,
    samples: NuScenesCameras,
    output: Path,
    clock: RunClock,
    device: str = "auto",
    resume: Path | None = None,
    black_images: bool = False,
) -> tuple[StudentModule, int]:
    """Run the training; returns the module and the number of steps done."""
    _quiet()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu, or install a PyTorch with CUDA")
    lightning.seed_everything(config.training.seed, workers=True, verbose=False)
    module = StudentModule(config)
    start = 0
    if resume is not None:
        try:
            start = torch.load(resume, map_location="cpu", weights_only=True)["global_step"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(f"{resume}: cannot be resumed from, it is damaged or no training state ({text})") from None
    bar = sys.stderr.isatty()
    trainer = lightning.Trainer(
        max_steps=config.training.steps,
        max_epochs=-1,  # steps alone count, so that a finished training can be given more of them
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[device],
        devices=1,
        precision=config.training.precision,
        gradient_clip_val=config.training.gradient_clip,
        # Lightning's logger empties its folder: a resumed run gets its own.
        logger=CSVLogger(output, name="", version=f"log_from_{start}" if start else "log"),
        callbacks=[clock, StopOnSignal(), AtomicCheckpoint(output / STATE_FILE, config.training.checkpoint_every)],
        enable_checkpointing=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        log_every_n_steps=min(20, config.training.steps),
        num_sanity_val_steps=0,
    )
    loader = make_loader(AugmentedSamples(samples, config, black_images), config, start)
    try:
        trainer.fit(module, loader, ckpt_path=None if resume is None else str(resume), weights_only=True)
    except UserError as error:
        # From a worker process it comes with that process's traceback, the message last.
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
    return module, trainer.global_step


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


def _quiet() -> None:
    """Lightning's advice is about choices made here on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*dataloader is not resumable.*",
        ".*log_every.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bevdistill train",
        description="Train a student on a dataset in the nuScenes schema. Writes OUTPUT/model.safetensors (for the detector), "
        "OUTPUT/config.yaml, OUTPUT/log/metrics.csv and OUTPUT/last.ckpt (to resume).",
        epilog="example: bevdistill train --config nano --data /data/nuscenes --version v1.0-mini --split mini_train "
        "--output runs/nano",
    )
    parser.add_argument("--config", help="a .yaml file, or the name of one shipped (default: nano)")
    parser.add_argument(
        "--data", required=True, metavar="ROOT", help="dataset folder, which holds the version's folder"
    )
    parser.add_argument("--version", default="v1.0-trainval", help="nuScenes version (default: v1.0-trainval)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--split", help="an official split, e.g. train or mini_train")
    chosen.add_argument("--scenes", nargs="+", metavar="NAME", help="scenes by name (default: all)")
    parser.add_argument("--cameras", nargs="+", metavar="CHANNEL", help="cameras to use (default: all)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--resume", action="store_true", help="continue the training in OUTPUT")
    parser.add_argument(
        "--set", action="append", metavar="FIELD=VALUE", help="override a field, e.g. training.steps=1000"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cache-images", action="store_true", help="keep the decoded images in memory")
    parser.add_argument("--black-images", action="store_true", help="control experiment: train on black images")
    parser.add_argument("--json", metavar="FILE", help="write the figures of the run there")
    return parser
