"""Solids: blobs, nested parts, scattered pieces, touching cells."""

from __future__ import annotations

import numpy as np
import torch

from training.noise import smooth_noise
from training.shapes.fields import Scene, Shape, coordinates, log_uniform, profile, scene_of


def blob(shape: Shape, random: np.random.Generator) -> Scene:
    """A solid: an ellipsoid, smooth or rough, or a box with round corners."""
    if random.random() < 0.3:
        (u, v, w), half = coordinates(shape, random)
        power = float(random.uniform(3, 8))
        a, b, c = half * random.uniform(0.25, 0.7, 3)
        field = 1 - (u / a).abs().pow(power) - (v / b).abs().pow(power) - (w / c).abs().pow(power)
    else:
        field = profile(shape, random)
    mask = field > 0
    labels = mask.to(torch.uint8)
    if random.random() < 0.4:  # A neighbour that touches it.
        labels[(profile(shape, random) > 0) & ~mask] = 2
    return scene_of(mask, labels)


def nested(shape: Shape, random: np.random.Generator) -> Scene:
    """A core in a rim in an envelope, irregular: tumour parts, calyces. The object is a part, or the inner parts."""
    field = profile(shape, random, float(random.uniform(0.1, 0.45)))
    field += 0.15 * smooth_noise(shape, int(random.integers(6, 14)), random)
    levels = int(random.integers(2, 4))
    inner = field.clamp_min(0)
    top = float(inner.max())
    cuts = np.sort(random.uniform(0.1, 0.7, levels - 1)) * top
    part = torch.bucketize(field, torch.tensor([0.0, *cuts], dtype=torch.float32)).to(torch.uint8)
    if random.random() < 0.4:  # A part in patches, as enhancement is.
        patches = smooth_noise(shape, int(random.integers(8, 16)), random) > float(random.uniform(0, 0.8))
        part[(part == levels) & ~patches] = levels - 1
    chosen = int(random.integers(1, levels + 1))
    truth = part >= chosen if random.random() < 0.4 else part == chosen
    return Scene(part, truth)


def scatter(shape: Shape, random: np.random.Generator) -> Scene:
    """Many small pieces of one likeness, spread, in groups, or along a surface: lesions, vesicles, calcifications."""
    edge = float(np.mean(shape))
    wanted = int(log_uniform(8, 200, random))
    typical = log_uniform(0.6, 0.07 * edge, random)
    radii = np.clip(typical * np.exp(0.35 * random.standard_normal(wanted)), 0.6, 0.12 * edge)
    chance, middle = random.random(), np.array(shape) / 2
    if chance < 0.4:
        places = middle + (random.random((wanted, 3)) - 0.5) * np.array(shape) * random.uniform(0.5, 0.95, 3)
    elif chance < 0.7:
        groups = random.uniform(0.2, 0.8, (int(random.integers(1, 6)), 3)) * np.array(shape)
        places = groups[random.integers(len(groups), size=wanted)]
        places = places + random.standard_normal((wanted, 3)) * edge * random.uniform(0.06, 0.15)
    else:
        outward = random.standard_normal((wanted, 3)) + random.standard_normal(3) * random.uniform(0, 1.5)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        places = middle + outward * edge / 2 * random.uniform(0.4, 0.85, 3) + random.standard_normal((wanted, 3))
    stretch = np.exp(random.uniform(-0.5, 0.5, 3))
    mask = np.zeros(shape, bool)
    kept: list[int] = []
    for index in range(wanted):  # Pieces stay apart.
        away = np.linalg.norm(places[kept] - places[index], axis=1)
        inside = (places[index] > 0).all() and (places[index] < np.array(shape) - 1).all()
        if inside and (away > (radii[kept] + radii[index]) * stretch.max() + 1.8).all():
            kept.append(index)
    for index in kept:
        _paint_ellipsoid(mask, places[index], radii[index] * stretch)
    return scene_of(torch.from_numpy(mask))


def _paint_ellipsoid(mask: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> None:
    lower = np.maximum(np.floor(centre - radii), 0).astype(int)
    upper = np.minimum(np.ceil(centre + radii) + 1, mask.shape).astype(int)
    grid = np.ogrid[tuple(slice(a, b) for a, b in zip(lower, upper))]
    away = sum(np.square((axis - c) / r) for axis, c, r in zip(grid, centre, radii))
    mask[tuple(slice(a, b) for a, b in zip(lower, upper))] |= away <= 1
    mask[tuple(np.clip(np.rint(centre), 0, np.array(mask.shape) - 1).astype(int))] = True


def cells(shape: Shape, random: np.random.Generator) -> Scene:
    """Cells that touch, a gap or a wall between them. One of them is the object, or those around it too, or all."""
    edge = float(np.mean(shape))
    radius = max(edge * log_uniform(0.09, 0.28, random), 2.5)
    tried = np.array(shape) / 2 + random.uniform(-1, 1, (120, 3)) * random.uniform(0.25, 0.6) * edge
    tried[0] = np.array(shape) / 2 + random.uniform(-0.1, 0.1, 3) * edge
    places = tried[:1]
    for place in tried[1:]:
        if np.square(places - place).sum(axis=1).min() > (1.35 * radius) ** 2:
            places = np.vstack((places, place))
    most = radius * random.uniform(0.85, 1.15)
    # The two nearest centres' distances; cells end where both are about the same, or after ``most``.
    nearest, second = np.full(shape, most, np.float32), np.full(shape, np.inf, np.float32)
    owner = np.zeros(shape, np.uint8)
    wave = smooth_noise(shape, int(random.integers(4, 9)), random).numpy() * np.float32(
        radius * random.uniform(0, 0.12)
    )
    for index, place in enumerate(places, start=1):
        block = tuple(
            slice(max(int(p - 1.2 * most), 0), max(min(int(p + 1.2 * most) + 2, n), 0)) for p, n in zip(place, shape)
        )
        axes = np.ogrid[block]
        scales = np.exp(random.uniform(-0.15, 0.15, 3))
        squares = [np.square((axis - p) * s).astype(np.float32) for axis, p, s in zip(axes, place, scales)]
        away = np.sqrt(squares[0] + squares[1] + squares[2])
        away = away + wave[block] if index % 2 else away - wave[block]
        before, mine = nearest[block], away < nearest[block]
        owned = owner[block]
        second[block] = np.where(mine, np.where(owned > 0, before, second[block]), np.minimum(second[block], away))
        nearest[block] = np.where(mine, away, before)
        owned[mine] = index
    gap = second - nearest < float(random.uniform(0.8, 2.5))
    wall = torch.from_numpy(gap & (owner > 0))
    owner[gap] = 0
    counts = np.bincount(owner.ravel(), minlength=2)
    counts[0] = 0
    chance, middle = random.random(), 1 if counts[1] else int(counts.argmax())
    if chance < 0.6:
        truth = owner == middle
    elif chance < 0.8:
        order = np.linalg.norm(places - places[0], axis=1).argsort()[: int(random.integers(2, 6))] + 1
        truth = np.isin(owner, order)
    else:
        truth = owner > 0
    alike = random.random() < 0.7
    labels = torch.from_numpy(
        (owner > 0).astype(np.uint8) if alike else np.where(owner > 0, owner % 5 + 1, 0).astype(np.uint8)
    )
    if random.random() < 0.5:
        labels[wall] = 7
    return Scene(labels, torch.from_numpy(truth))
