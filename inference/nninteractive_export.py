"""Weights -> a model folder that the ``nninteractive`` package loads, and with it its clients and its server.

The folder holds what its inference session reads (package version 2): ``plans.json``, ``dataset.json``,
``inference_info.json``, ``LICENSE`` and ``fold_0/checkpoint_final.pth``. The network is the same; how a session draws
prompts is its own affair, and what of that differs from here stands in ``inference_info.json`` under ``differences``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from inference.atomic import replacing
from inference.case import Voxel
from inference.checkpoint import ARCHITECTURE, ModelConfig
from inference.network import IMAGE_AND_PROMPT_CHANNELS, NetworkConfig
from inference.prompts import (
    BOX,
    BOX_NEGATIVE,
    CLICK,
    CLICK_NEGATIVE,
    PREVIOUS,
    SCRIBBLE,
    SCRIBBLE_NEGATIVE,
    PromptStyle,
    click_ball,
)

CONFIGURATION = "3d_fullres"
DATASET = "Dataset001_segfm3d"

WEIGHTS_LICENCE = "CC BY-NC-SA 4.0"
"""Of our weights (see their model card) and of nnInteractive's own."""

SESSION_PATCH = 80
"""Voxels, at least. A session covers a large object with patches of which it leaves out 24 voxels on every side: with
patches of 48 it fails, of 64 it needs some ten times as many as of 80, of 96 hardly fewer. And since it never zooms in,
the larger the patch, the smaller a small object is to weights that were trained with 48."""


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


def with_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names and every further name under which the published architecture reaches the same tensor.

    The opposite of :func:`inference.checkpoint.drop_aliases`. Tensors are shared, so a file of them does not grow.
    """
    named = dict(state)
    for name, tensor in state.items():
        for own, module in ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1.")):
            if own in name:
                named[name.replace(own, module)] = tensor
    return named | {f"decoder.{name}": tensor for name, tensor in named.items() if name.startswith("encoder.")}


def session_patch(config: ModelConfig) -> Voxel:
    """The patch that a session runs the network with: the weights' own, or a larger one where that is too small."""
    stride = config.network.stride
    return tuple(math.ceil(max(p, SESSION_PATCH) / stride) * stride for p in config.patch)


def session_radius(style: PromptStyle) -> int:
    """The radius of the points that a session draws, in voxels.

    Its points always fall off from their centre. For weights that know binary balls, the one that weighs as much.
    """
    if style.falloff:
        return style.radius
    weight = click_ball(style.radius, falloff=False).sum()
    return min(
        range(style.radius, 2 * style.radius + 1),
        key=lambda radius: abs(float(click_ball(radius, falloff=True).sum() - weight)),
    )


def capability(config: ModelConfig) -> dict:
    """``inference_info.json``: which interactions the weights know, in which channels, and how a session draws them."""
    # A session counts channels from the previous mask on: the image comes before them.
    box, click, scribble = (
        [channel - PREVIOUS for channel in pair]
        for pair in ((BOX, BOX_NEGATIVE), (CLICK, CLICK_NEGATIVE), (SCRIBBLE, SCRIBBLE_NEGATIVE))
    )
    return {
        "inference_class": "nnInteractiveInferenceSession",
        "inference_class_min_version": "2.0.0",
        # Clients offer their box tool only where flat boxes are supported.
        "supported_interactions": {"points": True, "bbox2d": True, "bbox3d": True, "scribble": False, "lasso": False},
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": True,
        "interaction_channels": IMAGE_AND_PROMPT_CHANNELS - 2,
        "channel_mapping": {
            "prev_seg": 0,
            "bbox2d": box,
            "bbox3d": box,
            "lasso": box,
            "points": click,
            "scribble": scribble,
        },
        "point_radius": session_radius(config.style),
        "preferred_scribble_thickness": [2, 2, 2],
        "interaction_decay": config.style.decay,
        "pad_mode_image": "constant",
        "differences": _differences(config),
        # What this project needs to know to read the folder back.
        "segfm3d": {
            "patch": list(config.patch),
            "style": asdict(config.style),
            "keep_proportions": config.keep_proportions,
            "temperature": config.temperature,
            "finer": config.finer,
        },
    }


def _differences(config: ModelConfig) -> list[str]:
    """What a session does otherwise than this project, a sentence each."""
    differences = [
        "A box drawn in one slice is a box of one voxel's thickness to these weights, which were trained with whole 3D "
        "boxes; give 3D boxes where the client can, else add points in other slices.",
        "A session looks around the last interaction only, and enlarges its view where the mask reaches the border; "
        "here the view holds the box and every click.",
        "Zoomed out, a session shrinks clicks with the image; here they are drawn after it with their full radius.",
        "A session gives each object its own mask; here all objects of a case are fused into one label map.",
    ]
    if not config.style.falloff:
        differences.insert(
            0,
            "A session draws a point that falls off from its centre; these weights were trained with binary balls of "
            f"radius {config.style.radius}, which weigh about as much as its points of radius "
            f"{session_radius(config.style)}.",
        )
    if not config.keep_proportions:
        differences.append(
            "A session never enlarges a small or flat object, and zoomed out shrinks all axes alike; these weights "
            "were trained with a zoom for each axis."
        )
    if session_patch(config) != config.patch:
        own, larger = ("×".join(map(str, patch)) for patch in (config.patch, session_patch(config)))
        differences.append(
            f"A session needs a patch of at least {SESSION_PATCH}: it sees {larger} voxels at a time, these weights "
            f"were trained with {own}."
        )
    return differences


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
