"""Tries the checkpoint and the device as the detector would. Needs torch, and its time: imported only when it is used."""

from __future__ import annotations

import hashlib

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.detector import camera_config, choose_device, load_network, use_device
from bevdistill_ros.doctor.facts import DeviceFacts, ModelFacts
from bevdistill_ros.errors import UserError
from bevdistill_ros.hardware import hardware
from bevdistill_ros.paths import model_path


def model_facts(model: str) -> ModelFacts:
    """Read the checkpoint that the parameter `model` names."""
    try:
        path = model_path(model)
        checkpoint = load_checkpoint(path)
        config = camera_config(checkpoint, str(path))
        load_network(checkpoint, use_device("cpu"), str(path))
    except UserError as error:
        return ModelFacts(model, problem=str(error))
    content = path.read_bytes()
    return ModelFacts(
        given=model,
        path=str(path),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        name=config.name,
        classes=tuple(config.classes),
        cameras=checkpoint.cameras,
        training=checkpoint.training,
    )


def device_facts(asked: str) -> DeviceFacts:
    """Try the device that the parameter `device` names."""
    name = choose_device(asked)
    try:
        use_device(name)
    except UserError as error:
        return DeviceFacts(asked, problem=str(error))
    return DeviceFacts(asked, name, hardware())
