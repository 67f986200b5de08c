"""nnInteractive's model folders: read into our network, and written so that the ``nninteractive`` package loads them.

A folder holds ``plans.json``, ``dataset.json`` and ``fold_0`` or ``fold_all``/``checkpoint_final.pth``, and since
version 2 of the package ``inference_info.json`` (:mod:`inference.nninteractive_session`) and ``LICENSE``. A published
state has an entry for every name under which a tensor can be reached; these aliases are checked to agree and dropped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inference.atomic import replacing
from inference.checkpoint import CheckpointError, ModelConfig, read_torch_file
from inference.network import NetworkConfig
from inference.nninteractive_session import capability, session_patch
from inference.prompts import NNINTERACTIVE_STYLE, PromptStyle

ARCHITECTURE = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
CONFIGURATION = "3d_fullres"
DATASET = "Dataset001_segfm3d"

WEIGHTS_LICENCE = "CC BY-NC-SA 4.0"
"""Of our weights (see their model card) and of nnInteractive's own."""


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
    content = read_torch_file(checkpoints[0])
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise CheckpointError(f"{checkpoints[0]}: no 'network_weights'; expected a checkpoint of nnInteractive")
    try:
        name = content["init_args"]["configuration"]
        model = _model_from_plans(_resolved(plans["configurations"], name))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{folder}: plans.json does not describe a known architecture ({what})") from error
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
            isotropic_zoom=own["keep_proportions"],
            temperature=float(own.get("temperature", 1.0)),
            finer=int(own.get("finer", 1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: 'segfm3d' is not usable ({error!r}); expected patch, style and keep_proportions"
        ) from error


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


def export(folder: Path, config: ModelConfig, state: dict[str, Tensor], licence: str = WEIGHTS_LICENCE) -> None:
    """Writes the folder; files of the same name are replaced, each whole or not at all.

    Args:
        folder: made if it is missing.
        config, state: as :func:`inference.checkpoint.save` takes them.
        licence: a short name, which clients show to their users.

    Raises:
        OSError: the folder cannot be written.
    """
    fold = folder / "fold_0"
    fold.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "network_weights": with_aliases(
            {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
        ),
        "trainer_name": "nnInteractiveTrainer_stub",
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    with replacing(fold / "checkpoint_final.pth") as unfinished:
        torch.save(checkpoint, unfinished)
    _write_json(folder / "dataset.json", _dataset())
    _write_json(folder / "plans.json", _plans(config))
    with replacing(folder / "LICENSE") as unfinished:
        unfinished.write_text(f"{licence}\n", encoding="utf-8")
    _write_json(folder / "inference_info.json", capability(config))


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


def with_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names and every further name under which the published architecture reaches the same tensor.

    The opposite of :func:`drop_aliases`. Tensors are shared, so a file of them does not grow.
    """
    named = dict(state)
    for name, tensor in state.items():
        for own, module in ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1.")):
            if own in name:
                named[name.replace(own, module)] = tensor
    return named | {f"decoder.{name}": tensor for name, tensor in named.items() if name.startswith("encoder.")}


def _dataset() -> dict:
    return {
        "name": "segfm3d",
        "channel_names": {"0": "image"},
        "labels": {"background": 0, "object": 1},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }


def _plans(config: ModelConfig) -> dict:
    """``plans.json``; intensities are normalized by the session itself, spacing and batch size are read by nobody."""
    patch = list(session_patch(config))
    return {
        "dataset_name": DATASET,
        "plans_name": "segfm3d",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "segfm3d",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": patch,
                "median_image_size_in_voxels": patch,
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "architecture": _architecture(config.network),
                "batch_dice": False,
            }
        },
        "experiment_planner_used": "none",
        "label_manager": "LabelManager",
    }


def _architecture(network: NetworkConfig) -> dict:
    stages = len(network.features)
    return {
        "network_class_name": ARCHITECTURE,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(network.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_blocks_per_stage": list(network.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _write_json(path: Path, content: dict) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a folder in nnInteractive's layout") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
