"""Weights on disk in our own format.

The file is a dictionary saved by torch: ``format``, ``config`` (features, blocks, patch, prompt style) and ``state``.
It is read with ``weights_only=True`` and memory-mapped, and the tensors are assigned into a network without memory of
its own, so nothing is initialized only to be overwritten. Kernels lie in the file as the forward on a CPU takes them,
their channels last, so that float32 weights are used where they are.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from inference.atomic import replacing
from inference.geometry import Voxel
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.options import DEFAULT_WEIGHTS
from inference.prompts import PromptStyle

FORMAT = "segfm3d-1"

_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Beside its tensors a published checkpoint holds the log of its training, whose numbers are numpy's."""


class CheckpointError(ValueError):
    """Weights that cannot be used; the message is one line: which file, what is wrong, what is expected."""


@dataclass(frozen=True)
class ModelConfig:
    """All that must be known beside the tensors.

    Args:
        network: the network's shape.
        patch: (D, H, W) voxels that the network sees.
        style: how clicks are drawn for these weights.
        isotropic_zoom: whether windows have one zoom for all axes (:meth:`inference.window.Window.around`).
        temperature: what the network's log-odds are divided by, so that its probabilities can be compared between
            objects; ``segfm3d calibrate`` measures it.
        finer: the network was taught to look again so many times as finely along each axis, with its probabilities
            as the previous mask; 1 if it was not.
    """

    network: NetworkConfig
    patch: Voxel
    style: PromptStyle
    isotropic_zoom: bool = True
    temperature: float = 1.0
    finer: int = 1

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or any(p < 1 or p % self.network.stride for p in self.patch):
            raise ValueError(f"patch {self.patch}: expected three multiples of {self.network.stride}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: expected a number above 0")
        if self.finer < 1:
            raise ValueError(f"finer {self.finer}: expected a whole number, at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as it is stored, in which ``isotropic_zoom`` is called ``keep_proportions``."""
        stored = asdict(self)
        stored["keep_proportions"] = stored.pop("isotropic_zoom")
        return stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> ModelConfig:
        """Returns the configuration that :meth:`to_dict` stored.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(
            NetworkConfig(tuple(stored["network"]["features"]), tuple(stored["network"]["blocks"])),
            tuple(stored["patch"]),
            PromptStyle(**stored["style"]),
            bool(stored["keep_proportions"]),
            # Files from before these were known have neither.
            float(stored.get("temperature", 1.0)),
            int(stored.get("finer", 1)),
        )


def save(path: Path, config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Writes weights in our format, whole or not at all, floating point tensors as ``dtype``."""
    tensors = {name: _as_stored(tensor.detach().to("cpu", dtype)) for name, tensor in state.items()}
    with replacing(path) as unfinished:
        torch.save({"format": FORMAT, "config": config.to_dict(), "state": tensors}, unfinished)


def widest(state: dict[str, Tensor]) -> torch.dtype:
    """The type that holds all tensors without loss."""
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))


def _as_stored(tensor: Tensor) -> Tensor:
    order = torch.channels_last_3d if tensor.ndim == 5 else torch.contiguous_format
    return tensor.contiguous(memory_format=order)


def build(config: ModelConfig, state: dict[str, Tensor], path: Path) -> ResidualEncoderUNet:
    """Returns a network around the tensors of ``state``, in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: a tensor is missing, too many, or of another shape; the message names ``path``.
    """
    with torch.device("meta"):
        network = ResidualEncoderUNet(config.network)
    expected = network.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: the tensors do not fit the configuration ({len(missing)} missing, first {missing[:1]}; "
            f"{len(unexpected)} unexpected, first {unexpected[:1]})"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}; expected {tuple(expected[name].shape)} floats"
            )
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def read(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads our file: the configuration, and the tensors as they are stored.

    Raises:
        CheckpointError: the file is missing, unreadable, unsafe, or not ours.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not weights of this project; expected a file with format {FORMAT!r}")
    try:
        model = ModelConfig.from_dict(content["config"])
        state = dict(content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the configuration is not usable ({error!r}); expected {FORMAT!r}'s") from error
    return model, state


def read_torch_file(path: Path) -> object:
    """Reads what ``torch.save`` wrote, its tensors memory-mapped; nothing in it can run code.

    Raises:
        CheckpointError: the file is missing, unreadable or unsafe.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights, for example {DEFAULT_WEIGHTS}")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not readable as weights (no archive as torch.save writes it); expected weights, for example "
            "weights/default.pt, or nnInteractive's folder; the file may be truncated"
        )
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {found[1]}" if found else "its pickle is not a plain one"
        raise CheckpointError(f"{path}: refused ({what}); expected tensors, numbers, text and containers") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not readable as weights ({reason}); the file may be truncated") from error
