"""Tries the checkpoint and the device as the detector would. Needs torch, and its time: imported only when it is used."""

from __future__ import annotations

import hashlib

from bevdistill_ros.checkpoint import Checkpoint
from bevdistill_ros.detector import camera_config, choose_device, load_network, use_device
from bevdistill_ros.doctor.facts import DeviceFacts, ModelFacts
from bevdistill_ros.errors import UserError
from bevdistill_ros.hardware import hardware
from bevdistill_ros.paths import model_path
from bevdistill_ros.runtime.open_model import open_model


def model_facts(model: str) -> ModelFacts:
    """Read the checkpoint that the parameter `model` names."""
    try:
        path = model_path(model)
        model_read = open_model(path).model
        config = camera_config(model_read, str(path))
        if isinstance(model_read, Checkpoint):
            load_network(model_read, use_device("cpu"), str(path))
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
        cameras=model_read.cameras,
        training=model_read.training,
    )


def device_facts(asked: str) -> DeviceFacts:
    """Try the device that the parameter `device` names."""
    name = choose_device(asked)
    try:
        use_device(name)
    except UserError as error:
        return DeviceFacts(asked, problem=str(error))
    return DeviceFacts(asked, name, hardware())
