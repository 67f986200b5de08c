"""Weights on disk -> network: our own format, and nnInteractive v1.0 folders.

Our file is a dictionary saved by torch: ``format``, ``config`` (features, blocks, patch, prompt style) and ``state``.
It is read with ``weights_only=True`` and memory-mapped, and the tensors are assigned into a network without memory of
its own, so nothing is initialized only to be overwritten. Kernels lie in the file as the forward on a CPU takes them,
their channels last, so that float32 weights are used where they are.

An nnInteractive folder holds ``plans.json``, ``dataset.json`` and ``fold_0`` or ``fold_all``/``checkpoint_final.pth``.
Its state has an entry for every name under which a tensor can be reached; these aliases are checked to agree and
dropped.

``python -m inference.checkpoint FOLDER OUT.pt`` converts such a folder, ``--to-nninteractive FOLDER`` writes one, and
``FILE OUT.pt --temperature T`` copies our own weights with another temperature.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import pickle
import re
import sys
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.atomic import replacing
from inference.case import Voxel
from inference.network import NetworkConfig, ResidualEncoderUNet
from inference.prompts import NNINTERACTIVE_STYLE, PromptStyle

FORMAT = "segfm3d-1"

ARCHITECTURE = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"

_NUMPY_SCALARS = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
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
        keep_proportions: whether windows have one zoom for all axes (:meth:`inference.window.Window.around`).
        temperature: what the network's log-odds are divided by, so that its probabilities can be compared between
            objects; `python -m evaluation calibrate` measures it.
        finer: the network was taught to look again so many times as finely along each axis, with its probabilities
            as the previous mask; 1 if it was not.
    """

    network: NetworkConfig
    patch: Voxel
    style: PromptStyle
    keep_proportions: bool = True
    temperature: float = 1.0
    finer: int = 1

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or any(p < 1 or p % self.network.stride for p in self.patch):
            raise ValueError(f"patch {self.patch}: expected three multiples of {self.network.stride}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: expected a number above 0")
        if self.finer < 1:
            raise ValueError(f"finer {self.finer}: expected a whole number, at least 1")


