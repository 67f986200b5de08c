"""The device that a process of training computes on, and which of several processes it is."""

from __future__ import annotations

import os

import torch

from inference.predictor import DeviceError


def process_rank() -> int:
    """Returns the number that ``torchrun`` gave this process; 0, the one that writes and speaks, if it is alone."""
    return int(os.environ.get("RANK", 0))


def training_device(name: str | None) -> torch.device:
    """Returns the device to train on, with its index, and makes it the process's own.

    Args:
        name: cpu, cuda or cuda:N; None for a GPU if there is one. ``cuda`` is the one of ``LOCAL_RANK`` under torchrun.

    Raises:
        DeviceError: there is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name}: expected cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: PyTorch finds no such device here; give --device cpu")
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise DeviceError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
