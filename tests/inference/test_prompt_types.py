"""What every type of prompt must keep to. A new type needs an example here, and what it says of itself is tested."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.case import Click, ObjectPrompts, read_case
from inference.fallback import fallback
from inference.fusion import enforce_prompts
from inference.geometry import Box
from inference.placement import allowed_region, window_for
from inference.prompt_types import PROMPT_TYPES, PromptType
from inference.prompts import IMAGE, PAPER_STYLE, PREVIOUS, encode

SHAPE, PATCH = (40, 50, 60), (16, 16, 16)
EXAMPLES: dict[str, Any] = {
    "box": Box((3, 10, 20), (8, 15, 40)),
    "clicks": (Click((30, 45, 5), True), Click((5, 5, 55), False), Click((2, 40, 50), True)),
}
"""Field of :class:`ObjectPrompts` -> something for it, in an image of :data:`SHAPE`."""

each_type = pytest.mark.parametrize("kind", PROMPT_TYPES, ids=lambda kind: kind.field)


def example(kind: PromptType, **others: Any) -> ObjectPrompts:
    return ObjectPrompts(1, **{kind.field: EXAMPLES[kind.field], **others})


def test_every_field_has_a_type_and_an_example() -> None:
    assert ["label", *(kind.field for kind in PROMPT_TYPES)] == [each.name for each in fields(ObjectPrompts)]
    assert EXAMPLES.keys() == {kind.field for kind in PROMPT_TYPES}


@each_type
def test_what_is_written_is_read(kind: PromptType, tmp_path: Path) -> None:
    objects = (example(kind), replace(example(kind), label=2))
    arrays = kind.arrays(objects)
    assert arrays.keys() == set(kind.keys)
    np.savez(tmp_path / "a.npz", imgs=np.zeros(SHAPE, np.uint8), spacing=np.ones(3), **arrays)
    case = read_case(tmp_path / "a.npz")
    assert case.objects == objects and case.notes == ()


@each_type
@pytest.mark.parametrize("entry", [None, 3, "text", {}, [[]], np.zeros(2), {"fg": [[1, 2]], "bg": 4}])
def test_an_entry_that_makes_no_sense_is_left_aside(kind: PromptType, entry: object, tmp_path: Path) -> None:
    entries = np.empty(1, object)
    entries[0] = entry
    arrays = dict.fromkeys(kind.keys, entries)
    np.savez(tmp_path / "a.npz", imgs=np.zeros(SHAPE, np.uint8), spacing=np.ones(3), **arrays)
    assert read_case(tmp_path / "a.npz").objects == (ObjectPrompts(1),)


@each_type
def test_nothing_said_is_nothing_written(kind: PromptType) -> None:
    assert kind.arrays((ObjectPrompts(1),)) == kind.arrays(()) == {}


@each_type
@pytest.mark.parametrize("box", [None, EXAMPLES["box"]])
def test_it_is_in_the_window_and_drawn_there(kind: PromptType, box: Box | None) -> None:
    prompts = example(kind, **({} if kind.field == "box" else {"box": box}))
    window = window_for(prompts, SHAPE, PATCH, isotropic_zoom=True)
    assert prompts.extents() and all(extent.is_in(window.box) for extent in prompts.extents())
    channels = torch.zeros(8, *PATCH)
    kind.draw(channels, prompts, window, PAPER_STYLE)
    drawn = channels.flatten(1).any(dim=1)
    assert drawn.any() and not drawn[[IMAGE, PREVIOUS]].any()
    encoded = encode(torch.zeros(PATCH), None, prompts, window, PAPER_STYLE)
    assert torch.equal(encoded[drawn], channels[drawn])


@each_type
def test_what_lies_in_the_object_is_allowed_and_obeyed(kind: PromptType) -> None:
    prompts = example(kind, box=EXAMPLES["box"])
    region = allowed_region(prompts, None, SHAPE)
    labels = np.full(SHAPE, 2, np.uint8)
    enforce_prompts(labels, (prompts,))
    for part in prompts.inside():
        assert part.is_in(region) and (labels[part.slices] == 1).all()


@each_type
def test_without_a_network_its_guess_is_taken(kind: PromptType) -> None:
    prompts = example(kind)
    taken = np.zeros(SHAPE, bool)
    for where, log_odds in fallback(prompts, None, None, SHAPE):
        taken[where.slices] = log_odds.numpy() > 0
    assert taken.any() == bool(kind.guess(prompts)) == bool(kind.guessed)
    assert all(taken[part.slices].all() for part in prompts.inside())