def save(path: Path, config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Writes weights in our format, whole or not at all, floating point tensors as ``dtype``."""
    tensors = {name: _as_stored(tensor.detach().to("cpu", dtype)) for name, tensor in state.items()}
    with replacing(path) as unfinished:
        torch.save({"format": FORMAT, "config": asdict(config), "state": tensors}, unfinished)


def _as_stored(tensor: Tensor) -> Tensor:
    order = torch.channels_last_3d if tensor.ndim == 5 else torch.contiguous_format
    return tensor.contiguous(memory_format=order)


def load(path: Path) -> tuple[ResidualEncoderUNet, ModelConfig]:
    """Reads weights: our file, or an nnInteractive folder.

    Returns:
        the network on the CPU, in evaluation mode, float32, and its configuration. Its kernels may have their channels
        last in memory, with which PyTorch's own normalization is less exact: what runs it as it is, and not by way of
        :func:`inference.cpu_forward.for_cpu`, brings it to ``torch.contiguous_format`` first.

    Raises:
        CheckpointError: missing, unreadable, unsafe or of another configuration.
    """
    config, state = read(path)
    return build(config, state, path), config


def read(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads our file, or an nnInteractive folder: the configuration, and the tensors as they are stored.

    Raises:
        CheckpointError: missing, unreadable or unsafe.
    """
    return read_nninteractive(path) if path.is_dir() else _read(path)


def build(config: ModelConfig, state: dict[str, Tensor], path: Path) -> ResidualEncoderUNet:
    """A network around the tensors of ``state``, strictly: no tensor missing, none too many, none of another shape."""
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


def _read(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    content = _torch_load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not weights of this project; expected a file with format {FORMAT!r}")
    try:
        model = model_from(content["config"])
        state = dict(content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the configuration is not usable ({error!r}); expected {FORMAT!r}'s") from error
    return model, state


def model_from(config: dict) -> ModelConfig:
    """The configuration that ``dataclasses.asdict`` made a dictionary of.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return ModelConfig(
        NetworkConfig(tuple(config["network"]["features"]), tuple(config["network"]["blocks"])),
        tuple(config["patch"]),
        PromptStyle(**config["style"]),
        bool(config["keep_proportions"]),
        # Files from before these were known have neither.
        float(config.get("temperature", 1.0)),
        int(config.get("finer", 1)),
    )


def _torch_load(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights, for example weights/default.pt")
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


def read_nninteractive(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads a folder in nnInteractive v1.0's layout.

    Returns:
        the configuration from ``plans.json``, and the distinct tensors under our network's names.

    Raises:
        CheckpointError: a file is missing or unsafe, the architecture is another one, or aliases disagree.
    """
    plans = _json(folder / "plans.json")
    _json(folder / "dataset.json")
    candidates = [folder / fold / "checkpoint_final.pth" for fold in ("fold_all", "fold_0")]
    checkpoints = [path for path in candidates if path.is_file()]
    if not checkpoints:
        raise CheckpointError(f"{folder}: no fold_0/checkpoint_final.pth nor fold_all/checkpoint_final.pth")
    content = _torch_load(checkpoints[0])
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise CheckpointError(f"{checkpoints[0]}: no 'network_weights'; expected a checkpoint of nnInteractive")
    try:
        name = content["init_args"]["configuration"]
        model = _model_from_plans(_resolved(plans["configurations"], name))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: plans.json does not describe a known architecture ({error!r})") from error
    return _as_trained(model, folder), drop_aliases(content["network_weights"], checkpoints[0])


def _as_trained(model: ModelConfig, folder: Path) -> ModelConfig:
    """The configuration with what an exported folder says beyond the published layout; a published one says nothing."""
    path = folder / "inference_info.json"
    own = _json(path).get("segfm3d") if path.is_file() else None
    if own is None:
        return model
    try:
        return replace(
            model,
            patch=tuple(own["patch"]),
            style=PromptStyle(**own["style"]),
            keep_proportions=own["keep_proportions"],
            temperature=float(own.get("temperature", 1.0)),
            finer=int(own.get("finer", 1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: 'segfm3d' is not usable ({error!r}); expected patch, style and keep_proportions"
        ) from error


def drop_aliases(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keeps one name a tensor: ``all_modules.*`` and ``decoder.encoder.*`` repeat what other names hold.

    Raises:
        CheckpointError: an alias differs from the tensor that it should repeat, or repeats none.
    """
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    kept = {name: tensor for name, tensor in state.items() if _original(name) == name}
    for name, tensor in state.items():
        original = _original(name)
        if original not in kept:
            raise CheckpointError(f"{path}: {name} repeats {original}, which is missing")
        if kept[original] is not tensor and not torch.equal(kept[original], tensor):
            raise CheckpointError(f"{path}: {name} and {original} should hold the same tensor and differ")
    return kept


def _original(name: str) -> str:
    """The name that an alias stands for: module 0 of a block is its convolution, module 1 its normalization."""
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    return name.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")


def _resolved(configurations: dict[str, dict], name: str) -> dict:
    """A configuration with what it inherits; the published one differs from its parent by the batch size only."""
    configuration = configurations[name]
    parent = configuration.get("inherits_from")
    return configuration if parent is None else _resolved(configurations, parent) | configuration


def _model_from_plans(configuration: dict) -> ModelConfig:
    architecture = configuration["architecture"]
    arguments = architecture["arch_kwargs"]
    stages = arguments["n_stages"]
    if architecture["network_class_name"] != ARCHITECTURE:
        raise ValueError(f"network_class_name {architecture['network_class_name']}, expected {ARCHITECTURE}")
    fixed = {
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
    }
    for key, expected in fixed.items():
        if arguments[key] != expected:
            raise ValueError(f"{key} {arguments[key]}, expected {expected}")
    network = NetworkConfig(tuple(arguments["features_per_stage"]), tuple(arguments["n_blocks_per_stage"]))
    return ModelConfig(network, tuple(configuration["patch_size"]), NNINTERACTIVE_STYLE)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a folder in nnInteractive's layout") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error


def main(arguments: list[str] | None = None) -> int:
    """Converts an nnInteractive folder to one file of ours, or weights to a folder that nnInteractive loads; sets the
    temperature of weights."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.checkpoint",
        usage="%(prog)s SOURCE OUT.pt [--temperature T]\n"
        "       %(prog)s --to-nninteractive FOLDER [--weights FILE] [--licence NAME]",
        description=main.__doc__,
    )
    parser.add_argument(
        "source",
        type=Path,
        nargs="?",
        help="plans.json, dataset.json, fold_0 or fold_all/checkpoint_final.pth in a folder; or a file of ours",
    )
    parser.add_argument("out", type=Path, nargs="?", help="the file to write, for example weights/nninteractive.pt")
    parser.add_argument(
        "--temperature", type=float, help="what the log-odds are divided by (default: the source's, else 1)"
    )
    parser.add_argument("--to-nninteractive", type=Path, metavar="FOLDER", help="a new folder to write")
    parser.add_argument("--weights", type=Path, default=Path("weights/default.pt"), help="what it is written from")
    parser.add_argument("--licence", help="the weights' licence, which clients show (default: that of our own weights)")
    options = parser.parse_args(arguments)
    writing_file = options.source is not None and options.out is not None
    if writing_file == (options.to_nninteractive is not None):
        parser.error("expected SOURCE OUT.pt, or --to-nninteractive FOLDER")
    if options.temperature is not None and not (writing_file and 0 < options.temperature < math.inf):
        parser.error("--temperature: expected a number above 0, and SOURCE OUT.pt")
    source, target = (options.source, options.out) if writing_file else (options.weights, options.to_nninteractive)
    try:
        if writing_file:
            config, state = _copy(source, target, options.temperature)
        else:
            config, state = _export(source, target, options.licence)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parameters = sum(tensor.numel() for tensor in state.values())
    print(
        f"{target}: {len(state)} tensors, {parameters:,} parameters, patch {config.patch}, "
        f"temperature {config.temperature:g}"
    )
    return 0


def _copy(source: Path, target: Path, temperature: float | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Writes weights as our file, in the widest precision in which any of them is stored."""
    config, state = read(source)
    build(config, state, source)
    if temperature is not None:
        config = replace(config, temperature=temperature)
    save(target, config, state, functools.reduce(torch.promote_types, (tensor.dtype for tensor in state.values())))
    return config, state


def _export(weights: Path, folder: Path, licence: str | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    from inference.nninteractive_export import WEIGHTS_LICENCE, export  # It imports this module.

    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: is not empty; expected a new folder, so that no other model is overwritten")
    network, config = load(weights)
    state = network.state_dict()
    export(folder, config, state, licence or WEIGHTS_LICENCE)
    return config, state


if __name__ == "__main__":
    sys.exit(main())
