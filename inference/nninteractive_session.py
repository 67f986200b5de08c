"""``inference_info.json``: what an inference session of the ``nninteractive`` package is told of weights.

The network is the same; how a session draws prompts is its own affair, and what of that differs from here stands in the
file under ``differences``.
"""

from __future__ import annotations

import math
from dataclasses import asdict

from inference.checkpoint import ModelConfig
from inference.geometry import Voxel, three
from inference.network import IMAGE_AND_PROMPT_CHANNELS
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

SESSION_PATCH = 80
"""Voxels, at least. A session covers a large object with patches of which it leaves out 24 voxels on every side: with
patches of 48 it fails, of 64 it needs some ten times as many as of 80, of 96 hardly fewer. And since it never zooms in,
the larger the patch, the smaller a small object is to weights that were trained with 48."""


def session_patch(config: ModelConfig) -> Voxel:
    """The patch that a session runs the network with: the weights' own, or a larger one where that is too small."""
    stride = config.network.stride
    return three(math.ceil(max(p, SESSION_PATCH) / stride) * stride for p in config.patch)


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
            "keep_proportions": config.isotropic_zoom,
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
    if not config.isotropic_zoom:
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
